/* MXFP4: 32 values a block; e8m0 exponent e, then b[16]: low nibbles are values 0..15, high ones
 * 16..31; value = 2^(e - 128) level[nibble]. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 17

const int8_t part_mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES)
        part_lookup(out + i, b + 1, part_half_power(b[0]), part_mxfp4_levels);
}

const struct quant_row quant_mxfp4 = {
    .dtype = DTYPE_MXFP4,
    .name = "mxfp4",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
