#include "proto/codec.h"
#include "engine/base/heap.h"
#include "proto/check.h"
#include <assert.h>
#include <msgpack.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* How a field of the head travels. */
enum form {
    FORM_KIND,   /* text, one of the kinds */
    FORM_FAULT,  /* text */
    FORM_CODE,   /* integer: enum status_code */
    FORM_U32,    /* integer */
    FORM_I64,    /* integer */
    FORM_U64,    /* integer */
    FORM_BOOL,   /* boolean */
    FORM_NAME,   /* text, printable ASCII without blanks; `max` bytes of room */
    FORM_TEXT,   /* text; `max` bytes of room */
    FORM_RID,    /* 16 bytes */
    FORM_RIDS,   /* array of 16 bytes each */
    FORM_FIELDS, /* map */
    FORM_BLOBS   /* array of [name, type, dims] */
};

struct row {
    const char *key;
    enum form form;
    size_t offset;     /* in struct head */
    uint64_t min, max; /* of integers; of texts: room, the ending zero included */
};

#define BIT(field) (1U << FIELD_##field)
enum field {
    FIELD_KIND,
    FIELD_RID,
    FIELD_EPOCH,
    FIELD_SEQ,
    FIELD_LAST,
    FIELD_INDEX,
    FIELD_UPTO,
    FIELD_SKIP,
    FIELD_MS_LEFT,
    FIELD_CODE,
    FIELD_FAULT,
    FIELD_TEXT,
    FIELD_WIRE_MIN,
    FIELD_WIRE_MAX,
    FIELD_STAGE,
    FIELD_SEAT,
    FIELD_START,
    FIELD_MODEL,
    FIELD_NUMERICS,
    FIELD_SLOTS,
    FIELD_N,
    FIELD_INTERVAL_MS,
    FIELD_WORK,
    FIELD_HELD,
    FIELD_MEMORY_BYTES,
    FIELD_RUNNING,
    FIELD_FIELDS,
    FIELD_BLOBS,
    FIELDS
};

/* In the order in which they are written. */
#define ROW(field, form, min, max)                                                                 \
    {                                                                                              \
#field, FORM_##form, offsetof(struct head, field), min, max                                \
    }
static const struct row rows[FIELDS] = {
    ROW(kind, KIND, 0, 0),
    ROW(rid, RID, 0, 0),
    ROW(epoch, U32, 0, UINT32_MAX),
    ROW(seq, U32, 0, UINT32_MAX),
    ROW(last, BOOL, 0, 0),
    ROW(index, U32, 0, INT32_MAX),
    ROW(upto, U32, 0, INT32_MAX),
    ROW(skip, U32, 0, INT32_MAX),
    ROW(ms_left, I64, 0, INT64_MAX / 2000), /* so that microseconds do not overflow */
    ROW(code, CODE, 1, STATUS_CODES - 1),
    ROW(fault, FAULT, 0, 0),
    ROW(text, TEXT, 0, sizeof((struct head *)0)->text),
    ROW(wire_min, U32, 1, 65535),
    ROW(wire_max, U32, 1, 65535),
    ROW(stage, NAME, 0, STAGE_NAME_MAX),
    ROW(seat, NAME, 0, SEAT_MAX),
    ROW(start, U64, 0, UINT64_MAX),
    ROW(model, U64, 0, UINT64_MAX),
    ROW(numerics, TEXT, 0, NUMERICS_MAX),
    ROW(slots, U32, 0, SLOTS_MAX),
    ROW(n, U32, 1, SLOTS_MAX),
    ROW(interval_ms, U32, 10, 60000),
    ROW(work, U64, 0, UINT64_MAX),
    ROW(held, U32, 0, SLOTS_MAX),
    ROW(memory_bytes, U64, 0, UINT64_MAX),
    ROW(running, RIDS, 0, BEAT_RIDS_MAX),
    ROW(fields, FIELDS, 0, 0),
    ROW(blobs, BLOBS, 0, BLOBS_MAX),
};

/* Which fields a kind must have, and which it may have. */
#define JOB_BITS (BIT(RID) | BIT(EPOCH))
static const struct {
    uint32_t must, may;
} kinds[MSG_KINDS] = {
    [MSG_HELLO] = {BIT(WIRE_MIN) | BIT(WIRE_MAX) | BIT(STAGE) | BIT(SEAT) | BIT(START) | BIT(SLOTS),
                   BIT(MODEL) | BIT(NUMERICS)},
    [MSG_WELCOME] = {BIT(INTERVAL_MS), 0},
    [MSG_REFUSE] = {BIT(CODE) | BIT(TEXT), 0},
    [MSG_CREDIT] = {BIT(N), 0},
    [MSG_JOB] = {JOB_BITS | BIT(MS_LEFT), BIT(SKIP) | BIT(FIELDS) | BIT(BLOBS)},
    [MSG_MORE_INPUT] = {JOB_BITS | BIT(SEQ), BIT(LAST) | BIT(INDEX) | BIT(FIELDS) | BIT(BLOBS)},
    [MSG_RESULT] = {JOB_BITS | BIT(SEQ),
                    BIT(LAST) | BIT(INDEX) | BIT(UPTO) | BIT(FIELDS) | BIT(BLOBS)},
    [MSG_FAILED] = {JOB_BITS | BIT(CODE) | BIT(FAULT) | BIT(TEXT), 0},
    [MSG_CANCEL] = {JOB_BITS, 0},
    [MSG_BEAT] = {BIT(WORK) | BIT(HELD) | BIT(MEMORY_BYTES), BIT(RUNNING)},
    [MSG_GONE] = {BIT(SEAT) | BIT(START), BIT(CODE) | BIT(TEXT)},
    [MSG_DRAIN] = {0, 0},
    [MSG_BYE] = {0, 0},
};

static const char *const fault_names[] = {
    [FAULT_REQUEST] = "request", [FAULT_CAPACITY] = "capacity", [FAULT_STAGE] = "stage"};
#define FAULTS (sizeof fault_names / sizeof *fault_names)

static const char *const blob_type_names[BLOB_TYPES] = {
    [BLOB_U8] = "u8",     [BLOB_I32] = "i32",   [BLOB_F32] = "f32",
    [BLOB_BF16] = "bf16", [BLOB_JSON] = "json", [BLOB_MSGPACK] = "msgpack",
};

/* ---- writing ---- */

static int write_to_buffer(void *context, const char *data, size_t size)
{
    buffer_append(context, data, size);
    return 0;
}

static msgpack_packer packer_of(struct buffer *out)
{
    msgpack_packer packer;

    msgpack_packer_init(&packer, out, write_to_buffer);
    return packer;
}

static void put_text(msgpack_packer *packer, struct span text)
{
    msgpack_pack_str(packer, text.size);
    msgpack_pack_str_body(packer, text.data, text.size);
}

static void put_rid(msgpack_packer *packer, const struct rid *rid)
{
    msgpack_pack_bin(packer, sizeof rid->bytes);
    msgpack_pack_bin_body(packer, rid->bytes, sizeof rid->bytes);
}

static void put_blobs(msgpack_packer *packer, const struct head *head)
{
    assert(head->n_blobs <= BLOBS_MAX);
    msgpack_pack_array(packer, head->n_blobs);
    for (size_t i = 0; i < head->n_blobs; i++) {
        const struct blob_desc *desc = &head->blobs[i];
        assert(desc->n_dims >= 1 && desc->n_dims <= BLOB_DIMS_MAX);
        msgpack_pack_array(packer, 3);
        put_text(packer, span_text(desc->name));
        put_text(packer, span_text(blob_type_names[desc->type]));
        msgpack_pack_array(packer, desc->n_dims);
        for (size_t d = 0; d < desc->n_dims; d++)
            msgpack_pack_uint64(packer, desc->dims[d]);
    }
}

static void put_value(struct buffer *out, const struct head *head, const struct row *row)
{
    const void *at = (const uint8_t *)head + row->offset;
    msgpack_packer packer = packer_of(out);

    switch (row->form) {
    case FORM_KIND:
        put_text(&packer, span_text(msg_kind_name(head->kind)));
        break;
    case FORM_FAULT:
        put_text(&packer, span_text(fault_names[head->fault]));
        break;
    case FORM_CODE:
        msgpack_pack_int(&packer, (int)head->code);
        break;
    case FORM_U32:
        msgpack_pack_uint32(&packer, *(const uint32_t *)at);
        break;
    case FORM_I64: { /* ms_left: a deadline that is over by now is over, by however much */
        int64_t value = *(const int64_t *)at;
        msgpack_pack_int64(&packer, value < 0 ? 0 : value);
        break;
    }
    case FORM_U64:
        msgpack_pack_uint64(&packer, *(const uint64_t *)at);
        break;
    case FORM_BOOL:
        if (*(const bool *)at)
            msgpack_pack_true(&packer);
        else
            msgpack_pack_false(&packer);
        break;
    case FORM_NAME:
        put_text(&packer, span_text(at));
        break;
    case FORM_TEXT: { /* a text that was cut to its room may end inside a character */
        size_t size = strlen(at);
        put_text(&packer, span_of(at, utf8_valid_prefix(at, size)));
        break;
    }
    case FORM_RID:
        put_rid(&packer, at);
        break;
    case FORM_RIDS:
        msgpack_pack_array(&packer, head->n_running);
        for (size_t i = 0; i < head->n_running; i++)
            put_rid(&packer, &head->running[i]);
        break;
    case FORM_FIELDS:
        buffer_append(out, head->fields.data, head->fields.size);
        break;
    case FORM_BLOBS:
        put_blobs(&packer, head);
        break;
    }
}

/* Whether a field that may be missing has something to say. */
static bool is_set(const struct head *head, const struct row *row)
{
    const void *at = (const uint8_t *)head + row->offset;

    switch (row->form) {
    case FORM_CODE:
        return head->code != STATUS_OK;
    case FORM_U32:
        return *(const uint32_t *)at != 0;
    case FORM_U64:
        return *(const uint64_t *)at != 0;
    case FORM_BOOL:
        return *(const bool *)at;
    case FORM_TEXT:
        return *(const char *)at != 0;
    case FORM_RIDS:
        return head->n_running > 0;
    case FORM_FIELDS:
        return head->fields.size > 0;
    case FORM_BLOBS:
        return head->n_blobs > 0;
    default:
        return true;
    }
}

void head_pack(const struct head *head, struct buffer *out)
{
    uint32_t wanted = BIT(KIND) | kinds[head->kind].must;
    size_t n = 0;

    assert(head->kind < MSG_KINDS);
    for (size_t f = 0; f < FIELDS; f++)
        if (kinds[head->kind].may >> f & 1 && is_set(head, &rows[f]))
            wanted |= 1U << f;
    for (size_t f = 0; f < FIELDS; f++)
        n += wanted >> f & 1;
    msgpack_packer packer = packer_of(out);
    msgpack_pack_map(&packer, n);
    for (size_t f = 0; f < FIELDS; f++) {
        if (!(wanted >> f & 1))
            continue;
        put_text(&packer, span_text(rows[f].key));
        put_value(out, head, &rows[f]);
    }
}

/* ---- reading ---- */

/* Reads checked bytes one value at a time. Texts stay where they are; containers take memory in the
 * zone, bounded by the nodes that check_msgpack let pass. */
struct reader {
    struct span bytes;
    size_t at;
    msgpack_zone zone;
};

static void reader_init(struct reader *reader, struct span bytes)
{
    reader->bytes = bytes;
    reader->at = 0;
    bool ok = msgpack_zone_init(&reader->zone, 4096);
    assert(ok); /* a machine without memory; heap.c ends there too */
}

static void reader_clear(struct reader *reader)
{
    msgpack_zone_destroy(&reader->zone);
}

static msgpack_object read_value(struct reader *reader)
{
    msgpack_object value;
    msgpack_unpack_return how = msgpack_unpack((const char *)reader->bytes.data, reader->bytes.size,
                                               &reader->at, &reader->zone, &value);

    assert(how == MSGPACK_UNPACK_SUCCESS || how == MSGPACK_UNPACK_EXTRA_BYTES);
    return value;
}

/* The header of a map or array, which msgpack-c can only read together with what it holds; `small`,
 * `two` are its leading bytes. False when something else is there. */
static bool read_count(struct reader *reader, uint8_t small, uint8_t two, size_t *out)
{
    const uint8_t *data = reader->bytes.data + reader->at;

    if (reader->at == reader->bytes.size)
        return false;
    size_t follow = data[0] == two ? 2 : data[0] == two + 1 ? 4 : 0;
    if (follow == 0 && (data[0] & 0xf0) != small)
        return false;
    size_t count = follow ? 0 : data[0] & 15U;
    for (size_t i = 1; i <= follow; i++)
        count = count << 8 | data[i];
    reader->at += 1 + follow;
    *out = count;
    return true;
}

static bool read_map(struct reader *reader, size_t *out)
{
    return read_count(reader, 0x80, 0xde, out);
}

static bool read_array(struct reader *reader, size_t *out)
{
    return read_count(reader, 0x90, 0xdc, out);
}

static struct span text_of(const msgpack_object *value)
{
    return span_of(value->via.str.ptr, value->via.str.size);
}

static bool is_text(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_STR;
}

/* Index of a text in a table of names, or n. */
static size_t find_name(struct span text, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (span_is(text, names[i]))
            return i;
    return n;
}

static bool take_text(char *out, const msgpack_object *value, const struct row *row,
                      struct status *st)
{
    if (!is_text(value))
        return status_fail(st, STATUS_INVALID, "not a text");
    struct span text = text_of(value);
    if (text.size >= row->max)
        return status_fail(st, STATUS_LIMIT, "%zu bytes, allowed are %d", text.size,
                           (int)row->max - 1);
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c == 0 || (row->form == FORM_NAME && (c <= ' ' || c >= 0x7f)))
            return status_fail(st, STATUS_INVALID, "character 0x%02x is not allowed", c);
    }
    if (row->form == FORM_NAME && text.size == 0)
        return status_fail(st, STATUS_INVALID, "empty");
    memcpy(out, text.data, text.size);
    out[text.size] = 0;
    return true;
}

static bool take_int(uint64_t *out, const msgpack_object *value, const struct row *row,
                     struct status *st)
{
    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return status_fail(st, STATUS_INVALID, "%lld is below %llu", (long long)value->via.i64,
                           (unsigned long long)row->min);
    if (value->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return status_fail(st, STATUS_INVALID, "not an integer");
    uint64_t number = value->via.u64;
    if (number < row->min || number > row->max)
        return status_fail(st, STATUS_INVALID, "%llu is outside %llu to %llu",
                           (unsigned long long)number, (unsigned long long)row->min,
                           (unsigned long long)row->max);
    *out = number;
    return true;
}

static bool take_rid(struct rid *out, const msgpack_object *value, struct status *st)
{
    if (value->type != MSGPACK_OBJECT_BIN || value->via.bin.size != sizeof out->bytes)
        return status_fail(st, STATUS_INVALID, "not %zu bytes", sizeof out->bytes);
    memcpy(out->bytes, value->via.bin.ptr, sizeof out->bytes);
    return true;
}

static bool take_rids(struct head *out, const msgpack_object *value, struct status *st)
{
    if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size > BEAT_RIDS_MAX)
        return status_fail(st, STATUS_INVALID, "not an array of at most %d", BEAT_RIDS_MAX);
    for (size_t i = 0; i < value->via.array.size; i++)
        if (!take_rid(&out->running[i], &value->via.array.ptr[i], st))
            return status_wrap(st, "item %zu", i);
    out->n_running = value->via.array.size;
    return true;
}

/* Dims such that their product times the element size is at most a message. */
static bool take_dims(struct blob_desc *out, const msgpack_object *value, struct status *st)
{
    uint64_t size = blob_type_size(out->type);

    if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size < 1 ||
        value->via.array.size > BLOB_DIMS_MAX)
        return status_fail(st, STATUS_INVALID, "dims: not an array of 1 to %d", BLOB_DIMS_MAX);
    out->n_dims = value->via.array.size;
    if ((out->type == BLOB_JSON || out->type == BLOB_MSGPACK) && out->n_dims != 1)
        return status_fail(st, STATUS_INVALID, "dims: one for %s", blob_type_names[out->type]);
    for (size_t i = 0; i < out->n_dims; i++) {
        const msgpack_object *dim = &value->via.array.ptr[i];
        if (dim->type != MSGPACK_OBJECT_POSITIVE_INTEGER || dim->via.u64 > MESSAGE_BYTES_MAX)
            return status_fail(st, STATUS_INVALID, "dims: not numbers up to %u", MESSAGE_BYTES_MAX);
        out->dims[i] = (size_t)dim->via.u64;
        size *= dim->via.u64; /* both factors are at most 2^28: no overflow */
        if (size > MESSAGE_BYTES_MAX)
            return status_fail(st, STATUS_LIMIT, "dims: more than %u bytes", MESSAGE_BYTES_MAX);
    }
    return true;
}

static bool take_blob(struct blob_desc *out, const msgpack_object *value, struct status *st)
{
    static const struct row name_row = {.form = FORM_NAME, .max = BLOB_NAME_MAX};

    if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size != 3)
        return status_fail(st, STATUS_INVALID, "not [name, type, dims]");
    const msgpack_object *parts = value->via.array.ptr;
    if (!take_text(out->name, &parts[0], &name_row, st))
        return status_wrap(st, "name");
    size_t type = is_text(&parts[1]) ? find_name(text_of(&parts[1]), blob_type_names, BLOB_TYPES)
                                     : BLOB_TYPES;
    if (type == BLOB_TYPES)
        return status_fail(st, STATUS_UNSUPPORTED, "unknown type");
    out->type = (enum blob_type)type;
    return take_dims(out, &parts[2], st);
}

static bool take_blobs(struct head *out, const msgpack_object *value, struct status *st)
{
    if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size > BLOBS_MAX)
        return status_fail(st, STATUS_LIMIT, "not an array of at most %d", BLOBS_MAX);
    for (size_t i = 0; i < value->via.array.size; i++)
        if (!take_blob(&out->blobs[i], &value->via.array.ptr[i], st))
            return status_wrap(st, "blob %zu", i);
    out->n_blobs = value->via.array.size;
    return true;
}

static bool take_kind(struct head *out, const msgpack_object *value, struct status *st)
{
    for (int kind = 0; is_text(value) && kind < MSG_KINDS; kind++)
        if (span_is(text_of(value), msg_kind_name((enum msg_kind)kind))) {
            out->kind = (enum msg_kind)kind;
            return true;
        }
    return status_fail(st, STATUS_UNSUPPORTED, "unknown");
}

static bool take_fault(struct head *out, const msgpack_object *value, struct status *st)
{
    size_t fault = is_text(value) ? find_name(text_of(value), fault_names, FAULTS) : FAULTS;

    if (fault == FAULTS)
        return status_fail(st, STATUS_UNSUPPORTED, "unknown");
    out->fault = (enum fault)fault;
    return true;
}

/* `raw` are the value's bytes in the frame. */
static bool take_value(struct head *out, const struct row *row, const msgpack_object *value,
                       struct span raw, struct status *st)
{
    void *at = (uint8_t *)out + row->offset;
    uint64_t number = 0;

    switch (row->form) {
    case FORM_KIND:
        return take_kind(out, value, st);
    case FORM_FAULT:
        return take_fault(out, value, st);
    case FORM_RID:
        return take_rid(at, value, st);
    case FORM_RIDS:
        return take_rids(out, value, st);
    case FORM_BLOBS:
        return take_blobs(out, value, st);
    case FORM_NAME:
    case FORM_TEXT:
        return take_text(at, value, row, st);
    case FORM_BOOL:
        if (value->type != MSGPACK_OBJECT_BOOLEAN)
            return status_fail(st, STATUS_INVALID, "not a boolean");
        *(bool *)at = value->via.boolean;
        return true;
    case FORM_FIELDS:
        if (value->type != MSGPACK_OBJECT_MAP)
            return status_fail(st, STATUS_INVALID, "not a map");
        out->fields = raw;
        return true;
    case FORM_CODE:
    case FORM_U32:
    case FORM_I64:
    case FORM_U64:
        if (!take_int(&number, value, row, st))
            return false;
        break;
    }
    if (row->form == FORM_CODE)
        out->code = (enum status_code)number;
    else if (row->form == FORM_U32)
        *(uint32_t *)at = (uint32_t)number;
    else if (row->form == FORM_I64)
        *(int64_t *)at = (int64_t)number;
    else
        *(uint64_t *)at = number;
    return true;
}

/* The fields of a kind: all that it must have, none that it may not. */
static bool check_presence(const struct head *head, uint32_t seen, struct status *st)
{
    uint32_t must = BIT(KIND) | kinds[head->kind].must;
    uint32_t may = must | kinds[head->kind].may;

    for (size_t f = 0; f < FIELDS; f++) {
        uint32_t bit = 1U << f;
        if (must & bit && !(seen & bit))
            return status_fail(st, STATUS_INVALID, "'%s' is missing", rows[f].key);
        if (seen & bit && !(may & bit))
            return status_fail(st, STATUS_INVALID, "'%s' does not belong there", rows[f].key);
    }
    if (head->kind == MSG_HELLO && head->wire_min > head->wire_max)
        return status_fail(st, STATUS_INVALID, "wire_min is above wire_max");
    return true;
}

static bool read_head(struct head *out, struct reader *reader, struct status *st)
{
    uint32_t seen = 0;
    size_t n;

    if (!read_map(reader, &n))
        return status_fail(st, STATUS_INVALID, "not a map");
    for (size_t i = 0; i < n; i++) {
        msgpack_object key_value = read_value(reader);
        struct span key = text_of(&key_value); /* check_msgpack saw that it is a text */
        size_t f = 0;
        while (f < FIELDS && !span_is(key, rows[f].key))
            f++;
        if (f == FIELDS)
            return status_fail(st, STATUS_INVALID, "unknown key '%.*s'", (int)key.size,
                               (const char *)key.data);
        size_t begin = reader->at;
        msgpack_object value = read_value(reader);
        struct span raw = span_of(reader->bytes.data + begin, reader->at - begin);
        if (!take_value(out, &rows[f], &value, raw, st))
            return status_wrap(st, "%s", rows[f].key);
        seen |= 1U << f;
    }
    if (!(seen & BIT(KIND)))
        return status_fail(st, STATUS_INVALID, "'kind' is missing");
    if (!check_presence(out, seen, st))
        return status_wrap(st, "%s", msg_kind_name(out->kind));
    return true;
}

bool head_unpack(struct head *out, struct span frame, struct status *st)
{
    struct reader reader;
    struct head head = {0};

    if (frame.size > HEAD_BYTES_MAX)
        return status_fail(st, STATUS_LIMIT, "head: %zu bytes, allowed are %d", frame.size,
                           HEAD_BYTES_MAX);
    if (!check_msgpack(frame, CHECK_NODES_MAX, st))
        return status_wrap(st, "head");
    reader_init(&reader, frame);
    bool ok = read_head(&head, &reader, st);
    reader_clear(&reader);
    if (!ok)
        return status_wrap(st, "head");
    *out = head;
    return true;
}

/* ---- the stage's own values ---- */

static msgpack_packer add_entry(struct fields_writer *w, const char *key)
{
    msgpack_packer packer = packer_of(&w->body);

    put_text(&packer, span_text(key));
    w->n++;
    return packer;
}

void fields_int(struct fields_writer *w, const char *key, int64_t value)
{
    msgpack_packer packer = add_entry(w, key);

    msgpack_pack_int64(&packer, value);
}

void fields_float(struct fields_writer *w, const char *key, double value)
{
    msgpack_packer packer = add_entry(w, key);

    msgpack_pack_double(&packer, value);
}

void fields_bool(struct fields_writer *w, const char *key, bool value)
{
    msgpack_packer packer = add_entry(w, key);

    if (value)
        msgpack_pack_true(&packer);
    else
        msgpack_pack_false(&packer);
}

void fields_text(struct fields_writer *w, const char *key, struct span value)
{
    msgpack_packer packer = add_entry(w, key);

    put_text(&packer, value);
}

void fields_texts(struct fields_writer *w, const char *key, const struct span *values, size_t n)
{
    msgpack_packer packer = add_entry(w, key);

    msgpack_pack_array(&packer, n);
    for (size_t i = 0; i < n; i++)
        put_text(&packer, values[i]);
}

void fields_finish(struct fields_writer *w, struct buffer *out)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_map(&packer, w->n);
    buffer_append(out, w->body.data, w->body.size);
    buffer_clear(&w->body);
    w->n = 0;
}

/* The value of a key in a checked map; its containers live until reader_clear. */
static bool find_field(struct reader *reader, struct span fields, const char *key,
                       msgpack_object *out)
{
    size_t n = 0;

    reader_init(reader, fields);
    if (fields.size == 0 || !read_map(reader, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        msgpack_object name = read_value(reader);
        *out = read_value(reader);
        if (span_is(text_of(&name), key))
            return true;
    }
    return false;
}

bool field_int(struct span fields, const char *key, int64_t *out)
{
    struct reader reader;
    msgpack_object value;
    bool ok = find_field(&reader, fields, key, &value);

    if (ok && value.type == MSGPACK_OBJECT_POSITIVE_INTEGER && value.via.u64 <= INT64_MAX)
        *out = (int64_t)value.via.u64;
    else if (ok && value.type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        *out = value.via.i64;
    else
        ok = false;
    reader_clear(&reader);
    return ok;
}

bool field_float(struct span fields, const char *key, double *out)
{
    struct reader reader;
    msgpack_object value;
    bool ok = find_field(&reader, fields, key, &value);

    if (ok && (value.type == MSGPACK_OBJECT_FLOAT64 || value.type == MSGPACK_OBJECT_FLOAT32))
        *out = value.via.f64;
    else if (ok && value.type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        *out = (double)value.via.u64;
    else if (ok && value.type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        *out = (double)value.via.i64;
    else
        ok = false;
    reader_clear(&reader);
    return ok;
}

bool field_bool(struct span fields, const char *key, bool *out)
{
    struct reader reader;
    msgpack_object value;
    bool ok = find_field(&reader, fields, key, &value) && value.type == MSGPACK_OBJECT_BOOLEAN;

    if (ok)
        *out = value.via.boolean;
    reader_clear(&reader);
    return ok;
}

bool field_text(struct span fields, const char *key, struct span *out)
{
    struct reader reader;
    msgpack_object value;
    bool ok = find_field(&reader, fields, key, &value) && is_text(&value);

    if (ok)
        *out = text_of(&value);
    reader_clear(&reader);
    return ok;
}

size_t field_texts(struct span fields, const char *key, struct span *out, size_t max)
{
    struct reader reader;
    msgpack_object value;
    size_t n = 0;

    if (find_field(&reader, fields, key, &value) && value.type == MSGPACK_OBJECT_ARRAY)
        for (size_t i = 0; i < value.via.array.size; i++) {
            if (!is_text(&value.via.array.ptr[i]))
                continue;
            if (n < max)
                out[n] = text_of(&value.via.array.ptr[i]);
            n++;
        }
    reader_clear(&reader);
    return n;
}

/* ---- the turns of a chat ---- */

/* role, list, parts, calls, three texts with their keys; parts of 3 nodes, calls of 4. */
#define TURNS_NODES_MAX (TURNS_MESSAGES_MAX * 16 + TURNS_PARTS_MAX * 7)

static const char *const role_names[] = {[TURN_SYSTEM] = "system",
                                         [TURN_USER] = "user",
                                         [TURN_ASSISTANT] = "assistant",
                                         [TURN_TOOL] = "tool"};
#define ROLES (sizeof role_names / sizeof *role_names)

static const char *const part_names[] = {
    [TURN_TEXT] = "text", [TURN_IMAGE] = "image", [TURN_VIDEO] = "video", [TURN_AUDIO] = "audio"};
#define PART_KINDS (sizeof part_names / sizeof *part_names)

static void put_turn(msgpack_packer *packer, const struct turn *turn)
{
    const struct {
        const char *key;
        struct span text;
    } texts[] = {
        {"reasoning", turn->reasoning}, {"tool_call_id", turn->tool_call_id}, {"name", turn->name}};
    size_t n = 3 + (turn->n_calls > 0);

    for (size_t i = 0; i < 3; i++)
        n += texts[i].text.data != NULL;
    msgpack_pack_map(packer, n);
    put_text(packer, span_text("role"));
    put_text(packer, span_text(role_names[turn->role]));
    put_text(packer, span_text("list"));
    if (turn->is_list)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
    put_text(packer, span_text("parts"));
    msgpack_pack_array(packer, turn->n_parts);
    for (size_t i = 0; i < turn->n_parts; i++) {
        bool is_words = turn->parts[i].kind == TURN_TEXT;
        msgpack_pack_array(packer, is_words ? 2 : 1);
        put_text(packer, span_text(part_names[turn->parts[i].kind]));
        if (is_words)
            put_text(packer, turn->parts[i].text);
    }
    if (turn->n_calls > 0) {
        put_text(packer, span_text("calls"));
        msgpack_pack_array(packer, turn->n_calls);
    }
    for (size_t i = 0; i < turn->n_calls; i++) {
        msgpack_pack_array(packer, 3);
        put_text(packer, turn->calls[i].id);
        put_text(packer, turn->calls[i].name);
        put_text(packer, turn->calls[i].arguments);
    }
    for (size_t i = 0; i < 3; i++) {
        if (!texts[i].text.data)
            continue;
        put_text(packer, span_text(texts[i].key));
        put_text(packer, texts[i].text);
    }
}

void turns_pack(const struct turns *turns, struct buffer *out)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_array(&packer, turns->n);
    for (size_t i = 0; i < turns->n; i++)
        put_turn(&packer, &turns->items[i]);
}

static bool take_part(struct turn_part *out, const msgpack_object *value, struct status *st)
{
    const msgpack_object *items = value->via.array.ptr;
    size_t n = value->type == MSGPACK_OBJECT_ARRAY ? value->via.array.size : 0;

    if (n < 1 || n > 2 || !is_text(&items[0]))
        return status_fail(st, STATUS_INVALID, "not [kind] or [kind, text]");
    size_t kind = find_name(text_of(&items[0]), part_names, PART_KINDS);
    if (kind == PART_KINDS)
        return status_fail(st, STATUS_UNSUPPORTED, "unknown kind");
    if (n != (kind == TURN_TEXT ? 2U : 1U) || (n == 2 && !is_text(&items[1])))
        return status_fail(st, STATUS_INVALID, "a text belongs to kind text, and only there");
    out->kind = (enum turn_part_kind)kind;
    if (n == 2)
        out->text = text_of(&items[1]);
    return true;
}

static bool take_call(struct turn_call *out, const msgpack_object *value, struct status *st)
{
    const msgpack_object *items = value->via.array.ptr;

    if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size != 3 || !is_text(&items[0]) ||
        !is_text(&items[1]) || !is_text(&items[2]))
        return status_fail(st, STATUS_INVALID, "not three texts");
    out->id = text_of(&items[0]);
    out->name = text_of(&items[1]);
    out->arguments = text_of(&items[2]);
    return true;
}

/* Parts and calls together count against TURNS_PARTS_MAX: *left. */
static bool take_items(struct turn *out, bool calls, const msgpack_object *value, size_t *left,
                       struct status *st)
{
    if (value->type != MSGPACK_OBJECT_ARRAY)
        return status_fail(st, STATUS_INVALID, "not an array");
    size_t n = value->via.array.size;
    if (n > *left)
        return status_fail(st, STATUS_LIMIT, "more than %d parts and calls", TURNS_PARTS_MAX);
    *left -= n;
    if (calls) {
        out->calls = heap_array(struct turn_call, n);
        out->n_calls = n;
    } else {
        out->parts = heap_array(struct turn_part, n);
        out->n_parts = n;
    }
    for (size_t i = 0; i < n; i++) {
        const msgpack_object *item = &value->via.array.ptr[i];
        if (!(calls ? take_call(&out->calls[i], item, st) : take_part(&out->parts[i], item, st)))
            return status_wrap(st, "item %zu", i);
    }
    return true;
}

static bool take_turn_entry(struct turn *out, struct span key, const msgpack_object *value,
                            size_t *left, struct status *st)
{
    struct span *text = NULL;

    if (span_is(key, "role")) {
        size_t role = is_text(value) ? find_name(text_of(value), role_names, ROLES) : ROLES;
        if (role == ROLES)
            return status_fail(st, STATUS_UNSUPPORTED, "unknown");
        out->role = (enum turn_role)role;
        return true;
    }
    if (span_is(key, "list")) {
        if (value->type != MSGPACK_OBJECT_BOOLEAN)
            return status_fail(st, STATUS_INVALID, "not a boolean");
        out->is_list = value->via.boolean;
        return true;
    }
    if (span_is(key, "parts") || span_is(key, "calls"))
        return take_items(out, key.data[0] == 'c', value, left, st);
    if (span_is(key, "reasoning"))
        text = &out->reasoning;
    else if (span_is(key, "tool_call_id"))
        text = &out->tool_call_id;
    else if (span_is(key, "name"))
        text = &out->name;
    else
        return status_fail(st, STATUS_INVALID, "unknown key");
    if (!is_text(value))
        return status_fail(st, STATUS_INVALID, "not a text");
    *text = text_of(value);
    return true;
}

static bool read_turn(struct turn *out, struct reader *reader, size_t *left, struct status *st)
{
    bool has_role = false;
    size_t n;

    if (!read_map(reader, &n))
        return status_fail(st, STATUS_INVALID, "not a map");
    for (size_t i = 0; i < n; i++) {
        msgpack_object name = read_value(reader);
        msgpack_object value = read_value(reader);
        struct span key = text_of(&name);
        if (!take_turn_entry(out, key, &value, left, st))
            return status_wrap(st, "%.*s", (int)key.size, (const char *)key.data);
        has_role = has_role || span_is(key, "role");
    }
    if (!has_role)
        return status_fail(st, STATUS_INVALID, "'role' is missing");
    return true;
}

bool turns_unpack(struct turns *out, struct span bytes, struct status *st)
{
    struct turns turns = {0};
    struct reader reader;
    size_t left = TURNS_PARTS_MAX;
    size_t n = 0;

    if (!check_msgpack(bytes, TURNS_NODES_MAX, st))
        return status_wrap(st, "turns");
    reader_init(&reader, bytes);
    if (!read_array(&reader, &n) || n > TURNS_MESSAGES_MAX) {
        (void)status_fail(st, STATUS_LIMIT, "not an array of at most %d", TURNS_MESSAGES_MAX);
        goto fail;
    }
    turns.items = heap_array(struct turn, n);
    turns.n = n;
    for (size_t i = 0; i < n; i++) {
        if (!read_turn(&turns.items[i], &reader, &left, st)) {
            (void)status_wrap(st, "message %zu", i);
            goto fail;
        }
        msgpack_zone_clear(&reader.zone); /* the texts stay in `bytes` */
    }
    reader_clear(&reader);
    *out = turns;
    return true;
fail:
    reader_clear(&reader);
    turns_clear(&turns);
    return status_wrap(st, "turns");
}

void turns_clear(struct turns *turns)
{
    for (size_t i = 0; i < turns->n; i++) {
        heap_free(turns->items[i].parts);
        heap_free(turns->items[i].calls);
    }
    heap_free(turns->items);
    *turns = (struct turns){0};
}
