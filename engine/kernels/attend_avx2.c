/* Softmax attention over pages of keys, AVX2: the order of attend_c.c, products fused. */
#include "engine/kernels/attend_rows.h"
#include "engine/kernels/math_avx2.h"

#define LANES ((size_t)8)
#define SUMS ((size_t)8) /* held in registers at once */

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

static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, const struct page *page,
                                      size_t low, size_t high, bool ahead, enum dtype type)
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

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, const struct page *page,
                                     size_t low, size_t high, size_t i, size_t width,
                                     enum dtype type)
{
    __m256 v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = _mm256_mul_ps(_mm256_loadu_ps(rows[r].out + i + k * LANES),
                                             _mm256_set1_ps(rows[r].keep));
    for (size_t j = low; j < high; j++)
        for (size_t k = 0; k < width; k++) {
            __m256 value = load(page->values, j * page->d + i + k * LANES, type);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] =
                    _mm256_fmadd_ps(_mm256_set1_ps(rows[r].score[j]), value, v[r * width + k]);
        }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            _mm256_storeu_ps(rows[r].out + i + k * LANES, v[r * width + k]);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, const struct page *page,
                                     size_t low, size_t high, enum dtype type)
{
    size_t i = 0, width = SUMS / n, d = page->d;
    for (; i + width * LANES <= d; i += width * LANES)
        value_step(rows, n, page, low, high, i, width, type);
    for (; i < d; i += LANES)
        value_step(rows, n, page, low, high, i, 1, type);
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
