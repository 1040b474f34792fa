/* Norm, activation functions, rounding and rotation, NEON: the same bits as norm_c.c, act_c.c and
 * rope_c.c, so nothing here is fused. A tail goes through the same code in a padded vector. */
#include "engine/kernels/math_neon.h"
#include "engine/kernels/sets.h"
#include <assert.h>
#include <math.h>

#define LANES ((size_t)4)

void rmsnorm_neon(float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    float32x4_t sum[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (size_t i = 0; i < n; i += LANES) {
        float32x4_t v = load_some(x + i, n - i);
        sum[i / LANES % 2] = vaddq_f32(sum[i / LANES % 2], vmulq_f32(v, v));
    }
    float mean = lanes_sum(sum[0], sum[1]) / (float)n;
    float32x4_t factor = vdupq_n_f32(1.0f / sqrtf(mean + epsilon));
    for (size_t i = 0; i < n; i += LANES) {
        float32x4_t y = vmulq_f32(load_some(x + i, n - i), factor);
        if (weight)
            y = vmulq_f32(y, load_some(weight + i, n - i));
        store_some(out + i, y, n - i);
    }
}

void add_scale_neon(float *x, const float *y, size_t n, float scale)
{
    for (size_t i = 0; i < n; i += LANES) {
        float32x4_t sum = vaddq_f32(load_some(x + i, n - i), load_some(y + i, n - i));
        store_some(x + i, vmulq_f32(sum, vdupq_n_f32(scale)), n - i);
    }
}

void gelu_mul_neon(float *out, const float *gate, const float *up, size_t n)
{
    const float32x4_t cube = vdupq_n_f32(GELU_CUBE), scale = vdupq_n_f32(GELU_SCALE);
    for (size_t i = 0; i < n; i += LANES) {
        float32x4_t u = load_some(gate + i, n - i);
        float32x4_t third = vmulq_f32(vmulq_f32(vmulq_f32(cube, u), u), u);
        float32x4_t e = exp_four(vmulq_f32(scale, vaddq_f32(u, third)));
        float32x4_t y = vdivq_f32(u, vaddq_f32(vdupq_n_f32(1.0f), e));
        if (up)
            y = vmulq_f32(y, load_some(up + i, n - i));
        store_some(out + i, y, n - i);
    }
}

static inline float32x4_t tanh_four(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    const uint32x4_t sign = vdupq_n_u32(UINT32_C(1) << 31);
    float32x4_t size = vabsq_f32(x), z = vmulq_f32(x, x);
    float32x4_t p = vdupq_n_f32(TANH_P0);
    p = vaddq_f32(vmulq_f32(p, z), vdupq_n_f32(TANH_P1));
    p = vaddq_f32(vmulq_f32(p, z), vdupq_n_f32(TANH_P2));
    p = vaddq_f32(vmulq_f32(p, z), vdupq_n_f32(TANH_P3));
    p = vaddq_f32(vmulq_f32(p, z), vdupq_n_f32(TANH_P4));
    float32x4_t small = vaddq_f32(vmulq_f32(vmulq_f32(p, z), x), x);
    float32x4_t e = vaddq_f32(exp_four(vaddq_f32(size, size)), one);
    float32x4_t large = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), e));
    large = vbslq_f32(sign, x, large);
    return vbslq_f32(vcltq_f32(size, vdupq_n_f32(TANH_SMALL)), small, large);
}

void softcap_neon(float *x, size_t n, float cap)
{
    float32x4_t limit = vdupq_n_f32(cap);
    for (size_t i = 0; i < n; i += LANES) {
        float32x4_t v = vdivq_f32(load_some(x + i, n - i), limit);
        store_some(x + i, vmulq_f32(limit, tanh_four(v)), n - i);
    }
}

void rope_neon(float *x, const float *cos, const float *sin, size_t heads, size_t half)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half) {
        for (size_t j = 0; j < half; j += LANES) {
            size_t n = half - j;
            float32x4_t a = load_some(x + j, n), b = load_some(x + j + half, n);
            float32x4_t c = load_some(cos + j, n), s = load_some(sin + j, n);
            store_some(x + j, vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s)), n);
            store_some(x + j + half, vaddq_f32(vmulq_f32(b, c), vmulq_f32(a, s)), n);
        }
    }
}

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
