/* IQ4_XS: 256 values a block of 136 bytes; half-float d, six-bit scales of 32 values each (sh:
 * upper two bits, sl[4]: lower four), q[128]: 16 bytes a group; value = d (scale - 32)
 * level[nibble]. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 256
#define BYTES 136

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b);
        for (size_t group = 0; group < 8; group++) {
            float step = d * (float)part_iq4_xs_scale(b, group);
            part_lookup(out + i + 32 * group, b + 8 + 16 * group, step, part_iq4_levels);
        }
    }
}

const struct quant_row quant_iq4_xs = {
    .dtype = DTYPE_IQ4_XS,
    .name = "iq4_xs",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
