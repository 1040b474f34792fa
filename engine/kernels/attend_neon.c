/* Softmax attention over pages of keys, NEON: the order of attend_avx2.c in vectors of four;
 * products fused. */
#include "engine/kernels/math_neon.h"
#include "engine/quant/quant.h"
#include <stdbool.h>

#define LANES ((size_t)4)
#define SUMS ((size_t)16)

typedef float32x4_t floats;
typedef int32x4_t wholes;
typedef int16x8_t words;

/* Heads are a multiple of eight: no vector has a tail. */
static ALWAYS_INLINE floats floats_zero(void)
{
    return vdupq_n_f32(0.0f);
}

static ALWAYS_INLINE floats floats_all(float x)
{
    return vdupq_n_f32(x);
}

static ALWAYS_INLINE floats floats_get(const float *x, bool all)
{
    (void)all;
    return vld1q_f32(x);
}

static ALWAYS_INLINE void floats_put(float *out, floats v, bool all)
{
    (void)all;
    vst1q_f32(out, v);
}

static ALWAYS_INLINE floats floats_plus(floats a, floats b)
{
    return vaddq_f32(a, b);
}

static ALWAYS_INLINE floats floats_times(floats a, floats b)
{
    return vmulq_f32(a, b);
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    return vfmaq_f32(sum, a, b);
}

static ALWAYS_INLINE floats floats_of(const uint8_t *x, enum dtype type, bool all)
{
    return type == DTYPE_F16 ? load_half(x) : floats_get((const float *)(const void *)x, all);
}

static ALWAYS_INLINE wholes wholes_zero(void)
{
    return vdupq_n_s32(0);
}

static ALWAYS_INLINE floats wholes_to_floats(wholes v)
{
    return vcvtq_f32_s32(v);
}

/* The even words of several rows' pairs are found once. */
static ALWAYS_INLINE wholes wholes_add_pairs(wholes sum, words weights, words pairs)
{
    int16x4_t even = vget_low_s16(vuzp1q_s16(pairs, pairs));
    int16x4_t odd = vget_low_s16(vuzp2q_s16(pairs, pairs));
    sum = vmlal_lane_s16(sum, even, vget_low_s16(weights), 0);
    return vmlal_lane_s16(sum, odd, vget_low_s16(weights), 1);
}

static ALWAYS_INLINE words words_all(int32_t x)
{
    return vreinterpretq_s16_s32(vdupq_n_s32(x));
}

static ALWAYS_INLINE words words_of(const uint8_t *x, size_t n)
{
    (void)n;
    return vmovl_s8(vreinterpret_s8_u8(vld1_u8(x)));
}

#include "engine/kernels/attend_rows.h"

static float exp_one(float x)
{
    return vgetq_lane_f32(exp_four(vdupq_n_f32(x)), 0);
}

/* Four numbers in units of a step, as `nearest` of attend_c.c. */
static int32x4_t round_some(const float *x, float inverse, float limit)
{
    float32x4_t v = vmulq_f32(vld1q_f32(x), vdupq_n_f32(inverse));
    return vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, vdupq_n_f32(-limit)), vdupq_n_f32(limit)));
}

/* As round_to of attend_c.c; n a multiple of 4. */
static float round_to(int16_t *out, const float *x, size_t n, float limit)
{
    float step = largest_size(x, n) / limit;
    bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
    for (size_t i = 0; i < n; i += LANES)
        vst1_s16(out + i,
                 usable ? vmovn_s32(round_some(x + i, 1.0f / step, limit)) : vdup_n_s16(0));
    return usable ? step : 0.0f;
}

static float round_query(int16_t *out, const float *q, size_t d)
{
    memset(out + d, 0, (ATTEND_HEAD_DIM_MAX - d) * sizeof *out);
    return round_to(out, q, d, 32767.0f);
}

static void soften_row(struct row *row)
{
    float largest = row->largest;
    for (size_t j = row->low; j < row->high; j++)
        largest = row->score[j] > largest ? row->score[j] : largest;
    for (size_t j = 0; j < PAGE; j++)
        if (j < row->low || j >= row->high)
            row->score[j] = -INFINITY; /* its exponential is exactly zero */
    float32x4_t sum[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (size_t j = 0; j < PAGE; j += LANES) {
        float32x4_t e = exp_four(vsubq_f32(vld1q_f32(row->score + j), vdupq_n_f32(largest)));
        vst1q_f32(row->score + j, e);
        sum[j / LANES % 2] = vaddq_f32(sum[j / LANES % 2], e);
    }
    row->keep = exp_one(row->largest - largest);
    row->largest = largest;
    row->sum = row->sum * row->keep + lanes_sum(sum[0], sum[1]);
}

#include "engine/kernels/attend_soften.h"

void attend_neon(const struct attend_task *task, const struct attend_part *out)
{
    attend_walk(task, out);
}

void attend_add_neon(const struct attend_part *total, const struct attend_part *more, size_t rows,
                     size_t head_dim)
{
    add_parts(total, more, rows, head_dim);
}

void attend_finish_neon(float *out, const float *values, float sum, size_t head_dim)
{
    finish_values(out, values, sum, head_dim);
}

static void to_half(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += LANES)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
}

#include "engine/kernels/attend_store.h"

void attend_store_neon(const struct attend_shape *shape, void *keys, void *values, size_t at,
                       const float *key, const float *value)
{
    store_position(shape, keys, values, at, key, value);
}
