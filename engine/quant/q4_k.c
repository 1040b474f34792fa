/* Q4_K: 256 values a block of 144 bytes; half-float d and dmin, s[12]: six-bit scales and mins of
 * 32 values each, q[128]: nibbles; value = d scale nibble - dmin min. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 256
#define BYTES 144

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b), dmin = part_half(b + 2);
        for (size_t group = 0; group < 8; group++) {
            const uint8_t *q = b + 16 + 32 * (group / 2); /* low nibbles: the even group */
            int scale, min;
            part_scale_min(&scale, &min, b + 4, group);
            float step = d * (float)scale, base = dmin * (float)min;
            for (size_t l = 0; l < 32; l++) {
                int nibble = group % 2 ? q[l] >> 4 : q[l] & 15;
                out[i + 32 * group + l] = step * (float)nibble - base;
            }
        }
    }
}

const struct quant_row quant_q4_k = {
    .dtype = DTYPE_Q4_K,
    .name = "q4_k",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
