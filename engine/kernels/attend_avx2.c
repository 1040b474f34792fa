/* Softmax attention over pages of keys, AVX2: the order of attend_c.c, products fused. */
#include "engine/kernels/math_avx2.h"
#include "engine/quant/quant.h"

#define LANES ((size_t)8)
#define SUMS ((size_t)8)

typedef __m256 floats;
typedef __m256i wholes;
typedef __m256i words;

/* Heads are a multiple of eight: no vector of floats has a tail. */
static ALWAYS_INLINE floats floats_zero(void)
{
    return _mm256_setzero_ps();
}

static ALWAYS_INLINE floats floats_all(float x)
{
    return _mm256_set1_ps(x);
}

static ALWAYS_INLINE floats floats_get(const float *x, bool all)
{
    (void)all;
    return _mm256_loadu_ps(x);
}

static ALWAYS_INLINE void floats_put(float *out, floats v, bool all)
{
    (void)all;
    _mm256_storeu_ps(out, v);
}

static ALWAYS_INLINE floats floats_plus(floats a, floats b)
{
    return _mm256_add_ps(a, b);
}

static ALWAYS_INLINE floats floats_times(floats a, floats b)
{
    return _mm256_mul_ps(a, b);
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    return _mm256_fmadd_ps(a, b, sum);
}

static ALWAYS_INLINE floats floats_of(const uint8_t *x, enum dtype type, bool all)
{
    (void)all;
    if (type == DTYPE_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)x));
    return _mm256_loadu_ps((const float *)(const void *)x);
}

static ALWAYS_INLINE wholes wholes_zero(void)
{
    return _mm256_setzero_si256();
}

static ALWAYS_INLINE words words_all(int32_t x)
{
    return _mm256_set1_epi32(x);
}

static ALWAYS_INLINE floats wholes_to_floats(wholes v)
{
    return _mm256_cvtepi32_ps(v);
}

static ALWAYS_INLINE wholes wholes_add_pairs(wholes sum, words a, words b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

/* Sixteen, or the first eight of them. */
static ALWAYS_INLINE words words_of(const uint8_t *x, size_t n)
{
    const __m128i *in = (const __m128i *)(const void *)x;
    return _mm256_cvtepi8_epi16(n < 16 ? _mm_loadl_epi64(in) : _mm_loadu_si128(in));
}

#include "engine/kernels/attend_rows.h"

static float exp_one(float x)
{
    return _mm256_cvtss_f32(exp_eight(_mm256_set1_ps(x)));
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

/* Eight numbers in units of a step, as `nearest` of attend_c.c. */
static ALWAYS_INLINE __m128i round_eight(const float *x, float inverse, float limit)
{
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse));
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
                         usable ? round_eight(x + i, 1.0f / step, limit) : _mm_setzero_si128());
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

#include "engine/kernels/attend_soften.h"

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

static void to_half(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += LANES)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
}

#include "engine/kernels/attend_store.h"

void attend_store_avx2(const struct attend_shape *shape, void *keys, void *values, size_t at,
                       const float *key, const float *value)
{
    store_position(shape, keys, values, at, key, value);
}
