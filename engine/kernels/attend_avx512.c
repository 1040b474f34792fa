/* Softmax attention over pages of keys, AVX-512: the order of attend_c.c with sixteen lanes,
 * products fused. Half floats are widened where they are used: that is free beside the products. */
#define LANES ((size_t)16)
#define SUMS ((size_t)16)
#include "engine/kernels/attend_rows.h"
#include "engine/kernels/math_avx512.h"

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

static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, struct page *page, size_t low,
                                      size_t high, enum dtype type)
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
        ahead_step(&page->ahead);
    }
}

/* Bits [low, high) of 64. */
static uint64_t range_bits(size_t low, size_t high)
{
    uint64_t below = high < 64 ? (UINT64_C(1) << high) - 1 : UINT64_MAX;
    return below & (UINT64_MAX << low);
}

/* ---- 8 bits: products of 16 bits, exact sums ---- */

#define WORDS ((size_t)32) /* in a vector */

static inline __mmask32 first_words(size_t n)
{
    return n < WORDS ? (UINT32_C(1) << n) - 1 : UINT32_MAX;
}

/* As sums_of_sixteen. */
static ALWAYS_INLINE __m512i whole_sums(const __m512i s[SUMS])
{
    __m512i a[8], b[4];
    for (size_t i = 0; i < 8; i++)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    for (size_t i = 0; i < 4; i++)
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    for (size_t i = 0; i < 2; i++)
        a[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a[0], a[1], 0x88),
                            _mm512_shuffle_i32x4(a[0], a[1], 0xdd));
}

static ALWAYS_INLINE void score_words(__m512i *s, const struct row *rows, size_t n,
                                      const int8_t *keys, size_t d, size_t i, __mmask32 mask)
{
    size_t n_keys = SUMS / n;
    for (size_t k = 0; k < n_keys; k++) {
        __m512i key = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, keys + k * d + i));
        for (size_t r = 0; r < n; r++)
            s[r * n_keys + k] = _mm512_dpwssd_epi32(s[r * n_keys + k],
                                                    _mm512_loadu_si512(rows[r].q_rounded + i), key);
    }
}

static ALWAYS_INLINE void score_rounded(struct row *rows, size_t n, struct page *page, size_t low,
                                        size_t high)
{
    size_t n_keys = SUMS / n, d = page->d, whole = d / WORDS * WORDS;
    const float *scales = scales_of(page->keys, d);
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        const int8_t *keys = (const int8_t *)page->keys + j * d;
        float sums[SUMS];
        __m512i s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = _mm512_setzero_si512();
        for (size_t i = 0; i < whole; i += WORDS)
            score_words(s, rows, n, keys, d, i, UINT32_MAX);
        if (whole < d)
            score_words(s, rows, n, keys, d, whole, first_words(d - whole));
        _mm512_storeu_ps(sums, _mm512_cvtepi32_ps(whole_sums(s)));
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < n_keys; k++)
                rows[r].score[j + k] = sums[r * n_keys + k] * (rows[r].q_step * scales[j + k]);
        ahead_step(&page->ahead);
    }
}

/* Sixteen numbers in units of step, as `nearest` of attend_c.c. */
static ALWAYS_INLINE __m256i round_sixteen(__m512 x, __m512 step)
{
    const __m512 limit = _mm512_set1_ps(32767.0f);
    __m512 v = _mm512_max_ps(_mm512_div_ps(x, step), _mm512_sub_ps(_mm512_setzero_ps(), limit));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_min_ps(v, limit)));
}

static bool is_usable(float step)
{
    return step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
}

static float round_query(int16_t *out, const float *q, size_t d)
{
    __m512 largest = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i += LANES) { /* a NaN is passed over */
        __mmask16 mask = d - i < LANES ? 0xff : 0xffff;
        largest = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(mask, q + i)), largest);
    }
    float step = _mm512_reduce_max_ps(largest) / 32767.0f;
    memset(out, 0, ATTEND_HEAD_DIM_MAX * sizeof *out);
    if (!is_usable(step))
        return 0.0f;
    for (size_t i = 0; i < d; i += LANES) {
        __mmask16 mask = d - i < LANES ? 0xff : 0xffff;
        __m512 x = _mm512_maskz_loadu_ps(mask, q + i);
        _mm256_mask_storeu_epi16(out + i, mask, round_sixteen(x, _mm512_set1_ps(step)));
    }
    return step;
}

static void round_weights(struct row *row, const float *scales)
{
    uint64_t seen = range_bits(row->low, row->high);
    __m512 w[PAGE / LANES], largest = _mm512_setzero_ps();
    for (size_t k = 0; k < PAGE / LANES; k++) {
        w[k] = _mm512_maskz_mul_ps((__mmask16)(seen >> k * LANES),
                                   _mm512_loadu_ps(row->score + k * LANES),
                                   _mm512_loadu_ps(scales + k * LANES));
        largest = _mm512_max_ps(_mm512_abs_ps(w[k]), largest);
    }
    float step = _mm512_reduce_max_ps(largest) / 32767.0f;
    row->step = is_usable(step) ? step : 0.0f;
    for (size_t k = 0; k < PAGE / LANES; k++)
        _mm256_storeu_si256((__m256i *)(void *)(row->rounded + k * LANES),
                            is_usable(step) ? round_sixteen(w[k], _mm512_set1_ps(step))
                                            : _mm256_setzero_si256());
}

static ALWAYS_INLINE void value_words(const struct row *rows, size_t n, struct page *page,
                                      size_t low, size_t high, size_t i, size_t width,
                                      __mmask16 mask)
{
    __m512i v[SUMS];
    for (size_t s = 0; s < n * width; s++)
        v[s] = _mm512_setzero_si512();
    for (size_t j = low / 2 * 2; j < high; j += 2) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            const int8_t *at = (const int8_t *)page->values + j * page->d + 2 * (i + k * LANES);
            __m512i pairs = _mm512_cvtepi8_epi16(
                _mm256_maskz_loadu_epi8(mask == 0xffff ? UINT32_MAX : 0xffff, at));
            for (size_t r = 0; r < n; r++) {
                int32_t weights;
                memcpy(&weights, rows[r].rounded + j, sizeof weights);
                v[r * width + k] =
                    _mm512_dpwssd_epi32(v[r * width + k], _mm512_set1_epi32(weights), pairs);
            }
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width && rows[r].low < rows[r].high; k++) {
            float *out = rows[r].out + i + k * LANES;
            __m512 kept =
                _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, out), _mm512_set1_ps(rows[r].keep));
            __m512 more =
                _mm512_mul_ps(_mm512_cvtepi32_ps(v[r * width + k]), _mm512_set1_ps(rows[r].step));
            _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(kept, more));
        }
}

static ALWAYS_INLINE void value_rounded(const struct row *rows, size_t n, struct page *page,
                                        size_t low, size_t high)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_words(rows, n, page, low, high, i, width, 0xffff);
    for (; i + LANES <= d; i += LANES)
        value_words(rows, n, page, low, high, i, 1, 0xffff);
    if (i < d)
        value_words(rows, n, page, low, high, i, 1, tail_mask(d));
}

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

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, size_t i, size_t width,
                                     enum dtype type, __mmask16 mask)
{
    __m512 v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] =
                _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, rows[r].out + i + k * LANES),
                              _mm512_set1_ps(rows[r].keep));
    for (size_t j = low; j < high; j++) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            __m512 value = load(page->values, j * page->d + i + k * LANES, type, mask);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] =
                    _mm512_fmadd_ps(_mm512_set1_ps(rows[r].score[j]), value, v[r * width + k]);
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            _mm512_mask_storeu_ps(rows[r].out + i + k * LANES, mask, v[r * width + k]);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, struct page *page,
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

static ALWAYS_INLINE void value_count(const struct row *rows, size_t n, struct page *page,
                                      size_t low, size_t high)
{
    if (page->type == DTYPE_I8)
        value_rounded(rows, n, page, low, high);
    else if (page->type == DTYPE_F16)
        value_type(rows, n, page, low, high, DTYPE_F16);
    else
        value_type(rows, n, page, low, high, DTYPE_F32);
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
