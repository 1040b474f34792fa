/* json_text.h - walks JSON in its own spelling: members in order, numbers as they were written.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define JSON_TEXT_BYTES_MAX ((size_t)4 << 20)
#define JSON_TEXT_VALUES_MAX ((size_t)1 << 17)

enum json_text_kind {
    JSON_TEXT_NULL,
    JSON_TEXT_FALSE,
    JSON_TEXT_TRUE,
    JSON_TEXT_NUMBER,
    JSON_TEXT_STRING,
    JSON_TEXT_ARRAY,
    JSON_TEXT_OBJECT,
};

struct json_value {
    enum json_text_kind kind;
    struct span name;        /* of a member of an object, decoded */
    struct span text;        /* a string decoded; a number as it was written; else empty */
    struct json_value *next; /* in the same array or object, NULL: last */
    struct json_value *first;
    size_t n; /* of an array or object: how many are in it */
};

/* A parsed text. Zeroed is empty. */
struct json_text {
    struct json_value *root; /* until json_text_clear */
    struct json_value *values;
    struct buffer strings;
};

/* Parse all of `text`, which may go away afterwards. As Python's json: of members with the same
 * name the last value counts, at the place of the first. Stricter than Python: no NaN or Infinity,
 * no lone surrogates. The error says at which byte. */
MUST_CHECK bool json_text_init(struct json_text *out, struct span text, struct status *st);
void json_text_clear(struct json_text *json);

/* A member of an object; NULL when it has none of that name or `value` is no object (or NULL). */
const struct json_value *json_text_get(const struct json_value *value, const char *name);
/* What Python takes for true: not null, false, zero, or empty. NULL is not true. */
bool json_text_truth(const struct json_value *value);

/* Members sorted as Jinja's dictsort does: by the code points of the lower-cased names, equal ones
 * in their order. Writes value->n pointers. */
void json_text_sorted(const struct json_value *object, const struct json_value **out);

/* A number as Python prints it: an integer with all its digits, else the shortest text that reads
 * back, with a point or an exponent (or inf, beyond the range of a double). */
void json_text_number(struct span number, struct buffer *out);

/* Write compact JSON: members in order, numbers as written, only what must be escaped is. */
void json_text_write(const struct json_value *value, struct buffer *out);
void json_text_quote(struct span text, struct buffer *out);
