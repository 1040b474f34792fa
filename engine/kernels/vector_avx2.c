/* Norm, activation functions, rounding and rotation, AVX2: the same bits as norm_c.c, act_c.c and
 * rope_c.c. */
#include "engine/kernels/math_avx2.h"

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

static ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    floats largest = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += LANES)
        largest = _mm256_max_ps(floats_size(_mm256_loadu_ps(x + i)), largest);
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

static ALWAYS_INLINE __m256i round_eight(const float *x, floats step)
{
    floats v = _mm256_loadu_ps(x) / step;
    v = _mm256_max_ps(v, _mm256_set1_ps(-127.0f)); /* what is not a number becomes -127 */
    v = _mm256_min_ps(v, _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(v); /* to the nearest, even in the middle */
}

static ALWAYS_INLINE int32_t round_group(int8_t *q, const float *x, float step, size_t n)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 16) {
        __m256i a = round_eight(x + i, _mm256_set1_ps(step));
        __m256i b = round_eight(x + i + LANES, _mm256_set1_ps(step));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        __m128i bytes =
            _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(void *)(q + i), bytes);
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

#include "engine/kernels/vector_walk.h"

VECTORS(avx2)
