/* values.h - msgpack values for the files of proto that give them a meaning; codec.c speaks to
 * msgpack-c for them. */
#pragma once
#include "engine/base/bytes.h"

void value_put_map(struct buffer *out, size_t n); /* n keys and values follow, in turn */
void value_put_array(struct buffer *out, size_t n);
void value_put_text(struct buffer *out, struct span text);
void value_put_bytes(struct buffer *out, const void *data, size_t size);
void value_put_uint(struct buffer *out, uint64_t number);
void value_put_int(struct buffer *out, int64_t number);
void value_put_float(struct buffer *out, double number);
void value_put_bool(struct buffer *out, bool yes);

enum value_type {
    VALUE_NIL,
    VALUE_BOOL,
    VALUE_UINT, /* zero and above */
    VALUE_NEGATIVE,
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_BYTES,
    VALUE_ARRAY,
    VALUE_MAP
};
struct value {
    enum value_type type;
    bool yes;
    uint64_t number;
    int64_t negative;
    double real;
    struct span bytes;  /* of a text or bytes; points into what is read */
    size_t n;           /* of an array */
    const void *items_; /* codec.c */
};

/* Reads bytes that check_msgpack has let pass, one value after the other. What it takes from memory
 * for arrays is bounded by the nodes counted there. */
struct reader {
    struct span bytes;
    size_t at;
    void *zone; /* codec.c */
};
void reader_init(struct reader *reader, struct span bytes);
void reader_clear(struct reader *reader);
/* Lets go of the arrays read so far; texts stay. */
void reader_forget(struct reader *reader);
struct value reader_next(struct reader *reader);
/* The opening of a map or an array of *out values; false when something else is there. */
bool reader_open_map(struct reader *reader, size_t *out);
bool reader_open_array(struct reader *reader, size_t *out);
/* Item i of an array, until reader_forget. */
struct value value_item(const struct value *array, size_t i);
bool value_is_text(const struct value *value);
/* Index of a text in a table of n names; anything else is refused as unknown. */
MUST_CHECK bool value_name(size_t *out, const struct value *value, const char *const *names,
                           size_t n, struct status *st);
