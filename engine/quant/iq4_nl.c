/* IQ4_NL: 32 values a block; half-float d, then b[16]: low nibbles are values 0..15, high ones
 * 16..31; value = d level[nibble]. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 18

const int8_t part_iq4_levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES)
        part_lookup(out + i, b + 2, part_half(b), part_iq4_levels);
}

const struct quant_row quant_iq4_nl = {
    .dtype = DTYPE_IQ4_NL,
    .name = "iq4_nl",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
