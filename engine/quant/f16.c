/* F16: IEEE 754 binary16, one value a block; also the scales of the quantized types. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"
#include <string.h>

/* 2^-24, the value of the last bit of a subnormal half. */
#define F16_SUBNORMAL_STEP 0x1p-24f

float quant_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    uint32_t bits;
    float value;

    if (exponent == 0) {
        value = (float)fraction * F16_SUBNORMAL_STEP; /* exact */
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7f800000u | fraction << 13;
        if (fraction)
            bits |= 0x00400000u; /* a NaN is made quiet, as F16C does */
    } else {
        bits = sign | (exponent + 112u) << 23 | fraction << 13;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t quant_f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;

    if (rest > 0x7f800000u) /* NaN */
        return (uint16_t)(sign | 0x7e00u | ((rest >> 13) & 0x1ffu));
    if (rest >= 0x47800000u) /* 65536 and up; what lies between 65520 and it rounds up below */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* below 2^-14: subnormal */
        uint32_t shift = 126u - (rest >> 23);
        if (shift > 24u + 1u)
            return (uint16_t)sign;
        uint32_t fraction = (rest & 0x7fffffu) | 0x800000u;
        uint32_t kept = fraction >> shift, lost = fraction & ((1u << shift) - 1u);
        uint32_t half = 1u << (shift - 1u);
        if (lost > half || (lost == half && (kept & 1u)))
            kept++;
        return (uint16_t)(sign | kept);
    }
    /* Round to nearest even; a carry out of the fraction runs into the exponent, as it should. */
    uint32_t rounded = rest + 0xfffu + ((rest >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        out[i] = part_half(bytes + 2 * i);
}

static void from_f32(void *blocks, const float *in, size_t n)
{
    uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = quant_f32_to_f16(in[i]);
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
}

const struct quant_row quant_f16 = {
    .dtype = DTYPE_F16,
    .name = "f16",
    .block_values = 1,
    .block_bytes = 2,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
