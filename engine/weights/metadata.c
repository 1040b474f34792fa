/* metadata.c - the keys of a model file: found by name, converted without loss, shown. */
#include "engine/base/heap.h"
#include "engine/weights/container.h"
#include <assert.h>
#include <inttypes.h>
#include <string.h>

static const struct metadata *find_key(const struct weights *w, const char *key)
{
    size_t low = 0, high = w->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct metadata *m = &w->keys[w->keys_sorted[middle]];
        int order = strcmp(key, m->key);
        if (order == 0)
            return m;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Value i of a row of numbers. */
struct number {
    enum { NUMBER_NONE, NUMBER_UNSIGNED, NUMBER_SIGNED, NUMBER_FLOAT } kind;
    uint64_t u; /* when not negative */
    int64_t i;  /* when negative */
    double f;
};

static struct number of_signed(int64_t value)
{
    if (value >= 0)
        return (struct number){.kind = NUMBER_UNSIGNED, .u = (uint64_t)value};
    return (struct number){.kind = NUMBER_SIGNED, .i = value};
}

static struct number number_at(const struct metadata *m, size_t index)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        int64_t i64;
        double f64;
    } v = {0};
    if (m->type == VALUE_STRING || m->type == VALUE_ARRAY || !m->count)
        return (struct number){0};
    size_t size = m->data.size / m->count;
    assert(size <= sizeof v && index < m->count);
    memcpy(&v, m->data.data + index * size, size);
    switch (m->type) {
    case VALUE_U8:
    case VALUE_BOOL:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = v.u8};
    case VALUE_U16:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = v.u16};
    case VALUE_U32:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = v.u32};
    case VALUE_U64:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = v.u64};
    case VALUE_I8:
        return of_signed(v.i8);
    case VALUE_I16:
        return of_signed(v.i16);
    case VALUE_I32:
        return of_signed(v.i32);
    case VALUE_I64:
        return of_signed(v.i64);
    case VALUE_F32:
        return (struct number){.kind = NUMBER_FLOAT, .f = (double)v.f32};
    case VALUE_F64:
        return (struct number){.kind = NUMBER_FLOAT, .f = v.f64};
    default:
        return (struct number){0};
    }
}

/* A single value of that key. */
static bool find_scalar(const struct weights *w, const char *key, const struct metadata **out,
                        struct status *st)
{
    const struct metadata *m = find_key(w, key);
    if (!m)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s' is missing", key);
    if (m->is_array)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is an array", key);
    *out = m;
    return true;
}

static bool find_array(const struct weights *w, const char *key, size_t n,
                       const struct metadata **out, struct status *st)
{
    const struct metadata *m = find_key(w, key);
    if (!m)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s' is missing", key);
    if (!m->is_array)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is no array", key);
    if (m->count != n)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': has %zu elements, expected %zu", key,
                           m->count, n);
    *out = m;
    return true;
}

bool weights_has(const struct weights *w, const char *key)
{
    return find_key(w, key) != NULL;
}

bool weights_u64(const struct weights *w, const char *key, uint64_t *out, struct status *st)
{
    const struct metadata *m;
    if (!find_scalar(w, key, &m, st))
        return false;
    struct number number = number_at(m, 0);
    if (number.kind != NUMBER_UNSIGNED || m->type == VALUE_BOOL)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is no unsigned number", key);
    *out = number.u;
    return true;
}

/* Whole numbers beyond 2^53 would be changed. */
static bool to_double(struct number number, double *out)
{
    const uint64_t whole_max = UINT64_C(1) << 53;
    if (number.kind == NUMBER_FLOAT)
        *out = number.f;
    else if (number.kind == NUMBER_UNSIGNED && number.u <= whole_max)
        *out = (double)number.u;
    else if (number.kind == NUMBER_SIGNED && number.i >= -(int64_t)whole_max)
        *out = (double)number.i;
    else
        return false;
    return true;
}

bool weights_f64(const struct weights *w, const char *key, double *out, struct status *st)
{
    const struct metadata *m;
    if (!find_scalar(w, key, &m, st))
        return false;
    if (m->type == VALUE_BOOL || !to_double(number_at(m, 0), out))
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is no number", key);
    return true;
}

bool weights_bool(const struct weights *w, const char *key, bool *out, struct status *st)
{
    const struct metadata *m;
    if (!find_scalar(w, key, &m, st))
        return false;
    if (m->type != VALUE_BOOL)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is no bool", key);
    *out = m->data.data[0] != 0;
    return true;
}

/* The string at *at, which moves behind it. All were checked when the file was read. */
static struct span next_string(const struct metadata *m, size_t *at)
{
    uint64_t n;
    memcpy(&n, m->data.data + *at, sizeof n);
    struct span text = span_of(m->data.data + *at + sizeof n, (size_t)n);
    *at += sizeof n + (size_t)n;
    return text;
}

bool weights_string(const struct weights *w, const char *key, struct span *out, struct status *st)
{
    const struct metadata *m;
    size_t at = 0;
    if (!find_scalar(w, key, &m, st))
        return false;
    if (m->type != VALUE_STRING)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is no string", key);
    *out = next_string(m, &at);
    return true;
}

bool weights_is_array(const struct weights *w, const char *key)
{
    const struct metadata *m = find_key(w, key);
    return m && m->is_array;
}

size_t weights_array_length(const struct weights *w, const char *key)
{
    const struct metadata *m = find_key(w, key);
    return m && m->is_array ? m->count : 0;
}

bool weights_array_i64(const struct weights *w, const char *key, size_t n, int64_t *out,
                       struct status *st)
{
    const struct metadata *m;
    if (!find_array(w, key, n, &m, st))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct number number = number_at(m, i);
        if (number.kind == NUMBER_SIGNED)
            out[i] = number.i;
        else if (number.kind == NUMBER_UNSIGNED && number.u <= INT64_MAX)
            out[i] = (int64_t)number.u;
        else
            return status_fail(st, STATUS_CORRUPT, "metadata '%s': element %zu is no whole number",
                               key, i);
    }
    return true;
}

bool weights_array_f64(const struct weights *w, const char *key, size_t n, double *out,
                       struct status *st)
{
    const struct metadata *m;
    if (!find_array(w, key, n, &m, st))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!to_double(number_at(m, i), &out[i]))
            return status_fail(st, STATUS_CORRUPT, "metadata '%s': element %zu is no number", key,
                               i);
    return true;
}

bool weights_array_strings(const struct weights *w, const char *key, size_t n, struct span *out,
                           struct status *st)
{
    const struct metadata *m;
    size_t at = 0;
    if (!find_array(w, key, n, &m, st))
        return false;
    if (m->type != VALUE_STRING)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': holds no strings", key);
    for (size_t i = 0; i < n; i++)
        out[i] = next_string(m, &at);
    return true;
}

/* ---- adding ---- */

static void add(struct weights *w, const char *key, const struct metadata *value, const void *data)
{
    struct metadata *m;

    assert(w->n_keys < WEIGHTS_KEYS_MAX);
    w->keys = heap_resize(w->keys, w->n_keys + 1, sizeof *w->keys);
    m = &w->keys[w->n_keys++];
    *m = *value;
    m->key = heap_text(key, strlen(key));
    uint8_t *copy = weights_own(w, value->data.size);
    if (value->data.size)
        memcpy(copy, data, value->data.size);
    m->data.data = copy;
}

void weights_add_key(struct weights *w, const char *key, enum value_type type, const void *value,
                     size_t size_bytes)
{
    add(w, key, &(struct metadata){.type = type, .count = 1, .data = {.size = size_bytes}}, value);
}

void weights_add_array(struct weights *w, const char *key, enum value_type type, size_t count,
                       const void *values, size_t size_bytes)
{
    add(w, key,
        &(struct metadata){
            .type = type, .is_array = true, .count = count, .data = {.size = size_bytes}},
        values);
}

void weights_add_string(struct weights *w, const char *key, struct span text)
{
    struct buffer value = {0};
    uint64_t size = text.size;
    buffer_append(&value, &size, sizeof size);
    buffer_append(&value, text.data, text.size);
    weights_add_key(w, key, VALUE_STRING, value.data, value.size);
    buffer_clear(&value);
}

/* ---- listing ---- */

size_t weights_keys(const struct weights *w)
{
    return w->n_keys;
}

/* Text for one line: control characters become blanks, what is ill-formed becomes '?'. */
static void show_text(struct buffer *out, struct span text, size_t limit)
{
    size_t n = text.size < limit ? text.size : limit;
    size_t good = utf8_valid_prefix(text.data, n);
    buffer_append_byte(out, '"');
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = text.data[i];
        if (i >= good && byte >= 0x80) {
            if (text.size > limit && n - good < 4)
                break; /* a character that the limit cut */
            byte = '?';
        }
        buffer_append_byte(out, byte < 0x20 || byte == 0x7f ? ' ' : byte);
    }
    buffer_append_text(out, text.size > limit ? "...\"" : "\"");
}

static void show_number(struct buffer *out, const struct metadata *m, size_t index)
{
    struct number number = number_at(m, index);
    if (m->type == VALUE_BOOL)
        buffer_append_text(out, number.u ? "true" : "false");
    else if (number.kind == NUMBER_UNSIGNED)
        buffer_printf(out, "%" PRIu64, number.u);
    else if (number.kind == NUMBER_SIGNED)
        buffer_printf(out, "%" PRId64, number.i);
    else
        buffer_printf(out, "%g", number.f);
}

#define SHOW_ELEMENTS 8 /* of an array; its length is said */
#define SHOW_TEXT_BYTES 60

void weights_show_key(const struct weights *w, size_t index, const char **out_key, char *out_value,
                      size_t size)
{
    struct buffer text = {0};
    size_t at = 0;

    assert(index < w->n_keys && size > 0);
    const struct metadata *m = &w->keys[index];
    size_t shown = m->count < SHOW_ELEMENTS ? m->count : SHOW_ELEMENTS;
    if (m->is_array)
        buffer_printf(&text, "%zu [", m->count);
    for (size_t i = 0; i < shown; i++) {
        if (i)
            buffer_append_text(&text, ", ");
        if (m->type == VALUE_STRING)
            show_text(&text, next_string(m, &at), SHOW_TEXT_BYTES);
        else
            show_number(&text, m, i);
    }
    if (m->is_array)
        buffer_append_text(&text, shown < m->count ? ", ...]" : "]");
    size_t n = text.size < size - 1 ? text.size : size - 1;
    n = n ? utf8_valid_prefix(text.data, n) : 0;
    if (n)
        memcpy(out_value, text.data, n);
    out_value[n] = 0;
    buffer_clear(&text);
    *out_key = m->key;
}
