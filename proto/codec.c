#include "proto/codec.h"
#include "proto/values.h"
#include <assert.h>
#include <msgpack.h>

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

void value_put_map(struct buffer *out, size_t n)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_map(&packer, n);
}

void value_put_array(struct buffer *out, size_t n)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_array(&packer, n);
}

void value_put_text(struct buffer *out, struct span text)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_str(&packer, text.size);
    msgpack_pack_str_body(&packer, text.data, text.size);
}

void value_put_bytes(struct buffer *out, const void *data, size_t size)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_bin(&packer, size);
    msgpack_pack_bin_body(&packer, data, size);
}

void value_put_uint(struct buffer *out, uint64_t number)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_uint64(&packer, number);
}

void value_put_int(struct buffer *out, int64_t number)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_int64(&packer, number);
}

void value_put_float(struct buffer *out, double number)
{
    msgpack_packer packer = packer_of(out);

    msgpack_pack_double(&packer, number);
}

void value_put_bool(struct buffer *out, bool yes)
{
    msgpack_packer packer = packer_of(out);

    if (yes)
        msgpack_pack_true(&packer);
    else
        msgpack_pack_false(&packer);
}

/* ---- reading ---- */

#define ZONE_BYTES 4096

void reader_init(struct reader *reader, struct span bytes)
{
    reader->bytes = bytes;
    reader->at = 0;
    reader->zone = NULL; /* most of what is read are texts and numbers, which need none */
}

void reader_clear(struct reader *reader)
{
    if (reader->zone)
        msgpack_zone_free(reader->zone);
    reader->zone = NULL;
}

void reader_forget(struct reader *reader)
{
    if (reader->zone)
        msgpack_zone_clear(reader->zone);
}

static struct value value_of(const msgpack_object *object)
{
    struct value out = {.type = VALUE_NIL};

    switch (object->type) {
    case MSGPACK_OBJECT_BOOLEAN:
        out.type = VALUE_BOOL;
        out.yes = object->via.boolean;
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        out.type = VALUE_UINT;
        out.number = object->via.u64;
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        out.type = VALUE_NEGATIVE;
        out.negative = object->via.i64;
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        out.type = VALUE_FLOAT;
        out.real = object->via.f64;
        break;
    case MSGPACK_OBJECT_STR:
        out.type = VALUE_TEXT;
        out.bytes = span_of(object->via.str.ptr, object->via.str.size);
        break;
    case MSGPACK_OBJECT_BIN:
        out.type = VALUE_BYTES;
        out.bytes = span_of(object->via.bin.ptr, object->via.bin.size);
        break;
    case MSGPACK_OBJECT_ARRAY:
        out.type = VALUE_ARRAY;
        out.n = object->via.array.size;
        out.items_ = object->via.array.ptr;
        break;
    case MSGPACK_OBJECT_MAP:
        out.type = VALUE_MAP;
        break;
    case MSGPACK_OBJECT_NIL:
    case MSGPACK_OBJECT_EXT: /* check_msgpack lets none pass */
        break;
    }
    return out;
}

struct value reader_next(struct reader *reader)
{
    msgpack_object object;

    if (!reader->zone)
        reader->zone = msgpack_zone_new(ZONE_BYTES);
    assert(reader->zone); /* without memory heap.c would end the process too */
    msgpack_unpack_return how = msgpack_unpack((const char *)reader->bytes.data, reader->bytes.size,
                                               &reader->at, reader->zone, &object);
    assert(how == MSGPACK_UNPACK_SUCCESS || how == MSGPACK_UNPACK_EXTRA_BYTES);
    return value_of(&object);
}

/* msgpack-c reads a container only together with what it holds. `small` and `two` are the leading
 * bytes of the short form and of the one with two bytes of length. */
static bool open_container(struct reader *reader, uint8_t small, uint8_t two, size_t *out)
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

bool reader_open_map(struct reader *reader, size_t *out)
{
    return open_container(reader, 0x80, 0xde, out);
}

bool reader_open_array(struct reader *reader, size_t *out)
{
    return open_container(reader, 0x90, 0xdc, out);
}

struct value value_item(const struct value *array, size_t i)
{
    assert(array->type == VALUE_ARRAY);
    assert(i < array->n);
    return value_of((const msgpack_object *)array->items_ + i);
}

bool value_is_text(const struct value *value)
{
    return value->type == VALUE_TEXT;
}

bool value_name(size_t *out, const struct value *value, const char *const *names, size_t n,
                struct status *st)
{
    for (size_t i = 0; value_is_text(value) && i < n; i++)
        if (span_is(value->bytes, names[i])) {
            *out = i;
            return true;
        }
    return status_fail(st, STATUS_UNSUPPORTED, "unknown");
}

/* ---- a stage's own values ---- */

static struct buffer *add_entry(struct fields_writer *w, const char *key)
{
    value_put_text(&w->body, span_text(key));
    w->n++;
    return &w->body;
}

void fields_int(struct fields_writer *w, const char *key, int64_t value)
{
    value_put_int(add_entry(w, key), value);
}

void fields_float(struct fields_writer *w, const char *key, double value)
{
    value_put_float(add_entry(w, key), value);
}

void fields_bool(struct fields_writer *w, const char *key, bool value)
{
    value_put_bool(add_entry(w, key), value);
}

void fields_text(struct fields_writer *w, const char *key, struct span value)
{
    value_put_text(add_entry(w, key), value);
}

void fields_texts(struct fields_writer *w, const char *key, const struct span *values, size_t n)
{
    struct buffer *out = add_entry(w, key);

    value_put_array(out, n);
    for (size_t i = 0; i < n; i++)
        value_put_text(out, values[i]);
}

void fields_finish(struct fields_writer *w, struct buffer *out)
{
    value_put_map(out, w->n);
    buffer_append(out, w->body.data, w->body.size);
    buffer_clear(&w->body);
    w->n = 0;
}

/* The value of a key in a checked map; its containers live until reader_clear. */
static bool find_field(struct reader *reader, struct span fields, const char *key,
                       struct value *out)
{
    size_t n = 0;

    reader_init(reader, fields);
    if (fields.size == 0 || !reader_open_map(reader, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct value name = reader_next(reader);
        *out = reader_next(reader);
        if (span_is(name.bytes, key))
            return true;
    }
    return false;
}

bool field_int(struct span fields, const char *key, int64_t *out)
{
    struct reader reader;
    struct value value;
    bool ok = find_field(&reader, fields, key, &value);

    if (ok && value.type == VALUE_UINT && value.number <= INT64_MAX)
        *out = (int64_t)value.number;
    else if (ok && value.type == VALUE_NEGATIVE)
        *out = value.negative;
    else
        ok = false;
    reader_clear(&reader);
    return ok;
}

bool field_float(struct span fields, const char *key, double *out)
{
    struct reader reader;
    struct value value;
    bool ok = find_field(&reader, fields, key, &value);

    if (ok && value.type == VALUE_FLOAT)
        *out = value.real;
    else if (ok && value.type == VALUE_UINT)
        *out = (double)value.number;
    else if (ok && value.type == VALUE_NEGATIVE)
        *out = (double)value.negative;
    else
        ok = false;
    reader_clear(&reader);
    return ok;
}

bool field_bool(struct span fields, const char *key, bool *out)
{
    struct reader reader;
    struct value value;
    bool ok = find_field(&reader, fields, key, &value) && value.type == VALUE_BOOL;

    if (ok)
        *out = value.yes;
    reader_clear(&reader);
    return ok;
}

bool field_text(struct span fields, const char *key, struct span *out)
{
    struct reader reader;
    struct value value;
    bool ok = find_field(&reader, fields, key, &value) && value_is_text(&value);

    if (ok)
        *out = value.bytes;
    reader_clear(&reader);
    return ok;
}

size_t field_texts(struct span fields, const char *key, struct span *out, size_t max)
{
    struct reader reader;
    struct value value;
    size_t n = 0;

    if (find_field(&reader, fields, key, &value) && value.type == VALUE_ARRAY)
        for (size_t i = 0; i < value.n; i++) {
            struct value item = value_item(&value, i);
            if (!value_is_text(&item))
                continue;
            if (n < max)
                out[n] = item.bytes;
            n++;
        }
    reader_clear(&reader);
    return n;
}
