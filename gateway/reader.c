#include "gateway/reader.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool reader_refuse(struct reader *r, enum status_code code, const char *format, ...)
{
    char text[sizeof r->error->text];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return api_refuse(r->error, code, r->path, "%s", text);
}

/* A path that is too long is cut: it only has to help a reader. */
static void append(struct reader *r, const char *text)
{
    size_t used = strlen(r->path);
    size_t n = strlen(text);

    if (n > sizeof r->path - 1 - used)
        n = utf8_valid_prefix((const uint8_t *)text, sizeof r->path - 1 - used);
    memcpy(r->path + used, text, n);
    r->path[used + n] = 0;
}

size_t reader_enter(struct reader *r, const char *key)
{
    size_t mark = strlen(r->path);

    if (mark > 0)
        append(r, ".");
    append(r, key);
    return mark;
}

size_t reader_enter_index(struct reader *r, size_t index)
{
    char text[32];
    size_t mark = strlen(r->path);

    (void)snprintf(text, sizeof text, "[%zu]", index);
    append(r, text);
    return mark;
}

void reader_leave(struct reader *r, size_t mark)
{
    r->path[mark] = 0;
}

bool reader_object(struct reader *r, const json_t *value, const struct reader_row *rows,
                   size_t n_rows, void *into)
{
    const char *key;
    json_t *member;

    if (!json_is_object(value))
        return reader_refuse(r, STATUS_INVALID, "must be an object");
    /* The macro wants a pointer that is not const, and changes nothing. */
    json_object_foreach((json_t *)value, key, member)
    {
        const struct reader_row *row = NULL;
        for (size_t i = 0; i < n_rows && !row; i++)
            row = strcmp(rows[i].key, key) == 0 ? &rows[i] : NULL;
        size_t mark = reader_enter(r, key);
        if (!row)
            return reader_refuse(r, STATUS_INVALID, "unknown field");
        if (!json_is_null(member) && !row->read(r, member, row, into))
            return false;
        reader_leave(r, mark);
    }
    return true;
}

static void *field(const struct reader_row *row, void *into)
{
    return (char *)into + row->offset;
}

bool read_bool(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    if (!json_is_boolean(value))
        return reader_refuse(r, STATUS_INVALID, "must be true or false");
    *(bool *)field(row, into) = json_is_true(value);
    return true;
}

bool read_integer(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    if (!json_is_integer(value))
        return reader_refuse(r, STATUS_INVALID, "must be an integer");
    json_int_t number = json_integer_value(value);
    if ((double)number < row->min || (double)number > row->max)
        return reader_refuse(r, STATUS_INVALID, "is %lld, must be from %.0f to %.0f",
                             (long long)number, row->min, row->max);
    *(int64_t *)field(row, into) = number;
    return true;
}

bool read_number(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    if (!json_is_number(value))
        return reader_refuse(r, STATUS_INVALID, "must be a number");
    double number = json_number_value(value);
    if (!(number >= row->min && number <= row->max))
        return reader_refuse(r, STATUS_INVALID, "is %g, must be from %g to %g", number, row->min,
                             row->max);
    *(double *)field(row, into) = number;
    return true;
}

bool reader_text(struct reader *r, const json_t *value, struct span *out)
{
    size_t medium;
    struct span text;

    if (!json_is_string(value))
        return reader_refuse(r, STATUS_INVALID, "must be a string");
    struct span raw = span_of(json_string_value(value), json_string_length(value));
    if (body_resolve(r->body, raw, &text, &medium) != BODY_IS_TEXT)
        return reader_refuse(r, STATUS_INVALID, "must be text");
    *out = text;
    return true;
}

bool reader_word(struct reader *r, const json_t *value, const char *words, struct span *out)
{
    struct span text = {0};

    if (json_is_string(value) && !reader_text(r, value, &text))
        return false;
    for (const char *word = words; *word; word += strspn(word, " ")) {
        size_t n = strcspn(word, " ");
        if (span_equal(text, span_of(word, n))) {
            *out = text;
            return true;
        }
        word += n;
    }
    return reader_refuse(r, STATUS_UNSUPPORTED, "must be one of: %s", words);
}

bool read_text(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    struct span text = {0};

    if (!reader_text(r, value, &text))
        return false;
    if ((double)text.size < row->min || (double)text.size > row->max)
        return reader_refuse(r, STATUS_INVALID, "has %zu bytes, must have from %.0f to %.0f",
                             text.size, row->min, row->max);
    *(struct span *)field(row, into) = text;
    return true;
}

bool read_false(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    (void)row;
    (void)into;
    return json_is_false(value) || reader_refuse(r, STATUS_UNSUPPORTED, "only false is supported");
}

bool read_zero(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    (void)row;
    (void)into;
    return (json_is_number(value) && json_number_value(value) == 0) ||
           reader_refuse(r, STATUS_UNSUPPORTED, "only 0 is supported");
}

bool read_empty(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    (void)row;
    (void)into;
    if (json_is_object(value) && json_object_size(value) == 0)
        return true;
    if (json_is_array(value) && json_array_size(value) == 0)
        return true;
    return reader_refuse(r, STATUS_UNSUPPORTED, "is not supported");
}

bool read_nothing(struct reader *r, const json_t *value, const struct reader_row *row, void *into)
{
    (void)value;
    (void)row;
    (void)into;
    return reader_refuse(r, STATUS_UNSUPPORTED, "is not supported");
}
