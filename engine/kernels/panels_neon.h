/* panels_neon.h - products with rounded activations, NEON with dot products: the walk over rows and
 * strips; static, as math_neon.h. The same whole numbers and the same order as matmul_c.c.
 *
 * Four rows of weights are computed side by side, one in each lane of what is added up. A strip of
 * them is first made bytes, eight of one row beside eight of the next, then multiplied with all
 * activation rows. matmul_neon_i8mm.c compiles matmul_neon.c again with I8MM, where one instruction
 * multiplies two such rows with two rows of activations. */
#pragma once
#include "engine/kernels/math_neon.h"
#include "engine/kernels/sets.h"

#define LANES ((size_t)4)
#define STRIP ACT_STRIP /* values: 8 blocks of 32, or one of 256 */
#define ACT_ROWS 16     /* activation rows that share a panel */
#ifndef KERNEL
#define KERNEL(type) matmul_##type##_neon
#endif

struct panel {
    int8_t w[2][2 * STRIP]; /* of rows 0 and 1, 2 and 3: [STRIP / 8][2][8] */
    float scale[STRIP / 32][LANES], base[STRIP / 32][LANES]; /* of blocks of 256: [0] */
    int32_t sub_scale[STRIP / 16][LANES];                    /* of groups of 16 or 32 values */
    int32_t sub_base[STRIP / 16][LANES];                     /* of groups of 16 */
};

/* The blocks of one row of weights, to its lane. */
typedef void panel_unpack(struct panel *p, size_t lane, const uint8_t *blocks, size_t n_blocks);
/* Add the strip's products with n activation rows, from r on. */
typedef void panel_multiply(float32x4_t *sum, const struct panel *p, const struct act_rows *x,
                            size_t r, size_t n, size_t strip, size_t n_blocks);

/* Values at .. at+15 of a row. */
static inline void put(struct panel *p, size_t lane, size_t at, int8x16_t v)
{
    int8_t *to = p->w[lane / 2] + 2 * at + lane % 2 * 8;
    vst1_s8(to, vget_low_s8(v));
    vst1_s8(to + 16, vget_high_s8(v));
}

/* Products of n values of the panel's four rows, from `at` on, with `rows` (1, 2 or 4) of
 * activations, which lie STRIP apart. */
static ALWAYS_INLINE void dots(int32x4_t *out, const struct panel *p, size_t at, size_t n,
                               const int8_t *q, size_t rows)
{
    int32x4_t sum[4][2];
    for (size_t i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = vdupq_n_s32(0);
    for (size_t k = at; k < at + n; k += 8) {
        int8x16_t w[2] = {vld1q_s8(p->w[0] + 2 * k), vld1q_s8(p->w[1] + 2 * k)};
#ifdef I8MM
        for (size_t i = 0; i + 1 < rows; i += 2) {
            int8x16_t two =
                vcombine_s8(vld1_s8(q + i * STRIP + k), vld1_s8(q + (i + 1) * STRIP + k));
            sum[i][0] = vmmlaq_s32(sum[i][0], w[0], two);
            sum[i][1] = vmmlaq_s32(sum[i][1], w[1], two);
        }
        if (rows > 1)
            continue;
#endif
        for (size_t i = 0; i < rows; i++) {
            int8x8_t one = vld1_s8(q + i * STRIP + k);
            int8x16_t twice = vcombine_s8(one, one);
            sum[i][0] = vdotq_s32(sum[i][0], w[0], twice);
            sum[i][1] = vdotq_s32(sum[i][1], w[1], twice);
        }
    }
#ifdef I8MM
    for (size_t i = 0; i + 1 < rows; i += 2) { /* [row of weights][row of activations] */
        out[i] = vuzp1q_s32(sum[i][0], sum[i][1]);
        out[i + 1] = vuzp2q_s32(sum[i][0], sum[i][1]);
    }
    if (rows > 1)
        return;
#endif
    for (size_t i = 0; i < rows; i++)
        out[i] = vpaddq_s32(sum[i][0], sum[i][1]);
}

/* sum += (scale of weights * scale of activations) * whole, not fused. */
static inline float32x4_t add_block(float32x4_t sum, const float scale[LANES], float act_scale,
                                    int32x4_t whole)
{
    float32x4_t factor = vmulq_f32(vld1q_f32(scale), vdupq_n_f32(act_scale));
    return vaddq_f32(sum, vmulq_f32(factor, vcvtq_f32_s32(whole)));
}

/* Blocks of 32 values. */
static ALWAYS_INLINE void block_rows(float32x4_t *sum, const struct panel *p,
                                     const struct act_rows *x, size_t r, size_t n, size_t strip,
                                     size_t n_blocks, bool has_base)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    for (size_t b = 0; b < n_blocks; b++) {
        int32x4_t whole[4];
        dots(whole, p, 32 * b, 32, x->q + first * STRIP, n);
        for (size_t i = 0; i < n; i++) {
            size_t at = 8 * (first + i) + b;
            sum[i] = add_block(sum[i], p->scale[b], x->scale[at], whole[i]);
            if (has_base)
                sum[i] = add_block(sum[i], p->base[b], x->scale[at], vdupq_n_s32(x->sum[at]));
        }
    }
}

/* Blocks of 256 values, in groups of `group` that have whole scales. */
static ALWAYS_INLINE void group_rows(float32x4_t *sum, const struct panel *p,
                                     const struct act_rows *x, size_t r, size_t n, size_t strip,
                                     size_t group, bool has_base)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    int32x4_t whole[4], bases[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = bases[i] = vdupq_n_s32(0);
    for (size_t g = 0; g < STRIP / group; g++) {
        int32x4_t products[4];
        dots(products, p, g * group, group, x->q + first * STRIP, n);
        for (size_t i = 0; i < n; i++)
            whole[i] = vmlaq_s32(whole[i], products[i], vld1q_s32(p->sub_scale[g]));
    }
    for (size_t g = 0; g < 16 && has_base; g++)
        for (size_t i = 0; i < n; i++)
            bases[i] =
                vmlaq_n_s32(bases[i], vld1q_s32(p->sub_base[g]), x->sum[16 * (first + i) + g]);
    for (size_t i = 0; i < n; i++) {
        float act_scale = x->scale[first + i];
        sum[i] = add_block(sum[i], p->scale[0], act_scale, whole[i]);
        if (has_base)
            sum[i] = add_block(sum[i], p->base[0], act_scale, bases[i]);
    }
}

/* A number of rows that the compiler knows keeps their sums in registers. rows(..., n, ...) is one
 * of the two functions above; last: its last two arguments. */
#define MULTIPLY(name, rows, ...)                                                                  \
    static void name(float32x4_t *sum, const struct panel *p, const struct act_rows *x, size_t r,  \
                     size_t n, size_t strip, size_t n_blocks)                                      \
    {                                                                                              \
        (void)n_blocks;                                                                            \
        for (; n >= 4; n -= 4, r += 4, sum += 4)                                                   \
            rows(sum, p, x, r, 4, strip, __VA_ARGS__);                                             \
        for (; n >= 2; n -= 2, r += 2, sum += 2)                                                   \
            rows(sum, p, x, r, 2, strip, __VA_ARGS__);                                             \
        if (n)                                                                                     \
            rows(sum, p, x, r, 1, strip, __VA_ARGS__);                                             \
    }
MULTIPLY(multiply_blocks, block_rows, n_blocks, false)
MULTIPLY(multiply_blocks_base, block_rows, n_blocks, true)
MULTIPLY(multiply_16, group_rows, 16, false)
MULTIPLY(multiply_16_base, group_rows, 16, true)
MULTIPLY(multiply_32, group_rows, 32, false)
MULTIPLY(multiply_32_base, group_rows, 32, true)

/* Up to four rows of weights, up to ACT_ROWS of activations. */
static inline void matmul_tile(float *out, size_t stride, const struct weight_rows *w,
                               const struct act_rows *x, size_t r, panel_unpack *unpack,
                               panel_multiply *multiply)
{
    float32x4_t sum[ACT_ROWS];
    struct panel panel;
    size_t rows = x->rows - r < ACT_ROWS ? x->rows - r : ACT_ROWS, n = w->end - w->begin;
    size_t values = w->type->block_values, blocks = w->width / values, strip = STRIP / values;

    for (size_t i = 0; i < rows; i++)
        sum[i] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < blocks; b += strip) {
        size_t n_blocks = blocks - b < strip ? blocks - b : strip;
        for (size_t lane = 0; lane < LANES; lane++) { /* beyond the end: the last row again */
            const uint8_t *row =
                (const uint8_t *)w->data + (w->begin + (lane < n ? lane : n - 1)) * w->row_bytes;
            unpack(&panel, lane, row + b * w->type->block_bytes, n_blocks);
        }
        multiply(sum, &panel, x, r, rows, b / strip, n_blocks);
    }
    for (size_t i = 0; i < rows; i++)
        store_some(out + (r + i) * stride + w->begin, sum[i], n);
}

static inline void matmul_panels(float *out, size_t stride, const struct weight_rows *w,
                                 const struct act_rows *x, panel_unpack *unpack,
                                 panel_multiply *multiply)
{
    for (size_t begin = w->begin; begin < w->end; begin += LANES) {
        struct weight_rows part = *w;
        part.begin = begin;
        part.end = w->end - begin < LANES ? w->end : begin + LANES;
        for (size_t r = 0; r < x->rows; r += ACT_ROWS)
            matmul_tile(out, stride, &part, x, r, unpack, multiply);
    }
}

/* The kernel of a type; type_unpack makes its panels. */
#define MATMUL(type, multiply)                                                                     \
    void KERNEL(type)(float *out, size_t stride, const struct weight_rows *w,                      \
                      const struct act_rows *x)                                                    \
    {                                                                                              \
        matmul_panels(out, stride, w, x, type##_unpack, multiply);                                 \
    }
