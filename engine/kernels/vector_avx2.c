/* Norm, activation functions, rounding and rotation, AVX2: the same bits as norm_c.c, act_c.c and
 * rope_c.c, so nothing here is fused. A tail goes through the same code in a padded vector. */
#include "engine/kernels/math_avx2.h"
#include "engine/kernels/sets.h"
#include <assert.h>

#define LANES 8

/* The first n of eight values, the others zero. */
static inline __m256 load_some(const float *x, size_t n)
{
    return n >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, tail_mask(n));
}

static inline void store_some(float *out, __m256 v, size_t n)
{
    if (n >= LANES)
        _mm256_storeu_ps(out, v);
    else
        _mm256_maskstore_ps(out, tail_mask(n), v);
}

void rmsnorm_avx2(float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    __m256 sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        __m256 v = load_some(x + i, n - i);
        sum = _mm256_add_ps(sum, _mm256_mul_ps(v, v));
    }
    float mean = lanes_sum(sum) / (float)n;
    __m128 root = _mm_sqrt_ss(_mm_set_ss(mean + epsilon));
    __m256 factor = _mm256_set1_ps(1.0f / _mm_cvtss_f32(root));
    for (size_t i = 0; i < n; i += LANES) {
        __m256 y = _mm256_mul_ps(load_some(x + i, n - i), factor);
        if (weight)
            y = _mm256_mul_ps(y, load_some(weight + i, n - i));
        store_some(out + i, y, n - i);
    }
}

void add_scale_avx2(float *x, const float *y, size_t n, float scale)
{
    __m256 factor = _mm256_set1_ps(scale);
    for (size_t i = 0; i < n; i += LANES) {
        __m256 sum = _mm256_add_ps(load_some(x + i, n - i), load_some(y + i, n - i));
        store_some(x + i, _mm256_mul_ps(sum, factor), n - i);
    }
}

void gelu_mul_avx2(float *out, const float *gate, const float *up, size_t n)
{
    const __m256 cube = _mm256_set1_ps(GELU_CUBE), scale = _mm256_set1_ps(GELU_SCALE);
    for (size_t i = 0; i < n; i += LANES) {
        __m256 u = load_some(gate + i, n - i);
        __m256 third = _mm256_mul_ps(_mm256_mul_ps(_mm256_mul_ps(cube, u), u), u);
        __m256 e = exp_eight(_mm256_mul_ps(scale, _mm256_add_ps(u, third)));
        __m256 y = _mm256_div_ps(u, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
        if (up)
            y = _mm256_mul_ps(y, load_some(up + i, n - i));
        store_some(out + i, y, n - i);
    }
}

static inline __m256 tanh_eight(__m256 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 size = _mm256_andnot_ps(sign, x), z = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(TANH_P0);
    p = _mm256_add_ps(_mm256_mul_ps(p, z), _mm256_set1_ps(TANH_P1));
    p = _mm256_add_ps(_mm256_mul_ps(p, z), _mm256_set1_ps(TANH_P2));
    p = _mm256_add_ps(_mm256_mul_ps(p, z), _mm256_set1_ps(TANH_P3));
    p = _mm256_add_ps(_mm256_mul_ps(p, z), _mm256_set1_ps(TANH_P4));
    __m256 small = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(p, z), x), x);
    __m256 e = _mm256_add_ps(exp_eight(_mm256_add_ps(size, size)), one);
    __m256 large = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), e));
    large = _mm256_or_ps(_mm256_andnot_ps(sign, large), _mm256_and_ps(sign, x));
    return _mm256_blendv_ps(large, small,
                            _mm256_cmp_ps(size, _mm256_set1_ps(TANH_SMALL), _CMP_LT_OQ));
}

void softcap_avx2(float *x, size_t n, float cap)
{
    __m256 limit = _mm256_set1_ps(cap);
    for (size_t i = 0; i < n; i += LANES) {
        __m256 v = _mm256_div_ps(load_some(x + i, n - i), limit);
        store_some(x + i, _mm256_mul_ps(limit, tanh_eight(v)), n - i);
    }
}

void rope_avx2(float *x, const float *cos, const float *sin, size_t heads, size_t half)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half) {
        for (size_t j = 0; j < half; j += LANES) {
            size_t n = half - j;
            __m256 a = load_some(x + j, n), b = load_some(x + j + half, n);
            __m256 c = load_some(cos + j, n), s = load_some(sin + j, n);
            store_some(x + j, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)), n);
            store_some(x + j + half, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)), n);
        }
    }
}

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
