/* BF16: the upper half of a float32, one value a block. */
#include "engine/quant/types.h"
#include <string.h>

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, bytes + 2 * i, sizeof upper);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* Nearest even. A NaN stays a NaN: its upper half is kept and made quiet. */
static uint16_t round_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static void from_f32(void *blocks, const float *in, size_t n)
{
    uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t upper = round_bf16(in[i]);
        memcpy(bytes + 2 * i, &upper, sizeof upper);
    }
}

const struct quant_row quant_bf16 = {
    .dtype = DTYPE_BF16,
    .name = "bf16",
    .block_values = 1,
    .block_bytes = 2,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
