#include "engine/base/json_scan.h"
#include <string.h>

bool json_scan_refuse(const struct json_scan *json, const char *why, struct status *st)
{
    return status_fail(st, STATUS_INVALID, "byte %zu: %s", json->at, why);
}

static int peek(const struct json_scan *json)
{
    return json->at < json->text.size ? json->text.data[json->at] : -1;
}

int json_scan_peek(struct json_scan *json)
{
    while (peek(json) == ' ' || peek(json) == '\t' || peek(json) == '\n' || peek(json) == '\r')
        json->at++;
    return peek(json);
}

static bool read_hex(struct json_scan *json, uint32_t *out, struct status *st)
{
    *out = 0;
    for (int i = 0; i < 4; i++, json->at++) {
        const int digit = hex_digit(peek(json));
        if (digit < 0)
            return json_scan_refuse(json, "\\u without four hexadecimal digits", st);
        *out = *out * 16 + (uint32_t)digit;
    }
    return true;
}

static bool read_escape(struct json_scan *json, struct buffer *out, struct status *st)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    const int c = peek(json);
    const char *name = c > 0 ? strchr(names, c) : NULL;
    json->at++;
    if (name != NULL) {
        buffer_append_byte(out, (uint8_t)values[name - names]);
        return true;
    }
    if (c != 'u')
        return json_scan_refuse(json, "unknown escape", st);
    uint32_t code_point;
    uint32_t low;
    if (!read_hex(json, &code_point, st))
        return false;
    if (code_point >= 0xd800 && code_point <= 0xdbff && peek(json) == '\\') {
        json->at++;
        if (peek(json) != 'u')
            return json_scan_refuse(json, "lone surrogate", st);
        json->at++;
        if (!read_hex(json, &low, st))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return json_scan_refuse(json, "lone surrogate", st);
        code_point = 0x10000 + ((code_point - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code_point >= 0xd800 && code_point <= 0xdfff)
        return json_scan_refuse(json, "lone surrogate", st);
    uint8_t bytes[4];
    buffer_append(out, bytes, utf8_encode(code_point, bytes));
    return true;
}

bool json_scan_string(struct json_scan *json, struct buffer *out, struct status *st)
{
    if (json_scan_peek(json) != '"')
        return json_scan_refuse(json, "a string was expected", st);
    json->at++;
    for (;;) {
        const size_t start = json->at;
        while (peek(json) >= 0x20 && peek(json) != '"' && peek(json) != '\\')
            json->at++;
        buffer_append(out, json->text.data + start, json->at - start);
        const int c = peek(json);
        if (c < 0)
            return json_scan_refuse(json, "string without an end", st);
        if (c < 0x20)
            return json_scan_refuse(json, "control character in a string", st);
        json->at++;
        if (c == '"')
            return true;
        if (!read_escape(json, out, st))
            return false;
    }
}

static size_t skip_digits(struct json_scan *json)
{
    const size_t start = json->at;
    while (peek(json) >= '0' && peek(json) <= '9')
        json->at++;
    return json->at - start;
}

bool json_scan_number(struct json_scan *json, struct span *out, struct status *st)
{
    (void)json_scan_peek(json);
    const size_t start = json->at;
    if (peek(json) == '-')
        json->at++;
    const bool zero = peek(json) == '0';
    const size_t digits = skip_digits(json);
    if (digits == 0 || (zero && digits > 1))
        return json_scan_refuse(
            json, digits == 0 ? "a value was expected" : "number with a leading zero", st);
    if (peek(json) == '.') {
        json->at++;
        if (skip_digits(json) == 0)
            return json_scan_refuse(json, "number without digits after its point", st);
    }
    if (peek(json) == 'e' || peek(json) == 'E') {
        json->at++;
        if (peek(json) == '+' || peek(json) == '-')
            json->at++;
        if (skip_digits(json) == 0)
            return json_scan_refuse(json, "number without digits in its exponent", st);
    }
    *out = span_of(json->text.data + start, json->at - start);
    if (out->size > JSON_SCAN_DIGITS_MAX)
        return json_scan_refuse(json, "number with too many digits", st);
    return true;
}

bool json_scan_word(struct json_scan *json, const char *word, struct status *st)
{
    const size_t size = strlen(word);
    (void)json_scan_peek(json);
    if (json->text.size - json->at < size || memcmp(json->text.data + json->at, word, size) != 0)
        return json_scan_refuse(json, "a value was expected", st);
    json->at += size;
    return true;
}

static bool enter(struct json_scan *json, int opener, struct status *st)
{
    if (json_scan_peek(json) != opener)
        return json_scan_refuse(
            json, opener == '{' ? "an object was expected" : "an array was expected", st);
    if (json->depth == JSON_SCAN_DEPTH_MAX)
        return status_fail(st, STATUS_LIMIT, "byte %zu: nested more than %d deep", json->at,
                           JSON_SCAN_DEPTH_MAX);
    json->depth++;
    json->at++;
    return true;
}

bool json_scan_next(struct json_scan *json, int opener, struct json_walk *walk, struct status *st)
{
    if (!walk->begun && !enter(json, opener, st))
        return false;
    const int c = json_scan_peek(json);
    if (c == (opener == '{' ? '}' : ']')) {
        json->at++;
        json->depth--;
        walk->ended = true;
        return false;
    }
    if (walk->begun) {
        if (c != ',')
            return json_scan_refuse(
                json, opener == '{' ? "',' or '}' was expected" : "',' or ']' was expected", st);
        json->at++;
        (void)json_scan_peek(json);
    }
    walk->begun = true;
    return true;
}

bool json_scan_key(struct json_scan *json, struct buffer *out, struct status *st)
{
    if (!json_scan_string(json, out, st))
        return false;
    if (json_scan_peek(json) != ':')
        return json_scan_refuse(json, "':' was expected", st);
    json->at++;
    return true;
}

bool json_scan_member(struct json_scan *json, struct json_walk *walk, struct buffer *name,
                      struct status *st)
{
    if (!json_scan_next(json, '{', walk, st))
        return false;
    buffer_reset(name);
    return json_scan_key(json, name, st);
}

/* Over a string: escapes are checked, nothing is kept. */
static bool skip_string(struct json_scan *json, struct buffer *scratch, struct status *st)
{
    buffer_reset(scratch);
    return json_scan_string(json, scratch, st);
}

/* The depth is bounded, so is the recursion. */
static bool skip_value(struct json_scan *json, struct buffer *scratch, struct status *st)
{
    const int c = json_scan_peek(json);
    struct json_walk walk = {0};
    struct span number;
    switch (c) {
    case '"':
        return skip_string(json, scratch, st);
    case 't':
        return json_scan_word(json, "true", st);
    case 'f':
        return json_scan_word(json, "false", st);
    case 'n':
        return json_scan_word(json, "null", st);
    case '{':
    case '[':
        while (c == '{' ? json_scan_member(json, &walk, scratch, st)
                        : json_scan_next(json, c, &walk, st))
            if (!skip_value(json, scratch, st))
                return false;
        return walk.ended;
    default:
        return json_scan_number(json, &number, st);
    }
}

bool json_scan_skip(struct json_scan *json, struct status *st)
{
    struct buffer scratch = {0};
    const bool ok = skip_value(json, &scratch, st);
    buffer_clear(&scratch);
    return ok;
}

bool json_scan_end(struct json_scan *json, struct status *st)
{
    return json_scan_peek(json) < 0 || json_scan_refuse(json, "text after the end", st);
}
