/* Softmax attention over pages of keys, AVX2: the order of attend_c.c, products fused. */
#define LANES ((size_t)8)
#define SUMS ((size_t)8)
#include "engine/kernels/attend_rows.h"
#include "engine/kernels/math_avx2.h"

static float exp_one(float x)
{
    return _mm256_cvtss_f32(exp_eight(_mm256_set1_ps(x)));
}

static ALWAYS_INLINE __m256 load(const void *data, size_t at, enum dtype type)
{
    if (type == DTYPE_F16)
        return _mm256_cvtph_ps(
            _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)data + at)));
    return _mm256_loadu_ps((const float *)data + at);
}

static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, struct page *page, size_t low,
                                      size_t high, enum dtype type)
{
    size_t n_keys = SUMS / n, d = page->d;
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        float sums[SUMS];
        __m256 s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = _mm256_setzero_ps();
        for (size_t i = 0; i < d; i += LANES)
            for (size_t k = 0; k < n_keys; k++) {
                __m256 key = load(page->keys, (j + k) * d + i, type);
                for (size_t r = 0; r < n; r++)
                    s[r * n_keys + k] =
                        _mm256_fmadd_ps(_mm256_loadu_ps(rows[r].q + i), key, s[r * n_keys + k]);
            }
        _mm256_storeu_ps(sums, sums_of_eight(s));
        for (size_t r = 0; r < n; r++)
            memcpy(rows[r].score + j, sums + r * n_keys, n_keys * sizeof(float));
        ahead_step(&page->ahead);
    }
}

/* ---- 8 bits: products of 16 bits, exact sums ---- */

#define WORDS ((size_t)16) /* in a vector */

/* As sums_of_eight. */
static ALWAYS_INLINE __m256i whole_sums(const __m256i s[SUMS])
{
    __m256i a[4], b[2];
    for (size_t i = 0; i < 4; i++)
        a[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                _mm256_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    for (size_t i = 0; i < 2; i++)
        b[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm256_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(b[0], b[1], 0x20),
                            _mm256_permute2x128_si256(b[0], b[1], 0x31));
}

/* Sixteen bytes made words; of the last vector of a row there may be eight. */
static ALWAYS_INLINE __m256i load_words(const int8_t *at, bool all)
{
    const __m128i *in = (const __m128i *)(const void *)at;
    return _mm256_cvtepi8_epi16(all ? _mm_loadu_si128(in) : _mm_loadl_epi64(in));
}

static ALWAYS_INLINE void score_words(__m256i *s, const struct row *rows, size_t n,
                                      const int8_t *keys, size_t d, size_t i, bool all)
{
    size_t n_keys = SUMS / n;
    for (size_t k = 0; k < n_keys; k++) {
        __m256i key = load_words(keys + k * d + i, all);
        for (size_t r = 0; r < n; r++) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(rows[r].q_rounded + i));
            s[r * n_keys + k] = _mm256_add_epi32(s[r * n_keys + k], _mm256_madd_epi16(q, key));
        }
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
        __m256i s[SUMS];
        for (size_t i = 0; i < SUMS; i++)
            s[i] = _mm256_setzero_si256();
        for (size_t i = 0; i < whole; i += WORDS)
            score_words(s, rows, n, keys, d, i, true);
        if (whole < d)
            score_words(s, rows, n, keys, d, whole, false);
        _mm256_storeu_ps(sums, _mm256_cvtepi32_ps(whole_sums(s)));
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < n_keys; k++)
                rows[r].score[j + k] = sums[r * n_keys + k] * (rows[r].q_step * scales[j + k]);
        ahead_step(&page->ahead);
    }
}

static bool is_usable(float step)
{
    return step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
}

static float largest_of(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* The largest of |x|; a NaN is passed over. */
static float largest_size(const float *x, size_t n)
{
    __m256 largest = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += LANES)
        largest =
            _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x + i)), largest);
    return largest_of(largest);
}

/* Eight numbers in units of step, as `nearest` of attend_c.c. */
static ALWAYS_INLINE __m128i round_eight(const float *x, float step, float limit)
{
    __m256 v = _mm256_div_ps(_mm256_loadu_ps(x), _mm256_set1_ps(step));
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-limit)), _mm256_set1_ps(limit));
    __m256i whole = _mm256_cvtps_epi32(v);
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}

/* As round_to of attend_c.c; n a multiple of 8. */
static ALWAYS_INLINE float round_to(int16_t *out, const float *x, size_t n, float limit)
{
    float step = largest_size(x, n) / limit;
    bool usable = is_usable(step);
    for (size_t i = 0; i < n; i += LANES)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         usable ? round_eight(x + i, step, limit) : _mm_setzero_si128());
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
    __m256i v[SUMS];
    for (size_t s = 0; s < n * width; s++)
        v[s] = _mm256_setzero_si256();
    for (size_t j = low / 2 * 2; j < high; j += 2) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            const int8_t *at = (const int8_t *)page->values + j * page->d + 2 * (i + k * LANES);
            __m256i pairs = load_words(at, true);
            for (size_t r = 0; r < n; r++) {
                int32_t weights;
                memcpy(&weights, rows[r].rounded + j, sizeof weights);
                v[r * width + k] = _mm256_add_epi32(
                    v[r * width + k], _mm256_madd_epi16(_mm256_set1_epi32(weights), pairs));
            }
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width && rows[r].low < rows[r].high; k++) {
            float *out = rows[r].out + i + k * LANES;
            __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(out), _mm256_set1_ps(rows[r].keep));
            __m256 more =
                _mm256_mul_ps(_mm256_cvtepi32_ps(v[r * width + k]), _mm256_set1_ps(rows[r].step));
            _mm256_storeu_ps(out, _mm256_add_ps(kept, more));
        }
}

static ALWAYS_INLINE void value_rounded(const struct row *rows, size_t n, struct page *page,
                                        size_t low, size_t high)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_words(rows, n, page, low, high, i, width);
    for (; i < d; i += LANES)
        value_words(rows, n, page, low, high, i, 1);
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
    float largest = row->largest;
    for (size_t j = row->low; j < row->high; j++)
        largest = row->score[j] > largest ? row->score[j] : largest;
    for (size_t j = 0; j < PAGE; j++)
        if (j < row->low || j >= row->high)
            row->score[j] = -INFINITY; /* its exponential is exactly zero */
    __m256 sum = _mm256_setzero_ps(), top = _mm256_set1_ps(largest);
    for (size_t j = 0; j < PAGE; j += LANES) {
        __m256 e = exp_eight(_mm256_sub_ps(_mm256_loadu_ps(row->score + j), top));
        _mm256_storeu_ps(row->score + j, e);
        sum = _mm256_add_ps(sum, e);
    }
    row->keep = exp_one(row->largest - largest);
    row->largest = largest;
    row->sum = row->sum * row->keep + lanes_sum(sum);
}

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, size_t i, size_t width,
                                     enum dtype type)
{
    __m256 v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = _mm256_mul_ps(_mm256_loadu_ps(rows[r].out + i + k * LANES),
                                             _mm256_set1_ps(rows[r].keep));
    for (size_t j = low; j < high; j++) {
        if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            __m256 value = load(page->values, j * page->d + i + k * LANES, type);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] =
                    _mm256_fmadd_ps(_mm256_set1_ps(rows[r].score[j]), value, v[r * width + k]);
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            _mm256_storeu_ps(rows[r].out + i + k * LANES, v[r * width + k]);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, enum dtype type)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_step(rows, n, page, low, high, i, width, type);
    for (; i < d; i += LANES)
        value_step(rows, n, page, low, high, i, 1, type);
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

void attend_avx2(const struct attend_task *task, const struct attend_part *out)
{
    attend_walk(task, out);
}

void attend_add_avx2(const struct attend_part *total, const struct attend_part *more, size_t rows,
                     size_t head_dim)
{
    add_parts(total, more, rows, head_dim);
}

void attend_finish_avx2(float *out, const float *values, float sum, size_t head_dim)
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
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)page + at * d + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
}

void attend_store_avx2(const struct attend_shape *shape, void *keys, void *values, size_t at,
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
