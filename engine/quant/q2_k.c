/* Q2_K: 256 values a block of 84 bytes; s[16]: scale (low nibble) and min (high) of 16 values each,
 * q[64]: two bits a value, half-float d and dmin; value = d scale bits - dmin min. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 256
#define BYTES 84

/* The 32 bytes of half a block hold its values 32 k + l at bits 2 k of byte l. */
static void half_block(float *out, const uint8_t *q, const uint8_t *s, float d, float dmin)
{
    for (size_t k = 0; k < 4; k++)
        for (size_t l = 0; l < 32; l++) {
            uint8_t group = s[2 * k + l / 16];
            float scale = d * (float)(group & 15), min = dmin * (float)(group >> 4);
            out[32 * k + l] = scale * (float)((q[l] >> 2 * k) & 3) - min;
        }
}

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b + 80), dmin = part_half(b + 82);
        half_block(out + i, b + 16, b, d, dmin);
        half_block(out + i + 128, b + 48, b + 8, d, dmin);
    }
}

const struct quant_row quant_q2_k = {
    .dtype = DTYPE_Q2_K,
    .name = "q2_k",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
