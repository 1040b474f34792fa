/* Q4_1: 32 values a block; half-float d and m, then b[16]: low nibbles are values 0..15, high ones
 * 16..31; value = d nibble + m. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 20

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b), m = part_half(b + 2);
        for (size_t j = 0; j < VALUES / 2; j++) {
            out[i + j] = d * (float)(b[4 + j] & 15) + m;
            out[i + j + VALUES / 2] = d * (float)(b[4 + j] >> 4) + m;
        }
    }
}

const struct quant_row quant_q4_1 = {
    .dtype = DTYPE_Q4_1,
    .name = "q4_1",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
