/* Q3_K: 256 values a block of 110 bytes; hm[32]: third bits, q[64]: two bits a value, t[12]:
 * six-bit scales of 16 values each, half-float d; value = d (scale - 32) (bits, minus 4 without the
 * third). */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 256
#define BYTES 110

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b + 108);
        for (size_t run = 0; run < 8; run++) { /* of 32 values */
            const uint8_t *q = b + 32 + 32 * (run / 4);
            for (size_t l = 0; l < 32; l++) {
                float scale = d * (float)part_q3_k_scale(b + 96, 2 * run + l / 16);
                int bits = (q[l] >> 2 * (run % 4)) & 3;
                int third = (b[l] >> run) & 1;
                out[i + 32 * run + l] = scale * (float)(bits - (third ? 0 : 4));
            }
        }
    }
}

const struct quant_row quant_q3_k = {
    .dtype = DTYPE_Q3_K,
    .name = "q3_k",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
