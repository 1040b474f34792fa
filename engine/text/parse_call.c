#include "engine/text/parse_call.h"
#include "engine/text/json_text.h"
#include "engine/text/unicode.h"
#include <string.h>

struct reader {
    struct span text;
    size_t at;
    char open[PARSE_CALL_DEPTH_MAX]; /* closing brackets still owed, outermost first */
    size_t depth;
    struct buffer *out;
};

static bool read_value(struct reader *r);

static int peek(const struct reader *r)
{
    return r->at < r->text.size ? r->text.data[r->at] : -1;
}

static bool is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_blanks(struct reader *r)
{
    while (is_blank(peek(r)))
        r->at++;
}

/* The last closing quote was forgotten: it stood before the closing brackets, if the text ends with
 * exactly those that are owed. The text then goes on with them. */
static bool read_unended(struct reader *r)
{
    struct span rest = span_of(r->text.data + r->at, r->text.size - r->at);
    rest = unicode_strip_end(rest);
    if (rest.size < r->depth)
        return false;
    for (size_t i = 0; i < r->depth; i++)
        if (rest.data[rest.size - 1 - i] != (uint8_t)r->open[i])
            return false;
    json_text_quote(span_of(rest.data, rest.size - r->depth), r->out);
    r->text.size = r->at + rest.size;
    r->at = r->text.size - r->depth;
    return true;
}

static bool read_string(struct reader *r)
{
    r->at++;
    const size_t left = r->text.size - r->at;
    const uint8_t *end = left == 0 ? NULL : memchr(r->text.data + r->at, PARSE_QUOTE, left);
    if (end == NULL)
        return read_unended(r);
    const size_t size = (size_t)(end - r->text.data) - r->at;
    json_text_quote(span_of(r->text.data + r->at, size), r->out);
    r->at += size + 1;
    return true;
}

static bool read_pair(struct reader *r)
{
    if (peek(r) == PARSE_QUOTE) {
        if (!read_string(r))
            return false;
    } else {
        const size_t start = r->at;
        while (peek(r) != -1 && peek(r) != PARSE_QUOTE && peek(r) != ':' && peek(r) != '}')
            r->at++;
        json_text_quote(span_of(r->text.data + start, r->at - start), r->out);
    }
    if (peek(r) != ':')
        return false;
    r->at++;
    buffer_append_byte(r->out, ':');
    skip_blanks(r);
    return read_value(r);
}

static bool read_items(struct reader *r, char closer)
{
    if (r->depth == PARSE_CALL_DEPTH_MAX)
        return false;
    buffer_append_byte(r->out, r->text.data[r->at]);
    r->at++;
    r->open[r->depth++] = closer;
    skip_blanks(r);
    if (peek(r) != closer)
        for (;;) {
            if (!(closer == '}' ? read_pair(r) : read_value(r)))
                return false;
            skip_blanks(r);
            if (peek(r) != ',')
                break;
            buffer_append_byte(r->out, ',');
            r->at++;
            skip_blanks(r);
        }
    if (peek(r) != closer)
        return false;
    buffer_append_byte(r->out, (uint8_t)closer);
    r->at++;
    r->depth--;
    return true;
}

/* A number or a word; whether it is one that JSON has is left to the reader of the result. */
static bool read_word(struct reader *r)
{
    const size_t start = r->at;
    for (;;) {
        const int c = peek(r);
        if (c == -1 || c == PARSE_QUOTE || c == ',' || c == '}' || c == ']' || is_blank(c))
            break;
        if ((c < '0' || c > '9') && (c < 'a' || c > 'z') && c != 'E' && c != '+' && c != '-' &&
            c != '.')
            return false;
        r->at++;
    }
    buffer_append(r->out, r->text.data + start, r->at - start);
    return r->at > start;
}

static bool read_value(struct reader *r)
{
    switch (peek(r)) {
    case '{':
        return read_items(r, '}');
    case '[':
        return read_items(r, ']');
    case PARSE_QUOTE:
        return read_string(r);
    default:
        return read_word(r);
    }
}

bool parse_call_read(struct span text, struct span *out_name, struct buffer *out_arguments)
{
    static const char call[] = "call:";
    const size_t prefix = sizeof(call) - 1;
    if (text.size < prefix || memcmp(text.data, call, prefix) != 0)
        return false;
    const uint8_t *brace = memchr(text.data, '{', text.size);
    if (brace == NULL)
        return false;
    const size_t at = (size_t)(brace - text.data);
    *out_name = unicode_strip(span_of(text.data + prefix, at - prefix));
    if (out_name->size == 0 || memchr(out_name->data, PARSE_QUOTE, out_name->size) != NULL)
        return false;
    struct buffer json = {0};
    struct reader r = {.text = text, .at = at, .out = &json};
    struct json_text parsed;
    struct status st = {0};
    /* Read back: checks words and numbers, and of keys written twice keeps the last. */
    const bool ok = read_value(&r) && json_text_init(&parsed, buffer_span(&json), &st);
    if (ok) {
        json_text_write(parsed.root, out_arguments);
        json_text_clear(&parsed);
    }
    buffer_clear(&json);
    return ok;
}
