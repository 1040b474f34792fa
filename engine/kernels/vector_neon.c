/* Norm, activation functions, rounding and rotation, NEON: the same bits as norm_c.c, act_c.c and
 * rope_c.c. */
#include "engine/kernels/math_neon.h"

#define LANES ((size_t)4)

typedef float32x4_t floats;

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    return load_some(x, n);
}

static ALWAYS_INLINE void floats_put(float *out, floats v, size_t n)
{
    store_some(out, v, n);
}

static ALWAYS_INLINE floats floats_exp(floats x)
{
    return exp_four(x);
}

static ALWAYS_INLINE floats floats_size(floats x)
{
    return vabsq_f32(x);
}

static ALWAYS_INLINE floats floats_pick(floats size, floats small, floats large, floats x)
{
    large = vbslq_f32(vdupq_n_u32(UINT32_C(1) << 31), x, large);
    return vbslq_f32(vcltq_f32(size, vdupq_n_f32(TANH_SMALL)), small, large);
}

static ALWAYS_INLINE float squares(const float *x, size_t n)
{
    floats sum[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (size_t i = 0; i < n; i += LANES) {
        floats v = load_some(x + i, n - i);
        sum[i / LANES % 2] += v * v;
    }
    return lanes_sum(sum[0], sum[1]);
}

static ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    return largest_size(x, n);
}

static ALWAYS_INLINE int32_t round_group(int8_t *q, const float *x, float step, size_t n)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t i = 0; i < n; i += 16) {
        int32x4_t v[4];
        for (size_t k = 0; k < 4; k++)
            v[k] = round_four(x + i + k * LANES, step, 127.0f);
        int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
        int16x8_t high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
        vst1q_s8(q + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        sum = vaddq_s32(sum, vaddq_s32(vaddq_s32(v[0], v[1]), vaddq_s32(v[2], v[3])));
    }
    return vaddvq_s32(sum);
}

#include "engine/kernels/vector_walk.h"

VECTORS(neon)
