/* Norm, activation functions, rounding and rotation, NEON: the same bits as norm_c.c, act_c.c and
 * rope_c.c. */
#include "engine/kernels/math_neon.h"
#include <assert.h>

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

#include "engine/kernels/vector_walk.h"

VECTORS(neon)

/* 16 values; leaves their sum. */
static inline int32_t round_sixteen(int8_t *q, const float *x, float step)
{
    int32x4_t v[4];
    for (size_t k = 0; k < 4; k++)
        v[k] = round_four(x + k * LANES, step, 127.0f);
    int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
    vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    return vaddvq_s32(vaddq_s32(vaddq_s32(v[0], v[1]), vaddq_s32(v[2], v[3])));
}

void round_row_neon(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n, size_t block)
{
    size_t group = ACT_GROUP(block);
    assert(block == 32 || block == 256);
    for (size_t b = 0; b < n; b += block) {
        float step = largest_size(x + b, block) / 127.0f;
        bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
        scale[b / block] = step;
        for (size_t i = b; i < b + block; i += group)
            sum[i / group] = 0;
        for (size_t i = b; i < b + block; i += 16) {
            if (usable)
                sum[i / group] += round_sixteen(q + i, x + i, step);
            else
                vst1q_s8(q + i, vdupq_n_s8(0));
        }
    }
}
