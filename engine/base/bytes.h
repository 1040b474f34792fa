/* bytes.h - span (borrowed) and buffer (owned), always with a length. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

/* Borrowed bytes; whoever hands one out says how long it is valid. */
struct span {
    const uint8_t *data;
    size_t size;
};

struct span span_of(const void *data, size_t size);
struct span span_text(const char *text);
bool span_equal(struct span a, struct span b);
bool span_is(struct span a, const char *text);
/* The whole number that these digits are, and nothing beside them; false: none, or not within
 * [min, max]. */
bool span_number(struct span digits, uint64_t min, uint64_t max, uint64_t *out);
/* What a hexadecimal digit of either case is worth; -1: c is none. */
int hex_digit(int c);

/* Owned bytes that grow. Zeroed is empty. */
struct buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

void buffer_clear(struct buffer *buffer);                    /* frees; leaves it empty */
void buffer_reset(struct buffer *buffer);                    /* empty, memory kept */
void buffer_reserve(struct buffer *buffer, size_t capacity); /* room for so many bytes in all */
void buffer_append(struct buffer *buffer, const void *data, size_t size);
void buffer_append_text(struct buffer *buffer, const char *text);
void buffer_append_byte(struct buffer *buffer, uint8_t byte);
void buffer_printf(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
struct span buffer_span(const struct buffer *buffer); /* until the next change */

/* Whole file into `out`; refused when larger than limit_bytes. `out` is untouched on failure. */
MUST_CHECK bool bytes_read_file(struct buffer *out, const char *path, size_t limit_bytes,
                                struct status *st);

/* Bytes of the longest prefix that is well-formed UTF-8 (RFC 3629: no surrogates, no overlong
 * forms, nothing above U+10FFFF). Equal to size when all of it is. */
size_t utf8_valid_prefix(const uint8_t *data, size_t size);

/* Decode one code point at data[0]; its length in bytes, or 0 when it is ill-formed or cut off. */
size_t utf8_decode(const uint8_t *data, size_t size, uint32_t *out);

/* Write a code point (not a surrogate, at most U+10FFFF); its length in bytes, 1 to 4. */
size_t utf8_encode(uint32_t code_point, uint8_t out[4]);
