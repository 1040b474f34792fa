/* Q6_K: 256 values a block of 210 bytes; ql[128] lower nibbles, qh[64] upper two bits, int8
 * scales[16], half-float d; value = d scale (six bits - 32). Layout: spec weights.md section 6. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"
#include <string.h>

#define VALUES 256
#define BYTES 210

static void half_block(float *out, const uint8_t *ql, const uint8_t *qh, const int8_t *scales,
                       float d)
{
    for (size_t l = 0; l < 32; l++) {
        const int q[4] = {
            (ql[l] & 15) | (qh[l] & 3) << 4,
            (ql[l + 32] & 15) | ((qh[l] >> 2) & 3) << 4,
            (ql[l] >> 4) | ((qh[l] >> 4) & 3) << 4,
            (ql[l + 32] >> 4) | (qh[l] >> 6) << 4,
        };
        for (size_t k = 0; k < 4; k++) {
            size_t group = 2 * k + l / 16;
            out[32 * k + l] = d * (float)scales[group] * (float)(q[k] - 32);
        }
    }
}

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        const int8_t *scales = (const int8_t *)(b + 192);
        float d = part_half(b + 208);
        half_block(out + i, b, b + 128, scales, d);
        half_block(out + i + 128, b + 64, b + 160, scales + 8, d);
    }
}

const struct quant_row quant_q6_k = {
    .dtype = DTYPE_Q6_K,
    .name = "q6_k",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
