/* Norm, activation functions, rounding and rotation, AVX-512: the same bits as norm_c.c, act_c.c
 * and rope_c.c. */
#include "engine/kernels/math_avx512.h"

#define LANES 16

typedef __m512 floats;

/* n < LANES */
static ALWAYS_INLINE __mmask16 tail_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    return n >= LANES ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(tail_mask(n), x);
}

static ALWAYS_INLINE void floats_put(float *out, floats v, size_t n)
{
    if (n >= LANES)
        _mm512_storeu_ps(out, v);
    else
        _mm512_mask_storeu_ps(out, tail_mask(n), v);
}

static ALWAYS_INLINE floats floats_exp(floats x)
{
    return exp_sixteen(x);
}

static ALWAYS_INLINE floats floats_size(floats x)
{
    return _mm512_abs_ps(x);
}

static ALWAYS_INLINE floats floats_pick(floats size, floats small, floats large, floats x)
{
    const __m512 sign = _mm512_set1_ps(-0.0f);
    large = _mm512_or_ps(_mm512_abs_ps(large), _mm512_and_ps(sign, x));
    return _mm512_mask_mov_ps(
        large, _mm512_cmp_ps_mask(size, _mm512_set1_ps(TANH_SMALL), _CMP_LT_OQ), small);
}

/* Eight sums in turn, as the other sets have them. */
static ALWAYS_INLINE float squares(const float *x, size_t n)
{
    __m256 sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        floats v = floats_first(x + i, n - i), square = v * v;
        sum += _mm512_castps512_ps256(square);
        sum += _mm512_extractf32x8_ps(square, 1);
    }
    __m128 a = _mm256_castps256_ps128(sum) + _mm256_extractf128_ps(sum, 1);
    __m128 b = a + _mm_movehl_ps(a, a);
    return _mm_cvtss_f32(b + _mm_movehdup_ps(b));
}

static ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    floats largest = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES)
        largest = _mm512_max_ps(floats_size(_mm512_loadu_ps(x + i)), largest);
    return _mm512_reduce_max_ps(largest);
}

static ALWAYS_INLINE int32_t round_group(int8_t *q, const float *x, float step, size_t n)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += LANES) {
        floats v = _mm512_loadu_ps(x + i) / step;
        v = _mm512_max_ps(v, _mm512_set1_ps(-127.0f)); /* what is not a number becomes -127 */
        v = _mm512_min_ps(v, _mm512_set1_ps(127.0f));
        __m512i whole = _mm512_cvtps_epi32(v); /* to the nearest, even in the middle */
        _mm_storeu_si128((__m128i *)(void *)(q + i), _mm512_cvtepi32_epi8(whole));
        sum = _mm512_add_epi32(sum, whole);
    }
    return _mm512_reduce_add_epi32(sum);
}

#include "engine/kernels/vector_walk.h"

VECTORS(avx512)
