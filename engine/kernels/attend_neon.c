/* Softmax attention over pages of keys, NEON: the order of attend_avx2.c in vectors of four, but
 * for the four sums of a score; products fused. */
#define LANES ((size_t)4)
#define SUMS ((size_t)16)
#include "engine/kernels/attend_rows.h"
#include "engine/kernels/math_neon.h"

static float exp_one(float x)
{
    return vgetq_lane_f32(exp_four(vdupq_n_f32(x)), 0);
}

static ALWAYS_INLINE float32x4_t load(const void *data, size_t at, enum dtype type)
{
    if (type == DTYPE_F16)
        return load_half((const uint16_t *)data + at);
    return vld1q_f32((const float *)data + at);
}

/* The sums of SUMS vectors: n rows of scores from `j` on. */
static ALWAYS_INLINE void store_scores(struct row *rows, size_t n, size_t j,
                                       const float32x4_t s[SUMS])
{
    size_t n_keys = SUMS / n;
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < n_keys; k += 4)
            vst1q_f32(rows[r].score + j + k, sums_of_four(s + r * n_keys + k));
}

static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, struct page *page, size_t low,
                                      size_t high, enum dtype type)
{
    size_t n_keys = SUMS / n, d = page->d;
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        float32x4_t s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = vdupq_n_f32(0.0f);
        for (size_t i = 0; i < d; i += LANES)
            for (size_t k = 0; k < n_keys; k++) {
                float32x4_t key = load(page->keys, (j + k) * d + i, type);
                for (size_t r = 0; r < n; r++)
                    s[r * n_keys + k] = vfmaq_f32(s[r * n_keys + k], vld1q_f32(rows[r].q + i), key);
            }
        store_scores(rows, n, j, s);
        ahead_step(&page->ahead);
    }
}

/* ---- 8 bits: products of 16 bits, exact sums ---- */

static ALWAYS_INLINE int32x4_t add_words(int32x4_t sum, int16x8_t a, int16x8_t b)
{
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
}

static ALWAYS_INLINE void score_rounded(struct row *rows, size_t n, struct page *page, size_t low,
                                        size_t high)
{
    size_t n_keys = SUMS / n, d = page->d;
    const float *scales = scales_of(page->keys, d);
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        const int8_t *keys = (const int8_t *)page->keys + j * d;
        int32x4_t s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = vdupq_n_s32(0);
        for (size_t i = 0; i < d; i += 8)
            for (size_t k = 0; k < n_keys; k++) {
                int16x8_t key = vmovl_s8(vld1_s8(keys + k * d + i));
                for (size_t r = 0; r < n; r++)
                    s[r * n_keys + k] =
                        add_words(s[r * n_keys + k], vld1q_s16(rows[r].q_rounded + i), key);
            }
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < n_keys; k++)
                rows[r].score[j + k] =
                    (float)vaddvq_s32(s[r * n_keys + k]) * (rows[r].q_step * scales[j + k]);
        ahead_step(&page->ahead);
    }
}

/* As round_to of attend_c.c; n a multiple of 4. */
static float round_to(int16_t *out, const float *x, size_t n, float limit)
{
    float step = largest_size(x, n) / limit;
    bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
    for (size_t i = 0; i < n; i += LANES)
        vst1_s16(out + i, usable ? vmovn_s32(round_four(x + i, step, limit)) : vdup_n_s16(0));
    return usable ? step : 0.0f;
}

static float round_query(int16_t *out, const float *q, size_t d)
{
    memset(out + d, 0, (ATTEND_HEAD_DIM_MAX - d) * sizeof *out);
    return round_to(out, q, d, 32767.0f);
}

static void round_weights(struct row *row, const float *scales)
{
    float weights[PAGE] = {0};
    for (size_t j = row->low; j < row->high; j++)
        weights[j] = row->score[j] * scales[j];
    row->step = round_to(row->rounded, weights, PAGE, 32767.0f);
}

static ALWAYS_INLINE void value_words(const struct row *rows, size_t n, struct page *page,
                                      size_t low, size_t high, size_t i, size_t width)
{
    int32x4_t v[SUMS];
    for (size_t s = 0; s < n * width; s++)
        v[s] = vdupq_n_s32(0);
    for (size_t j = low / 2 * 2; j < high; j += 2) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            const int8_t *at = (const int8_t *)page->values + j * page->d + 2 * (i + k * LANES);
            int16x8_t pairs = vmovl_s8(vld1_s8(at));
            for (size_t r = 0; r < n; r++) {
                int32_t two;
                memcpy(&two, rows[r].rounded + j, sizeof two);
                int16x8_t weights = vreinterpretq_s16_s32(vdupq_n_s32(two));
                int32x4_t low_products = vmull_s16(vget_low_s16(pairs), vget_low_s16(weights));
                v[r * width + k] = vaddq_s32(
                    v[r * width + k], vpaddq_s32(low_products, vmull_high_s16(pairs, weights)));
            }
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width && rows[r].low < rows[r].high; k++) {
            float *out = rows[r].out + i + k * LANES;
            float32x4_t kept = vmulq_n_f32(vld1q_f32(out), rows[r].keep);
            float32x4_t more = vmulq_n_f32(vcvtq_f32_s32(v[r * width + k]), rows[r].step);
            vst1q_f32(out, vaddq_f32(kept, more));
        }
}

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, size_t i, size_t width,
                                     enum dtype type)
{
    float32x4_t v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = vmulq_n_f32(vld1q_f32(rows[r].out + i + k * LANES), rows[r].keep);
    for (size_t j = low; j < high; j++) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            float32x4_t value = load(page->values, j * page->d + i + k * LANES, type);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] = vfmaq_n_f32(v[r * width + k], value, rows[r].score[j]);
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            vst1q_f32(rows[r].out + i + k * LANES, v[r * width + k]);
}

/* ---- what attend_rows.h asks for ---- */

static ALWAYS_INLINE void score_type(struct row *rows, size_t n, struct page *page, size_t low,
                                     size_t high)
{
    if (page->type == DTYPE_I8)
        score_rounded(rows, n, page, low, high);
    else if (page->type == DTYPE_F16)
        score_tiles(rows, n, page, low, high, DTYPE_F16);
    else
        score_tiles(rows, n, page, low, high, DTYPE_F32);
}

static void score_rows(struct row *rows, size_t n, struct page *page, size_t low, size_t high)
{
    if (n == 4)
        score_type(rows, 4, page, low, high);
    else if (n == 2)
        score_type(rows, 2, page, low, high);
    else
        score_type(rows, 1, page, low, high);
}

static void soften(struct row *row)
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

static ALWAYS_INLINE void value_some(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, size_t i, size_t width)
{
    if (page->type == DTYPE_I8)
        value_words(rows, n, page, low, high, i, width);
    else if (page->type == DTYPE_F16)
        value_step(rows, n, page, low, high, i, width, DTYPE_F16);
    else
        value_step(rows, n, page, low, high, i, width, DTYPE_F32);
}

static ALWAYS_INLINE void value_count(const struct row *rows, size_t n, struct page *page,
                                      size_t low, size_t high)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_some(rows, n, page, low, high, i, width);
    for (; i < d; i += LANES)
        value_some(rows, n, page, low, high, i, 1);
}

static void value_rows(const struct row *rows, size_t n, struct page *page, size_t low, size_t high)
{
    if (n == 4)
        value_count(rows, 4, page, low, high);
    else if (n == 2)
        value_count(rows, 2, page, low, high);
    else
        value_count(rows, 1, page, low, high);
}

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

/* One head: int8 with a stride of 1 or 2, and the scale. */
static void store_rounded(void *page, size_t at, size_t first, size_t stride, const float *x,
                          size_t d)
{
    int16_t rounded[ATTEND_HEAD_DIM_MAX];
    float step = round_to(rounded, x, d, 127.0f);
    memcpy((uint8_t *)page + PAGE * d + at * sizeof step, &step, sizeof step);
    for (size_t i = 0; i < d; i++)
        ((int8_t *)page)[first + i * stride] = (int8_t)rounded[i];
}

static void store_floats(void *page, size_t at, const float *x, size_t d, enum dtype type)
{
    if (type == DTYPE_F32) {
        memcpy((float *)page + at * d, x, d * sizeof *x);
        return;
    }
    for (size_t i = 0; i < d; i += LANES)
        vst1_u16((uint16_t *)page + at * d + i,
                 vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
}

void attend_store_neon(const struct attend_shape *shape, void *keys, void *values, size_t at,
                       const float *key, const float *value)
{
    size_t d = shape->head_dim, head_bytes = attend_head_bytes(shape->type, d);
    for (size_t h = 0; h < shape->kv_heads; h++, key += d, value += d) {
        uint8_t *k = (uint8_t *)keys + h * head_bytes, *v = (uint8_t *)values + h * head_bytes;
        if (shape->type == DTYPE_I8) {
            store_rounded(k, at, at * d, 1, key, d);
            store_rounded(v, at, at / 2 * 2 * d + at % 2, 2, value, d);
        } else {
            store_floats(k, at, key, d, shape->type);
            store_floats(v, at, value, d, shape->type);
        }
    }
}
