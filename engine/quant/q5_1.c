/* Q5_1: 32 values a block; half-float d and m, then h[4]: bit i is the fifth bit of value i, then
 * b[16]: low nibbles are values 0..15, high ones 16..31; value = d five bits + m. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 24

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b), m = part_half(b + 2);
        uint32_t h;
        memcpy(&h, b + 4, sizeof h);
        for (size_t j = 0; j < VALUES / 2; j++) {
            uint32_t low = (b[8 + j] & 15u) | ((h >> j) & 1u) << 4;
            uint32_t high = (uint32_t)(b[8 + j] >> 4) | ((h >> (j + VALUES / 2)) & 1u) << 4;
            out[i + j] = d * (float)low + m;
            out[i + j + VALUES / 2] = d * (float)high + m;
        }
    }
}

const struct quant_row quant_q5_1 = {
    .dtype = DTYPE_Q5_1,
    .name = "q5_1",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
