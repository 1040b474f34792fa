/* Q5_0: 32 values a block; half-float d, then h[4]: bit i is the fifth bit of value i, then b[16]:
 * low nibbles are values 0..15, high ones 16..31; value = d (five bits - 16). */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 22

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b);
        uint32_t h;
        memcpy(&h, b + 2, sizeof h);
        for (size_t j = 0; j < VALUES / 2; j++) {
            uint32_t low = (b[6 + j] & 15u) | ((h >> j) & 1u) << 4;
            uint32_t high = (uint32_t)(b[6 + j] >> 4) | ((h >> (j + VALUES / 2)) & 1u) << 4;
            out[i + j] = d * (float)((int)low - 16);
            out[i + j + VALUES / 2] = d * (float)((int)high - 16);
        }
    }
}

const struct quant_row quant_q5_0 = {
    .dtype = DTYPE_Q5_0,
    .name = "q5_0",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
