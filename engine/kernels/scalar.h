/* scalar.h - small shared pieces of the `_c` kernels; never included by files with ISA flags. */
#pragma once
#include "engine/kernels/polynomials.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 8 /* partial sums of a row; element i goes to lane i % LANES */

/* The order in which eight partial sums become one. */
static inline float lanes_sum(const float lane[LANES])
{
    float a0 = lane[0] + lane[4], a1 = lane[1] + lane[5];
    float a2 = lane[2] + lane[6], a3 = lane[3] + lane[7];
    return (a0 + a2) + (a1 + a3);
}

static inline float scalar_exp(float x)
{
    if (x < EXP_MIN)
        return 0.0f;
    if (x > EXP_MAX)
        x = EXP_MAX;
    float n = (x * EXP_LOG2E + EXP_ROUND) - EXP_ROUND;
    float r = (x - n * EXP_LN2_HIGH) - n * EXP_LN2_LOW;
    float p = EXP_P0;
    p = p * r + EXP_P1;
    p = p * r + EXP_P2;
    p = p * r + EXP_P3;
    p = p * r + EXP_P4;
    p = p * r + EXP_P5;
    p = (p * (r * r) + r) + 1.0f;
    int32_t exponent;
    float power;
    if (!(n >= -126.0f)) /* NaN only: n is bounded by the two limits above */
        return x;
    exponent = ((int32_t)n + 127) * (1 << 23);
    memcpy(&power, &exponent, sizeof power);
    return p * power;
}

static inline float scalar_tanh(float x)
{
    float size = fabsf(x);
    if (size < TANH_SMALL) {
        float z = x * x;
        float p = TANH_P0;
        p = p * z + TANH_P1;
        p = p * z + TANH_P2;
        p = p * z + TANH_P3;
        p = p * z + TANH_P4;
        return (p * z) * x + x;
    }
    return copysignf(1.0f - 2.0f / (scalar_exp(size + size) + 1.0f), x);
}
