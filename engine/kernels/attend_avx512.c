/* Softmax attention over pages of keys, AVX-512: the order of attend_c.c with sixteen lanes,
 * products fused. Half floats are widened where they are used: that is free beside the products. */
#include "engine/kernels/attend_rows.h"
#include "engine/kernels/math_avx512.h"

#define LANES ((size_t)16)
#define SUMS ((size_t)16) /* held in registers at once */

static float exp_one(float x)
{
    return _mm512_cvtss_f32(exp_sixteen(_mm512_set1_ps(x)));
}

/* Values [at, at + 16) of a page, those of the mask; the others are zero and are not read. */
static ALWAYS_INLINE __m512 load(const void *data, size_t at, enum dtype type, __mmask16 mask)
{
    if (type == DTYPE_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)data + at));
    return _mm512_maskz_loadu_ps(mask, (const float *)data + at);
}

/* Lanes that are left of head_dim after whole vectors: 0 or 8. */
static inline __mmask16 tail_mask(size_t d)
{
    return d % LANES ? 0xff : 0;
}

static ALWAYS_INLINE void score_step(__m512 *s, const struct row *rows, size_t n, const void *keys,
                                     size_t d, size_t i, enum dtype type, __mmask16 mask)
{
    size_t n_keys = SUMS / n;
    for (size_t k = 0; k < n_keys; k++) {
        __m512 key = load(keys, k * d + i, type, mask);
        for (size_t r = 0; r < n; r++)
            s[r * n_keys + k] =
                _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, rows[r].q + i), key, s[r * n_keys + k]);
    }
}

static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, const struct page *page,
                                      size_t low, size_t high, bool ahead, enum dtype type)
{
    size_t n_keys = SUMS / n, d = page->d, whole = d / LANES * LANES;
    size_t key_bytes = d * (type == DTYPE_F16 ? 2 : sizeof(float));
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        const void *keys = (const uint8_t *)page->keys + j * key_bytes;
        float sums[SUMS];
        __m512 s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = _mm512_setzero_ps();
        for (size_t i = 0; i < whole; i += LANES)
            score_step(s, rows, n, keys, d, i, type, 0xffff);
        if (whole < d)
            score_step(s, rows, n, keys, d, whole, type, tail_mask(d));
        _mm512_storeu_ps(sums, sums_of_sixteen(s));
        for (size_t r = 0; r < n; r++)
            memcpy(rows[r].score + j, sums + r * n_keys, n_keys * sizeof(float));
        if (ahead)
            fetch_ahead(page, j, n_keys, n < TILE_ROWS);
    }
}

static ALWAYS_INLINE void score_type(struct row *rows, size_t n, const struct page *page,
                                     size_t low, size_t high, bool ahead)
{
    if (page->type == DTYPE_F16)
        score_tiles(rows, n, page, low, high, ahead, DTYPE_F16);
    else
        score_tiles(rows, n, page, low, high, ahead, DTYPE_F32);
}

static void score_rows(struct row *rows, size_t n, const struct page *page, size_t low, size_t high,
                       bool ahead)
{
    if (n == 4)
        score_type(rows, 4, page, low, high, ahead);
    else if (n == 2)
        score_type(rows, 2, page, low, high, ahead);
    else
        score_type(rows, 1, page, low, high, ahead);
}

/* Bits [low, high) of 64. */
static uint64_t range_bits(size_t low, size_t high)
{
    uint64_t below = high < 64 ? (UINT64_C(1) << high) - 1 : UINT64_MAX;
    return below & (UINT64_MAX << low);
}

static void soften(struct row *row)
{
    uint64_t seen = range_bits(row->low, row->high);
    __m512 top = _mm512_set1_ps(row->largest), sum = _mm512_setzero_ps();
    for (size_t j = 0; j < PAGE; j += LANES)
        top = _mm512_mask_max_ps(top, (__mmask16)(seen >> j), _mm512_loadu_ps(row->score + j), top);
    float largest = _mm512_reduce_max_ps(top);
    top = _mm512_set1_ps(largest);
    row->keep = exp_one(row->largest - largest);
    for (size_t j = 0; j < PAGE; j += LANES) {
        __m512 e = exp_sixteen(_mm512_sub_ps(_mm512_loadu_ps(row->score + j), top));
        e = _mm512_maskz_mov_ps((__mmask16)(seen >> j), e);
        _mm512_storeu_ps(row->score + j, e);
        sum = _mm512_add_ps(sum, e);
    }
    row->largest = largest;
    row->sum = row->sum * row->keep + _mm512_reduce_add_ps(sum);
}

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, const struct page *page,
                                     size_t low, size_t high, size_t i, size_t width,
                                     enum dtype type, __mmask16 mask)
{
    __m512 v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] =
                _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, rows[r].out + i + k * LANES),
                              _mm512_set1_ps(rows[r].keep));
    for (size_t j = low; j < high; j++)
        for (size_t k = 0; k < width; k++) {
            __m512 value = load(page->values, j * page->d + i + k * LANES, type, mask);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] =
                    _mm512_fmadd_ps(_mm512_set1_ps(rows[r].score[j]), value, v[r * width + k]);
        }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            _mm512_mask_storeu_ps(rows[r].out + i + k * LANES, mask, v[r * width + k]);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, const struct page *page,
                                     size_t low, size_t high, enum dtype type)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_step(rows, n, page, low, high, i, width, type, 0xffff);
    for (; i + LANES <= d; i += LANES)
        value_step(rows, n, page, low, high, i, 1, type, 0xffff);
    if (i < d)
        value_step(rows, n, page, low, high, i, 1, type, tail_mask(d));
}

static ALWAYS_INLINE void value_count(const struct row *rows, size_t n, const struct page *page,
                                      size_t low, size_t high)
{
    if (page->type == DTYPE_F16)
        value_type(rows, n, page, low, high, DTYPE_F16);
    else
        value_type(rows, n, page, low, high, DTYPE_F32);
}

static void value_rows(const struct row *rows, size_t n, const struct page *page, size_t low,
                       size_t high)
{
    if (n == 4)
        value_count(rows, 4, page, low, high);
    else if (n == 2)
        value_count(rows, 2, page, low, high);
    else
        value_count(rows, 1, page, low, high);
}

void attend_avx512(const struct attend_task *task, const struct attend_part *out)
{
    attend_walk(task, out);
}

void attend_add_avx512(const struct attend_part *total, const struct attend_part *more, size_t rows,
                       size_t head_dim)
{
    add_parts(total, more, rows, head_dim);
}

void attend_finish_avx512(float *out, const float *values, float sum, size_t head_dim)
{
    finish_values(out, values, sum, head_dim);
}
