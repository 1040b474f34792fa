/* Norm, activation functions, rounding and rotation, AVX2: the same bits as norm_c.c, act_c.c and
 * rope_c.c. */
#include "engine/kernels/math_avx2.h"
#include <assert.h>

#define LANES 8

typedef __m256 floats;

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    return n >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, tail_mask(n));
}

static ALWAYS_INLINE void floats_put(float *out, floats v, size_t n)
{
    if (n >= LANES)
        _mm256_storeu_ps(out, v);
    else
        _mm256_maskstore_ps(out, tail_mask(n), v);
}

static ALWAYS_INLINE floats floats_exp(floats x)
{
    return exp_eight(x);
}

static ALWAYS_INLINE floats floats_size(floats x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static ALWAYS_INLINE floats floats_pick(floats size, floats small, floats large, floats x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    large = _mm256_or_ps(floats_size(large), _mm256_and_ps(sign, x));
    return _mm256_blendv_ps(large, small,
                            _mm256_cmp_ps(size, _mm256_set1_ps(TANH_SMALL), _CMP_LT_OQ));
}

static ALWAYS_INLINE float squares(const float *x, size_t n)
{
    floats sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        floats v = floats_first(x + i, n - i);
        sum += v * v;
    }
    return lanes_sum(sum);
}

#include "engine/kernels/vector_walk.h"

VECTORS(avx2)

static inline float largest_of(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* Eight values divided by the step and rounded: whole numbers from -127 to 127. */
static inline __m256i round_eight(const float *x, __m256 step)
{
    __m256 v = _mm256_div_ps(_mm256_loadu_ps(x), step);
    v = _mm256_max_ps(v, _mm256_set1_ps(-127.0f)); /* what is not a number becomes -127 */
    v = _mm256_min_ps(v, _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(v); /* to the nearest, even in the middle */
}

static inline int32_t sum_of(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_unpackhi_epi64(a, a));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 1)));
}

/* 16 values; leaves their sum. */
static inline int32_t round_sixteen(int8_t *q, const float *x, __m256 step)
{
    __m256i a = round_eight(x, step), b = round_eight(x + LANES, step);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)q, bytes);
    return sum_of(_mm256_add_epi32(a, b));
}

void round_row_avx2(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n, size_t block)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    size_t group = ACT_GROUP(block);
    assert(block == 32 || block == 256);
    for (size_t b = 0; b < n; b += block) {
        __m256 largest = _mm256_setzero_ps();
        for (size_t i = b; i < b + block; i += LANES) /* a NaN is passed over */
            largest = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), largest);
        float step = largest_of(largest) / 127.0f;
        bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
        scale[b / block] = step;
        for (size_t i = b; i < b + block; i += group)
            sum[i / group] = 0;
        for (size_t i = b; i < b + block; i += 16) {
            if (usable)
                sum[i / group] += round_sixteen(q + i, x + i, _mm256_set1_ps(step));
            else
                _mm_storeu_si128((__m128i *)(void *)(q + i), _mm_setzero_si128());
        }
    }
}
