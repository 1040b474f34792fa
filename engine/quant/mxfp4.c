/* MXFP4: 32 values a block; e8m0 exponent e, then b[16]: low nibbles are values 0..15, high ones
 * 16..31; value = 2^(e - 128) level[nibble]. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"

#define VALUES 32
#define BYTES 17

/* Twice the values of e2m1, to be whole: so the scale is half of 2^(e - 127). */
static const int8_t levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_scale(uint8_t e)
{
    uint32_t bits = e >= 2 ? (uint32_t)(e - 1) << 23 : 0x00200000u << e; /* below: subnormal */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES)
        part_lookup(out + i, b + 1, half_scale(b[0]), levels);
}

const struct quant_row quant_mxfp4 = {
    .dtype = DTYPE_MXFP4,
    .name = "mxfp4",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
};
