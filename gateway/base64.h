/* base64.h - base64 to bytes, in pieces of any size. */
#pragma once
#include "engine/base/bytes.h"
#include <stddef.h>
#include <stdint.h>

/* Zeroed is the start. */
struct base64 {
    uint32_t quad;
    unsigned quad_size, padding;
};

/* Append what the next characters stand for. Blanks and line ends are skipped, padding may be left
 * out. False: a character that cannot stand there. */
MUST_CHECK bool base64_add(struct base64 *state, const uint8_t *data, size_t size,
                           struct buffer *out);
/* The last bytes. False: the text is cut off. */
MUST_CHECK bool base64_end(struct base64 *state, struct buffer *out);
