/* The grammar of JSON and UTF-8, byte by byte. */
#include "gateway/body_private.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BYTES_MAX 64

bool scan_not_json(const struct cursor *c, const char *wanted, struct status *st)
{
    size_t at = c->before + c->at;

    if (c->at >= c->size)
        return status_fail(st, STATUS_INVALID, "not JSON: ends at byte %zu, expected %s", at,
                           wanted);
    uint8_t byte = c->data[c->at];
    if (byte > 0x20 && byte < 0x7F)
        return status_fail(st, STATUS_INVALID, "not JSON: '%c' at byte %zu, expected %s", byte, at,
                           wanted);
    return status_fail(st, STATUS_INVALID, "not JSON: 0x%02x at byte %zu, expected %s", byte, at,
                       wanted);
}

/* ---- raw values ---- */

static bool raw_keep(struct body *body, const struct cursor *c, struct status *st)
{
    size_t size = c->at - body->raw_from;

    if (body->raw.size + size > BODY_RAW_BYTES_MAX)
        return body_value_fail(body, st, STATUS_TOO_LARGE, "more than %u bytes",
                               BODY_RAW_BYTES_MAX);
    buffer_append(&body->raw, c->data + body->raw_from, size);
    body->raw_from = c->at;
    return true;
}

static bool end_value(struct body *body, const struct cursor *c, struct status *st)
{
    body->state = body->depth == 0 ? AT_DONE : AT_NEXT;
    if (!body->in_raw || body->depth != body->raw_depth)
        return true;
    if (!raw_keep(body, c, st))
        return false;
    body->in_raw = false;
    return skeleton_reference(body, 'r', 0, st);
}

/* ---- strings ---- */

static bool end_string(struct body *body, const struct cursor *c, struct status *st)
{
    if (body->sink == TO_KEY) {
        body->state = AT_COLON;
        return string_end_key(body, st);
    }
    return string_end_value(body, st) && end_value(body, c, st);
}

/* How many bytes at data[0] are plain: ASCII, no control character, quote or backslash. */
static size_t plain_run(const uint8_t *data, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t tops = UINT64_C(0x8080808080808080);
    size_t n = 0;

    for (; n + 8 <= size; n += 8) {
        uint64_t x;
        memcpy(&x, data + n, 8);
        uint64_t quote = x ^ ones * '"';
        uint64_t slash = x ^ ones * '\\';
        if ((x | (x - ones * 0x20) | (quote - ones) | (slash - ones)) & tops)
            break;
    }
    while (n < size && data[n] >= 0x20 && data[n] < 0x80 && data[n] != '"' && data[n] != '\\')
        n++;
    return n;
}

/* Check one byte from 0x80 up, or one that had to follow such a byte. */
static bool step_utf8(struct body *body, uint8_t byte)
{
    if (body->utf8_left > 0) {
        if (byte < body->utf8_low || byte > body->utf8_high)
            return false;
        body->utf8_low = 0x80;
        body->utf8_high = 0xBF;
        body->utf8_left--;
        return true;
    }
    if (byte < 0xC2 || byte > 0xF4)
        return false;
    body->utf8_left = byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : 1;
    body->utf8_low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    body->utf8_high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    return true;
}

static bool add_code(struct body *body, struct status *st)
{
    uint8_t bytes[4];
    uint32_t code = body->code;

    if (body->high) {
        if (code < 0xDC00 || code > 0xDFFF)
            return status_fail(st, STATUS_INVALID, "not JSON: half a surrogate pair");
        code = 0x10000 + ((body->high - 0xD800) << 10) + (code - 0xDC00);
        body->high = 0;
    } else if (code >= 0xD800 && code <= 0xDBFF) {
        body->high = code;
        return true;
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
        return status_fail(st, STATUS_INVALID, "not JSON: half a surrogate pair");
    }
    return string_add(body, bytes, utf8_encode(code, bytes), st);
}

/* One byte after a backslash. */
static bool step_escape(struct body *body, const struct cursor *c, struct status *st)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    uint8_t byte = c->data[c->at];

    if (body->escape >= 2) {
        int value = hex_digit(byte);
        if (value < 0)
            return scan_not_json(c, "four hexadecimal digits", st);
        body->code = body->code << 4 | (uint32_t)value;
        body->escape = body->escape == 5 ? 0 : body->escape + 1;
        return body->escape != 0 || add_code(body, st);
    }
    if (byte == 'u') {
        body->escape = 2;
        body->code = 0;
        return true;
    }
    const char *found = byte ? strchr(from, byte) : NULL;
    if (!found)
        return scan_not_json(c, "an escape", st);
    if (body->high)
        return status_fail(st, STATUS_INVALID, "not JSON: half a surrogate pair");
    body->escape = 0;
    return string_add(body, (const uint8_t *)&to[found - from], 1, st);
}

static bool scan_string(struct body *body, struct cursor *c, struct status *st)
{
    while (c->at < c->size) {
        const uint8_t *data = c->data + c->at;
        uint8_t byte = *data;
        if (body->escape) {
            if (!step_escape(body, c, st))
                return false;
            c->at++;
            continue;
        }
        if (body->high && byte != '\\')
            return status_fail(st, STATUS_INVALID, "not JSON: half a surrogate pair");
        if (body->utf8_left > 0 || byte >= 0x80) {
            if (!step_utf8(body, byte))
                return status_fail(st, STATUS_INVALID, "not UTF-8: 0x%02x at byte %zu", byte,
                                   c->before + c->at);
            c->at++;
            if (!string_add(body, data, 1, st))
                return false;
            continue;
        }
        if (byte == '"') {
            c->at++;
            return end_string(body, c, st);
        }
        if (byte == '\\') {
            body->escape = 1;
            c->at++;
            continue;
        }
        size_t n = plain_run(data, c->size - c->at);
        if (n == 0)
            return scan_not_json(c, "no control character in a string", st);
        c->at += n;
        if (!string_add(body, data, n, st))
            return false;
    }
    return true;
}

/* ---- numbers, words, structure ---- */

static bool step_number(struct body *body, uint8_t byte)
{
    bool digit = byte >= '0' && byte <= '9';
    enum number_state was = body->number;

    switch (was) {
    case NUMBER_MINUS:
        body->number = byte == '0' ? NUMBER_ZERO : NUMBER_INT;
        return digit;
    case NUMBER_ZERO:
    case NUMBER_INT:
        if (digit)
            return was == NUMBER_INT;
        body->number = byte == '.' ? NUMBER_DOT : NUMBER_E;
        return byte == '.' || byte == 'e' || byte == 'E';
    case NUMBER_DOT:
        body->number = NUMBER_FRACTION;
        return digit;
    case NUMBER_FRACTION:
        if (digit)
            return true;
        body->number = NUMBER_E;
        return byte == 'e' || byte == 'E';
    case NUMBER_E:
        body->number = digit ? NUMBER_EXPONENT : NUMBER_E_SIGN;
        return digit || byte == '+' || byte == '-';
    case NUMBER_E_SIGN:
    case NUMBER_EXPONENT:
        body->number = NUMBER_EXPONENT;
        return digit;
    }
    return false;
}

static bool number_may_end(enum number_state number)
{
    return number == NUMBER_ZERO || number == NUMBER_INT || number == NUMBER_FRACTION ||
           number == NUMBER_EXPONENT;
}

/* Whether jansson can hold it; refused there, nobody would know which field it was. */
static bool number_fits(const struct body *body)
{
    char text[NUMBER_BYTES_MAX + 1];
    size_t n = body->skeleton.size - body->number_start;

    if (n > NUMBER_BYTES_MAX)
        return false;
    memcpy(text, body->skeleton.data + body->number_start, n);
    text[n] = 0;
    if (body->number != NUMBER_ZERO && body->number != NUMBER_INT)
        return isfinite(strtod(text, NULL));
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    return value == 0 || errno == 0;
}

static bool end_number(struct body *body, const struct cursor *c, struct status *st)
{
    if (body->in_raw || number_fits(body)) /* of raw values nobody makes numbers */
        return end_value(body, c, st);
    return body_value_fail(body, st, STATUS_INVALID, "is a number beyond all ranges");
}

static bool scan_number(struct body *body, struct cursor *c, struct status *st)
{
    size_t from = c->at;

    for (; c->at < c->size; c->at++) {
        enum number_state was = body->number;
        if (step_number(body, c->data[c->at]))
            continue;
        if (!number_may_end(was))
            return scan_not_json(c, "a digit", st);
        body->number = was;
        return skeleton_add(body, c->data + from, c->at - from, st) && end_number(body, c, st);
    }
    return skeleton_add(body, c->data + from, c->at - from, st);
}

static bool scan_word(struct body *body, struct cursor *c, struct status *st)
{
    while (*body->word && c->at < c->size) {
        if (c->data[c->at] != (uint8_t)*body->word)
            return scan_not_json(c, "true, false or null", st);
        if (!skeleton_add(body, body->word, 1, st))
            return false;
        body->word++;
        c->at++;
    }
    return *body->word ? true : end_value(body, c, st);
}

static bool open_container(struct body *body, bool is_array, struct status *st)
{
    if (body->depth == BODY_DEPTH_MAX)
        return body_value_fail(body, st, STATUS_LIMIT, "nested more than %d deep", BODY_DEPTH_MAX);
    body->levels[body->depth++] = (struct level){.is_array = is_array};
    body->state = is_array ? AT_VALUE_OR_END : AT_KEY_OR_END;
    return skeleton_add(body, is_array ? "[" : "{", 1, st);
}

static bool close_container(struct body *body, struct cursor *c, struct status *st)
{
    body->depth--;
    c->at++;
    return skeleton_add(body, body->levels[body->depth].is_array ? "]" : "}", 1, st) &&
           end_value(body, c, st);
}

static bool start_value(struct body *body, struct cursor *c, struct status *st)
{
    uint8_t byte = c->data[c->at];
    const struct body_rule *rule = body->in_raw ? NULL : body_rule(body);

    if (!body->in_raw && ++body->values > BODY_VALUES_MAX)
        return status_fail(st, STATUS_LIMIT, "more than %d values", BODY_VALUES_MAX);
    if (rule && rule->cut == BODY_RAW && !body->has_raw) {
        body->in_raw = true;
        body->has_raw = true;
        body->raw_depth = body->depth;
        body->raw_from = c->at;
    }
    if (byte == '"') {
        c->at++;
        string_start_value(body, rule);
        return true;
    }
    if (byte == '{' || byte == '[') {
        c->at++;
        return open_container(body, byte == '[', st);
    }
    if (byte == '-' || (byte >= '0' && byte <= '9')) {
        body->state = IN_NUMBER;
        body->number_start = body->skeleton.size;
        body->number = byte == '-' ? NUMBER_MINUS : byte == '0' ? NUMBER_ZERO : NUMBER_INT;
        c->at++;
        return skeleton_add(body, c->data + c->at - 1, 1, st);
    }
    body->word = byte == 't' ? "true" : byte == 'f' ? "false" : byte == 'n' ? "null" : NULL;
    if (!body->word)
        return scan_not_json(c, "a value", st);
    body->state = IN_WORD;
    return true;
}

static bool step_structure(struct body *body, struct cursor *c, struct status *st)
{
    uint8_t byte = c->data[c->at];
    struct level *level = body->depth ? &body->levels[body->depth - 1] : NULL;

    switch (body->state) {
    case AT_VALUE_OR_END:
        if (byte == ']')
            return close_container(body, c, st);
        return start_value(body, c, st);
    case AT_VALUE:
        return start_value(body, c, st);
    case AT_KEY_OR_END:
    case AT_KEY:
        if (byte == '}' && body->state == AT_KEY_OR_END)
            return close_container(body, c, st);
        if (byte != '"')
            return scan_not_json(c, "a key in quotes", st);
        c->at++;
        string_start(body, TO_KEY);
        return true;
    case AT_COLON:
        if (byte != ':')
            return scan_not_json(c, "':'", st);
        c->at++;
        body->state = AT_VALUE;
        return skeleton_add(body, ":", 1, st);
    case AT_NEXT:
        assert(level);
        if (byte == (level->is_array ? ']' : '}'))
            return close_container(body, c, st);
        if (byte != ',')
            return scan_not_json(c, level->is_array ? "',' or ']'" : "',' or '}'", st);
        c->at++;
        level->index++;
        body->state = level->is_array ? AT_VALUE : AT_KEY;
        return skeleton_add(body, ",", 1, st);
    default:
        return scan_not_json(c, "the end", st);
    }
}

bool scan(struct body *body, struct cursor *c, struct status *st)
{
    while (c->at < c->size) {
        bool ok = true;
        uint8_t byte = c->data[c->at];
        if (body->state == IN_STRING)
            ok = scan_string(body, c, st);
        else if (body->state == IN_NUMBER)
            ok = scan_number(body, c, st);
        else if (body->state == IN_WORD)
            ok = scan_word(body, c, st);
        else if (byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t')
            c->at++;
        else
            ok = step_structure(body, c, st);
        if (!ok)
            return false;
    }
    return !body->in_raw || raw_keep(body, c, st);
}

bool scan_finish(struct body *body, struct cursor *c, struct status *st)
{
    if (body->state == IN_NUMBER && number_may_end(body->number) && !end_number(body, c, st))
        return false;
    if (body->bytes == 0)
        return status_fail(st, STATUS_INVALID, "not JSON: the body is empty");
    return body->state == AT_DONE || scan_not_json(c, "more", st);
}
