/* math_neon.h - pieces shared by the NEON files, vectors of four; as math_avx2.h, and the same
 * numbers. */
#pragma once
#include "engine/kernels/polynomials.h"
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Loops over a number of rows that is known where it is called are unrolled into registers. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* The first n of four values, the others zero. */
static inline float32x4_t load_some(const float *x, size_t n)
{
    float lane[4] = {0};
    if (n >= 4)
        return vld1q_f32(x);
    memcpy(lane, x, n * sizeof *x);
    return vld1q_f32(lane);
}

static inline void store_some(float *out, float32x4_t v, size_t n)
{
    float lane[4];
    if (n >= 4) {
        vst1q_f32(out, v);
        return;
    }
    vst1q_f32(lane, v);
    memcpy(out, lane, n * sizeof *out);
}

/* Four half floats. */
static inline float32x4_t load_half(const void *at)
{
    uint16_t half[4];
    memcpy(half, at, sizeof half);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
}

/* Lanes 0 .. 3 and 4 .. 7 of eight partial sums, as lanes_sum of scalar.h adds them. */
static inline float lanes_sum(float32x4_t low, float32x4_t high)
{
    float32x4_t a = vaddq_f32(low, high);
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

/* As scalar_exp, bit for bit. */
static inline float32x4_t exp_four(float32x4_t x)
{
    const float32x4_t round = vdupq_n_f32(EXP_ROUND);
    uint32x4_t tiny = vcltq_f32(x, vdupq_n_f32(EXP_MIN));
    x = vminq_f32(x, vdupq_n_f32(EXP_MAX)); /* a NaN stays */
    float32x4_t n = vmulq_f32(x, vdupq_n_f32(EXP_LOG2E));
    n = vsubq_f32(vaddq_f32(n, round), round);
    float32x4_t r = vsubq_f32(x, vmulq_f32(n, vdupq_n_f32(EXP_LN2_HIGH)));
    r = vsubq_f32(r, vmulq_f32(n, vdupq_n_f32(EXP_LN2_LOW)));
    float32x4_t p = vdupq_n_f32(EXP_P0);
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(EXP_P1));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(EXP_P2));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(EXP_P3));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(EXP_P4));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(EXP_P5));
    p = vaddq_f32(vmulq_f32(p, vmulq_f32(r, r)), r);
    p = vaddq_f32(p, vdupq_n_f32(1.0f));
    int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    float32x4_t y = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    return vbslq_f32(tiny, vdupq_n_f32(0.0f), y);
}

/* The largest of |x| for n values, a multiple of 4; a NaN is passed over. */
static inline float largest_size(const float *x, size_t n)
{
    float32x4_t largest = vdupq_n_f32(0.0f);
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t size = vabsq_f32(vld1q_f32(x + i));
        largest = vbslq_f32(vcgtq_f32(size, largest), size, largest);
    }
    return vmaxvq_f32(largest);
}

/* Four values in units of step: the nearest whole numbers, even in the middle, within +-limit;
 * what is not a number becomes -limit. */
static inline int32x4_t round_four(const float *x, float step, float limit)
{
    float32x4_t v = vdivq_f32(vld1q_f32(x), vdupq_n_f32(step));
    v = vminnmq_f32(vmaxnmq_f32(v, vdupq_n_f32(-limit)), vdupq_n_f32(limit));
    return vcvtnq_s32_f32(v);
}
