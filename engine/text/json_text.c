#include "engine/text/json_text.h"
#include "engine/base/heap.h"
#include "engine/base/json_scan.h"
#include "engine/text/unicode.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct json_scan json;
    struct json_text *out;
    size_t n_values;
    struct status *st;
};

static bool read_value(struct reader *r, struct json_value **out);

/* ---- reading ---- */

/* A decoded string is never longer than its spelling, so `strings` was reserved and does not move.
 */
static bool read_string(struct reader *r, struct span *out)
{
    struct buffer *strings = &r->out->strings;
    const size_t start = strings->size;
    if (!json_scan_string(&r->json, strings, r->st))
        return false;
    *out = span_of(strings->data + start, strings->size - start);
    return true;
}

static double number_value(struct span number)
{
    char text[JSON_SCAN_DIGITS_MAX + 1];
    assert(number.size < sizeof(text));
    memcpy(text, number.data, number.size);
    text[number.size] = 0;
    return strtod(text, NULL); /* no program of ours leaves the C locale */
}

static bool is_integer(struct span number)
{
    for (size_t i = 0; i < number.size; i++)
        if (number.data[i] == '.' || number.data[i] == 'e' || number.data[i] == 'E')
            return false;
    return true;
}

static bool read_number(struct reader *r, struct span *out)
{
    if (!json_scan_number(&r->json, out, r->st))
        return false;
    /* The caller's text may go away. */
    buffer_append(&r->out->strings, out->data, out->size);
    out->data = r->out->strings.data + r->out->strings.size - out->size;
    return true;
}

struct member {
    struct span name;
    size_t place;
    struct json_value *value;
};

static int by_name(const void *left, const void *right)
{
    const struct member *a = left;
    const struct member *b = right;
    const size_t size = a->name.size < b->name.size ? a->name.size : b->name.size;
    const int order = size == 0 ? 0 : memcmp(a->name.data, b->name.data, size);
    if (order != 0)
        return order;
    if (a->name.size != b->name.size)
        return a->name.size < b->name.size ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static struct member *members_of(const struct json_value *object)
{
    struct member *members = heap_array(struct member, object->n);
    size_t n = 0;
    for (struct json_value *at = object->first; at != NULL; at = at->next, n++)
        members[n] = (struct member){at->name, n, at};
    return members;
}

/* Of equal names, the last value moves to the place of the first. */
static void drop_repeated(struct json_value *object)
{
    struct member *members = members_of(object);
    const size_t n = object->n;
    bool any = false;
    qsort(members, n, sizeof(members[0]), by_name);
    for (size_t i = 0, end = 0; i < n; i = end) {
        for (end = i + 1; end < n && span_equal(members[end].name, members[i].name); end++) {
            struct json_value *first = members[i].value;
            struct json_value *again = members[end].value;
            first->kind = again->kind;
            first->text = again->text;
            first->first = again->first;
            first->n = again->n;
            again->name = span_of(NULL, SIZE_MAX); /* to be unlinked below */
            any = true;
        }
    }
    heap_free(members);
    for (struct json_value **at = &object->first; any && *at != NULL;) {
        if ((*at)->name.size == SIZE_MAX) {
            *at = (*at)->next;
            object->n--;
        } else {
            at = &(*at)->next;
        }
    }
}

/* What stands between the brackets, and both of them. */
static bool read_items(struct reader *r, struct json_value *value, int opener)
{
    struct json_value **link = &value->first;
    struct json_walk walk = {0};
    while (json_scan_next(&r->json, opener, &walk, r->st)) {
        struct span name = span_of(NULL, 0);
        const size_t start = r->out->strings.size;
        if (opener == '{') {
            if (!json_scan_key(&r->json, &r->out->strings, r->st))
                return false;
            name = span_of(r->out->strings.data + start, r->out->strings.size - start);
        }
        if (!read_value(r, link))
            return false;
        (*link)->name = name;
        link = &(*link)->next;
        value->n++;
    }
    return walk.ended;
}

static bool read_value(struct reader *r, struct json_value **out)
{
    const int c = json_scan_peek(&r->json);
    if (r->n_values == JSON_TEXT_VALUES_MAX)
        return status_fail(r->st, STATUS_LIMIT, "byte %zu: more than %zu values", r->json.at,
                           JSON_TEXT_VALUES_MAX);
    struct json_value *value = &r->out->values[r->n_values++];
    *out = value;
    switch (c) {
    case '"':
        value->kind = JSON_TEXT_STRING;
        return read_string(r, &value->text);
    case 't':
        value->kind = JSON_TEXT_TRUE;
        return json_scan_word(&r->json, "true", r->st);
    case 'f':
        value->kind = JSON_TEXT_FALSE;
        return json_scan_word(&r->json, "false", r->st);
    case 'n':
        value->kind = JSON_TEXT_NULL;
        return json_scan_word(&r->json, "null", r->st);
    case '{':
    case '[':
        value->kind = c == '{' ? JSON_TEXT_OBJECT : JSON_TEXT_ARRAY;
        if (!read_items(r, value, c))
            return false;
        if (c == '{' && value->n > 1)
            drop_repeated(value);
        return true;
    default:
        value->kind = JSON_TEXT_NUMBER;
        return read_number(r, &value->text);
    }
}

/* Most values that a text can have: each but the first follows a bracket, comma or colon. */
static size_t count_values(struct span text)
{
    size_t n = 1;
    for (size_t i = 0; i < text.size; i++) {
        const uint8_t c = text.data[i];
        n += c == '[' || c == ',' || c == ':' || c == '{';
    }
    return n < JSON_TEXT_VALUES_MAX ? n : JSON_TEXT_VALUES_MAX;
}

bool json_text_init(struct json_text *out, struct span text, struct status *st)
{
    *out = (struct json_text){0};
    if (text.size > JSON_TEXT_BYTES_MAX)
        return status_fail(st, STATUS_LIMIT, "JSON of %zu bytes, at most %zu", text.size,
                           JSON_TEXT_BYTES_MAX);
    const size_t valid = utf8_valid_prefix(text.data, text.size);
    if (valid != text.size)
        return status_fail(st, STATUS_INVALID, "byte %zu: not UTF-8", valid);
    out->values = heap_array(struct json_value, count_values(text));
    buffer_reserve(&out->strings, text.size + 1);
    struct reader r = {.json = {.text = text}, .out = out, .st = st};
    const bool ok = read_value(&r, &out->root) && json_scan_end(&r.json, st);
    if (!ok)
        json_text_clear(out);
    return ok;
}

void json_text_clear(struct json_text *json)
{
    heap_free(json->values);
    buffer_clear(&json->strings);
    *json = (struct json_text){0};
}

/* ---- looking ---- */

const struct json_value *json_text_get(const struct json_value *value, const char *name)
{
    if (value == NULL || value->kind != JSON_TEXT_OBJECT)
        return NULL;
    for (const struct json_value *at = value->first; at != NULL; at = at->next)
        if (span_is(at->name, name))
            return at;
    return NULL;
}

bool json_text_truth(const struct json_value *value)
{
    if (value == NULL)
        return false;
    switch (value->kind) {
    case JSON_TEXT_NULL:
    case JSON_TEXT_FALSE:
        return false;
    case JSON_TEXT_TRUE:
        return true;
    case JSON_TEXT_NUMBER:
        for (size_t i = 0; i < value->text.size; i++)
            if (value->text.data[i] >= '1' && value->text.data[i] <= '9')
                return is_integer(value->text) || number_value(value->text) != 0.0;
        return false;
    case JSON_TEXT_STRING:
        return value->text.size > 0;
    case JSON_TEXT_ARRAY:
    case JSON_TEXT_OBJECT:
        return value->n > 0;
    }
    return false;
}

/* Compare as str.lower() would be compared: code point by code point. */
static int by_lower_name(const void *left, const void *right)
{
    const struct member *a = left;
    const struct member *b = right;
    size_t i = 0;
    size_t k = 0;
    while (i < a->name.size && k < b->name.size) {
        uint32_t x = 0;
        uint32_t y = 0;
        i += utf8_decode(a->name.data + i, a->name.size - i, &x);
        k += utf8_decode(b->name.data + k, b->name.size - k, &y);
        x = unicode_lower(x);
        y = unicode_lower(y);
        if (x != y)
            return x < y ? -1 : 1;
    }
    if (i < a->name.size || k < b->name.size)
        return k < b->name.size ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

void json_text_sorted(const struct json_value *object, const struct json_value **out)
{
    assert(object->kind == JSON_TEXT_OBJECT);
    struct member *members = members_of(object);
    qsort(members, object->n, sizeof(members[0]), by_lower_name);
    for (size_t i = 0; i < object->n; i++)
        out[i] = members[i].value;
    heap_free(members);
}

/* ---- writing ---- */

void json_text_number(struct span number, struct buffer *out)
{
    if (is_integer(number)) {
        const bool minus_zero = number.size == 2 && number.data[0] == '-' && number.data[1] == '0';
        buffer_append(out, number.data + minus_zero, number.size - minus_zero);
        return;
    }
    const double value = number_value(number);
    char text[40];
    int digits = 1;
    if (!isfinite(value)) {
        buffer_append_text(out, value < 0 ? "-inf" : "inf");
        return;
    }
    for (; digits <= 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    /* [-]d.ddde±xx */
    const char *mark = strchr(text, 'e');
    const int exponent = (int)strtol(mark + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        buffer_append(out, text, (size_t)(mark - text));
        buffer_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    const int decimals = digits - 1 - exponent;
    buffer_printf(out, "%.*f", decimals > 1 ? decimals : 1, value);
}

void json_text_quote(struct span text, struct buffer *out)
{
    static const char names[] = "\"\\bfnrt";
    static const char values[] = "\"\\\b\f\n\r\t";
    buffer_append_byte(out, '"');
    for (size_t i = 0; i < text.size; i++) {
        const uint8_t c = text.data[i];
        const char *value = c == 0 ? NULL : strchr(values, c);
        if (value != NULL)
            buffer_printf(out, "\\%c", names[value - values]);
        else if (c < 0x20)
            buffer_printf(out, "\\u%04x", (unsigned)c);
        else
            buffer_append_byte(out, c);
    }
    buffer_append_byte(out, '"');
}

void json_text_write(const struct json_value *value, struct buffer *out)
{
    switch (value->kind) {
    case JSON_TEXT_NULL:
        buffer_append_text(out, "null");
        return;
    case JSON_TEXT_FALSE:
        buffer_append_text(out, "false");
        return;
    case JSON_TEXT_TRUE:
        buffer_append_text(out, "true");
        return;
    case JSON_TEXT_NUMBER:
        buffer_append(out, value->text.data, value->text.size);
        return;
    case JSON_TEXT_STRING:
        json_text_quote(value->text, out);
        return;
    case JSON_TEXT_ARRAY:
    case JSON_TEXT_OBJECT:
        break;
    }
    const bool object = value->kind == JSON_TEXT_OBJECT;
    buffer_append_byte(out, object ? '{' : '[');
    for (const struct json_value *at = value->first; at != NULL; at = at->next) {
        if (object) {
            json_text_quote(at->name, out);
            buffer_append_byte(out, ':');
        }
        json_text_write(at, out);
        if (at->next != NULL)
            buffer_append_byte(out, ',');
    }
    buffer_append_byte(out, object ? '}' : ']');
}
