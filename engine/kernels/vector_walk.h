/* vector_walk.h - norm, activation functions, rounding and rotation, whatever the width of a
 * vector; static, as math_avx2.h. The bits are those of norm_c.c, act_c.c and rope_c.c: nothing
 * here is fused, and a tail goes through the same code in a padded vector. The file that includes
 * it defines before:
 *
 *   LANES, floats in a vector
 *   floats                  a vector of float, with the operators of C
 *   floats_first            the first n of a vector's numbers, the others zero; all of them from
 *                           LANES on
 *   floats_put              the first n to memory, or all
 *   floats_exp              as scalar_exp
 *   floats_size             |x|
 *   floats_pick             small where size < TANH_SMALL, else large with the sign of x
 *   squares                 the sum of x^2 for n values, in the order of rmsnorm_c
 *   largest_of              the largest |x| of n values, n a multiple of 16; a NaN is passed over
 *   round_group             n values (16 or 32) in units of step become whole numbers as in
 *                           round_row_c; their sum */
#pragma once
#include "engine/kernels/sets.h"
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static ALWAYS_INLINE float norm_factor(const float *x, size_t n, float epsilon)
{
    return 1.0f / sqrtf(squares(x, n) / (float)n + epsilon);
}

static ALWAYS_INLINE void rmsnorm(float *out, const float *x, const float *weight, size_t n,
                                  float epsilon)
{
    float factor = norm_factor(x, n, epsilon);
    for (size_t i = 0; i < n; i += LANES) {
        floats y = floats_first(x + i, n - i) * factor;
        if (weight)
            y = y * floats_first(weight + i, n - i);
        floats_put(out + i, y, n - i);
    }
}

static ALWAYS_INLINE void add_norm(float *x, const float *y, const float *weight, size_t n,
                                   float epsilon, float scale)
{
    float factor = norm_factor(y, n, epsilon);
    for (size_t i = 0; i < n; i += LANES) {
        floats more = floats_first(y + i, n - i) * factor * floats_first(weight + i, n - i);
        floats_put(x + i, (floats_first(x + i, n - i) + more) * scale, n - i);
    }
}

static ALWAYS_INLINE floats gelu(floats u)
{
    floats cube = ((GELU_CUBE * u) * u) * u;
    return u / (1.0f + floats_exp(GELU_SCALE * (u + cube)));
}

static ALWAYS_INLINE void gelu_mul(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        floats y = gelu(floats_first(gate + i, n - i));
        if (up)
            y = y * floats_first(up + i, n - i);
        floats_put(out + i, y, n - i);
    }
}

static ALWAYS_INLINE floats floats_tanh(floats x)
{
    floats size = floats_size(x), z = x * x;
    floats p = TANH_P0 * z + TANH_P1;
    p = p * z + TANH_P2;
    p = p * z + TANH_P3;
    p = p * z + TANH_P4;
    return floats_pick(size, (p * z) * x + x, 1.0f - 2.0f / (floats_exp(size + size) + 1.0f), x);
}

static ALWAYS_INLINE void softcap(float *x, size_t n, float cap)
{
    for (size_t i = 0; i < n; i += LANES)
        floats_put(x + i, cap * floats_tanh(floats_first(x + i, n - i) / cap), n - i);
}

static ALWAYS_INLINE void rope(float *x, const float *cos, const float *sin, size_t heads,
                               size_t half)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half) {
        for (size_t j = 0; j < half; j += LANES) {
            size_t n = half - j;
            floats a = floats_first(x + j, n), b = floats_first(x + j + half, n);
            floats c = floats_first(cos + j, n), s = floats_first(sin + j, n);
            floats_put(x + j, a * c - b * s, n);
            floats_put(x + j + half, b * c + a * s, n);
        }
    }
}

static ALWAYS_INLINE void round_row(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n,
                                    size_t block)
{
    size_t group = ACT_GROUP(block);
    for (size_t b = 0; b < n; b += block) {
        float step = act_step(largest_of(x + b, block), block);
        bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
        scale[b / block] = step;
        for (size_t i = b; i < b + block; i += group) {
            if (!usable)
                memset(q + i, 0, group);
            sum[i / group] = usable ? round_group(q + i, x + i, step, group) : 0;
        }
    }
}

/* The operations under the names of a set. */
#define VECTORS(set)                                                                               \
    void rmsnorm_##set(float *out, const float *x, const float *weight, size_t n, float epsilon)   \
    {                                                                                              \
        rmsnorm(out, x, weight, n, epsilon);                                                       \
    }                                                                                              \
    void add_norm_##set(float *x, const float *y, const float *weight, size_t n, float epsilon,    \
                        float scale)                                                               \
    {                                                                                              \
        add_norm(x, y, weight, n, epsilon, scale);                                                 \
    }                                                                                              \
    void gelu_mul_##set(float *out, const float *gate, const float *up, size_t n)                  \
    {                                                                                              \
        gelu_mul(out, gate, up, n);                                                                \
    }                                                                                              \
    void softcap_##set(float *x, size_t n, float cap)                                              \
    {                                                                                              \
        softcap(x, n, cap);                                                                        \
    }                                                                                              \
    void rope_##set(float *x, const float *cos, const float *sin, size_t heads, size_t half)       \
    {                                                                                              \
        rope(x, cos, sin, heads, half);                                                            \
    }                                                                                              \
    void round_row_##set(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n,          \
                         size_t block)                                                             \
    {                                                                                              \
        assert(block == 32 || block == 256);                                                       \
        if (block == 32)                                                                           \
            round_row(q, scale, sum, x, n, 32);                                                    \
        else                                                                                       \
            round_row(q, scale, sum, x, n, 256);                                                   \
    }
