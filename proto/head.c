#include "proto/check.h"
#include "proto/codec.h"
#include "proto/values.h"
#include <assert.h>
#include <stddef.h>
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
    FIELD_TENANT,
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
    ROW(tenant, U64, 0, UINT64_MAX),
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
    [MSG_JOB] = {JOB_BITS | BIT(MS_LEFT), BIT(SKIP) | BIT(TENANT) | BIT(FIELDS) | BIT(BLOBS)},
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

static void put_rid(struct buffer *out, const struct rid *rid)
{
    value_put_bytes(out, rid->bytes, sizeof rid->bytes);
}

static void put_blobs(struct buffer *out, const struct head *head)
{
    assert(head->n_blobs <= BLOBS_MAX);
    value_put_array(out, head->n_blobs);
    for (size_t i = 0; i < head->n_blobs; i++) {
        const struct blob_desc *desc = &head->blobs[i];
        assert(desc->n_dims >= 1 && desc->n_dims <= BLOB_DIMS_MAX);
        value_put_array(out, 3);
        value_put_text(out, span_text(desc->name));
        value_put_text(out, span_text(blob_type_names[desc->type]));
        value_put_array(out, desc->n_dims);
        for (size_t d = 0; d < desc->n_dims; d++)
            value_put_uint(out, desc->dims[d]);
    }
}

static void put_value(struct buffer *out, const struct head *head, const struct row *row)
{
    const void *at = (const uint8_t *)head + row->offset;
    switch (row->form) {
    case FORM_KIND:
        value_put_text(out, span_text(msg_kind_name(head->kind)));
        break;
    case FORM_FAULT:
        value_put_text(out, span_text(fault_names[head->fault]));
        break;
    case FORM_CODE:
        value_put_int(out, (int)head->code);
        break;
    case FORM_U32:
        value_put_uint(out, *(const uint32_t *)at);
        break;
    case FORM_I64: { /* ms_left: a deadline that is over by now is over, by however much */
        int64_t value = *(const int64_t *)at;
        value_put_int(out, value < 0 ? 0 : value);
        break;
    }
    case FORM_U64:
        value_put_uint(out, *(const uint64_t *)at);
        break;
    case FORM_BOOL:
        value_put_bool(out, *(const bool *)at);
        break;
    case FORM_NAME:
        value_put_text(out, span_text(at));
        break;
    case FORM_TEXT: { /* a text that was cut to its room may end inside a character */
        size_t size = strlen(at);
        value_put_text(out, span_of(at, utf8_valid_prefix(at, size)));
        break;
    }
    case FORM_RID:
        put_rid(out, at);
        break;
    case FORM_RIDS:
        value_put_array(out, head->n_running);
        for (size_t i = 0; i < head->n_running; i++)
            put_rid(out, &head->running[i]);
        break;
    case FORM_FIELDS:
        buffer_append(out, head->fields.data, head->fields.size);
        break;
    case FORM_BLOBS:
        put_blobs(out, head);
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
    size_t n = 0;

    assert(head->kind < MSG_KINDS);
    uint32_t wanted = BIT(KIND) | kinds[head->kind].must;
    for (size_t f = 0; f < FIELDS; f++)
        if (kinds[head->kind].may >> f & 1 && is_set(head, &rows[f]))
            wanted |= 1U << f;
    for (size_t f = 0; f < FIELDS; f++)
        n += wanted >> f & 1;
    value_put_map(out, n);
    for (size_t f = 0; f < FIELDS; f++) {
        if (!(wanted >> f & 1))
            continue;
        value_put_text(out, span_text(rows[f].key));
        put_value(out, head, &rows[f]);
    }
}

/* ---- reading ---- */

static bool take_text(char *out, const struct value *value, const struct row *row,
                      struct status *st)
{
    if (!value_is_text(value))
        return status_fail(st, STATUS_INVALID, "not a text");
    struct span text = value->bytes;
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
    if (text.size > 0) /* else it may be NULL */
        memcpy(out, text.data, text.size);
    out[text.size] = 0;
    return true;
}

static bool take_int(uint64_t *out, const struct value *value, const struct row *row,
                     struct status *st)
{
    if (value->type == VALUE_NEGATIVE)
        return status_fail(st, STATUS_INVALID, "%lld is below %llu", (long long)value->negative,
                           (unsigned long long)row->min);
    if (value->type != VALUE_UINT)
        return status_fail(st, STATUS_INVALID, "not an integer");
    uint64_t number = value->number;
    if (number < row->min || number > row->max)
        return status_fail(st, STATUS_INVALID, "%llu is outside %llu to %llu",
                           (unsigned long long)number, (unsigned long long)row->min,
                           (unsigned long long)row->max);
    *out = number;
    return true;
}

static bool take_rid(struct rid *out, const struct value *value, struct status *st)
{
    if (value->type != VALUE_BYTES || value->bytes.size != sizeof out->bytes)
        return status_fail(st, STATUS_INVALID, "not %zu bytes", sizeof out->bytes);
    memcpy(out->bytes, value->bytes.data, sizeof out->bytes);
    return true;
}

static bool take_rids(struct head *out, const struct value *value, struct status *st)
{
    if (value->type != VALUE_ARRAY || value->n > BEAT_RIDS_MAX)
        return status_fail(st, STATUS_INVALID, "not an array of at most %d", BEAT_RIDS_MAX);
    for (size_t i = 0; i < value->n; i++) {
        struct value item = value_item(value, i);
        if (!take_rid(&out->running[i], &item, st))
            return status_wrap(st, "item %zu", i);
    }
    out->n_running = value->n;
    return true;
}

/* Dims such that their product times the element size is at most a message. */
static bool take_dims(struct blob_desc *out, const struct value *value, struct status *st)
{
    uint64_t size = blob_type_size(out->type);

    if (value->type != VALUE_ARRAY || value->n < 1 || value->n > BLOB_DIMS_MAX)
        return status_fail(st, STATUS_INVALID, "dims: not an array of 1 to %d", BLOB_DIMS_MAX);
    out->n_dims = value->n;
    if ((out->type == BLOB_JSON || out->type == BLOB_MSGPACK) && out->n_dims != 1)
        return status_fail(st, STATUS_INVALID, "dims: one for %s", blob_type_names[out->type]);
    for (size_t i = 0; i < out->n_dims; i++) {
        struct value dim = value_item(value, i);
        if (dim.type != VALUE_UINT || dim.number > MESSAGE_BYTES_MAX)
            return status_fail(st, STATUS_INVALID, "dims: not numbers up to %u", MESSAGE_BYTES_MAX);
        out->dims[i] = (size_t)dim.number;
        size *= dim.number; /* both factors are at most 2^28: no overflow */
        if (size > MESSAGE_BYTES_MAX)
            return status_fail(st, STATUS_LIMIT, "dims: more than %u bytes", MESSAGE_BYTES_MAX);
    }
    return true;
}

static bool take_blob(struct blob_desc *out, const struct value *value, struct status *st)
{
    static const struct row name_row = {.form = FORM_NAME, .max = BLOB_NAME_MAX};

    if (value->type != VALUE_ARRAY || value->n != 3)
        return status_fail(st, STATUS_INVALID, "not [name, type, dims]");
    struct value name = value_item(value, 0);
    struct value type_name = value_item(value, 1);
    struct value dims = value_item(value, 2);
    if (!take_text(out->name, &name, &name_row, st))
        return status_wrap(st, "name");
    size_t type;
    if (!value_name(&type, &type_name, blob_type_names, BLOB_TYPES, st))
        return status_wrap(st, "type");
    out->type = (enum blob_type)type;
    return take_dims(out, &dims, st);
}

static bool take_blobs(struct head *out, const struct value *value, struct status *st)
{
    if (value->type != VALUE_ARRAY || value->n > BLOBS_MAX)
        return status_fail(st, STATUS_LIMIT, "not an array of at most %d", BLOBS_MAX);
    for (size_t i = 0; i < value->n; i++) {
        struct value item = value_item(value, i);
        if (!take_blob(&out->blobs[i], &item, st))
            return status_wrap(st, "blob %zu", i);
    }
    out->n_blobs = value->n;
    return true;
}

/* `raw` are the value's bytes in the frame. */
static bool take_value(struct head *out, const struct row *row, const struct value *value,
                       struct span raw, struct status *st)
{
    void *at = (uint8_t *)out + row->offset;
    uint64_t number = 0;
    size_t name = 0;

    switch (row->form) {
    case FORM_KIND:
        if (!value_name(&name, value, msg_kind_names, MSG_KINDS, st))
            return false;
        out->kind = (enum msg_kind)name;
        return true;
    case FORM_FAULT:
        if (!value_name(&name, value, fault_names, FAULTS, st))
            return false;
        out->fault = (enum fault)name;
        return true;
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
        if (value->type != VALUE_BOOL)
            return status_fail(st, STATUS_INVALID, "not a boolean");
        *(bool *)at = value->yes;
        return true;
    case FORM_FIELDS:
        if (value->type != VALUE_MAP)
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

    if (!reader_open_map(reader, &n))
        return status_fail(st, STATUS_INVALID, "not a map");
    for (size_t i = 0; i < n; i++) {
        struct value name = reader_next(reader);
        struct span key = name.bytes; /* check_msgpack saw that it is a text */
        size_t f = 0;
        while (f < FIELDS && !span_is(key, rows[f].key))
            f++;
        if (f == FIELDS)
            return status_fail(st, STATUS_INVALID, "unknown key '%.*s'", (int)key.size,
                               (const char *)key.data);
        size_t begin = reader->at;
        struct value value = reader_next(reader);
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
