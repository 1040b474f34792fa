/* parts.h - what the blocks of several storage types share; spec weights.md section 6. */
#pragma once
#include "engine/quant/quant.h"
#include <string.h>

static inline float part_half(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return quant_f16_to_f32(half);
}

/* Q4_K and Q5_K: the six-bit scale and min of groups 0..7, from 12 bytes. */
static inline void part_scale_min(int *scale, int *min, const uint8_t *s, size_t group)
{
    if (group < 4) {
        *scale = s[group] & 63;
        *min = s[group + 4] & 63;
    } else {
        *scale = (s[group + 4] & 15) | (s[group - 4] >> 6) << 4;
        *min = (s[group + 4] >> 4) | (s[group] >> 6) << 4;
    }
}

/* Q3_K: the six-bit scale of groups 0..15, less 32, from 12 bytes. Scales 0..7 have their lower
 * four bits in the low nibbles of t[0..7], 8..15 in the high ones; the upper two bits are in
 * t[8..11]. */
static inline int part_q3_k_scale(const uint8_t *t, size_t group)
{
    int low = group < 8 ? t[group] & 15 : t[group - 8] >> 4;
    int high = (t[8 + group % 4] >> 2 * (group / 4)) & 3;
    return (low | high << 4) - 32;
}

/* IQ4_XS: the six-bit scale of groups 0..7, less 32, from the beginning of a block. */
static inline int part_iq4_xs_scale(const uint8_t *block, size_t group)
{
    int low = (block[4 + group / 2] >> 4 * (group % 2)) & 15;
    int high = (block[2 + group / 4] >> 2 * (group % 4)) & 3;
    return (low | high << 4) - 32;
}

/* 16 bytes to 32 values: low nibbles are values 0..15, high ones 16..31; value = d table[nibble].
 */
static inline void part_lookup(float *out, const uint8_t *bytes, float d, const int8_t *table)
{
    for (size_t j = 0; j < 16; j++) {
        out[j] = d * (float)table[bytes[j] & 15];
        out[j + 16] = d * (float)table[bytes[j] >> 4];
    }
}

/* The sixteen levels of IQ4_NL and IQ4_XS; in iq4_nl.c. */
extern const int8_t part_iq4_levels[16];
/* Twice the values of e2m1, to be whole; in mxfp4.c. */
extern const int8_t part_mxfp4_levels[16];

/* The scale of these: half of an e8m0 number, 2^(e - 128). */
static inline float part_half_power(uint8_t e)
{
    uint32_t bits = e >= 2 ? (uint32_t)(e - 1) << 23 : 0x00200000u << e; /* below: subnormal */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}
