/* math_avx2.h - pieces shared by the AVX2 files; static, so no other file can get code with AVX2
 * flags from here. Only files with those flags include it. */
#pragma once
#include "engine/kernels/polynomials.h"
#include <immintrin.h>
#include <stddef.h>

/* Loops over a number of rows that is known where it is called are unrolled into registers. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Lanes 0 .. n-1 set, n < 8. */
static inline __m256i tail_mask(size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

/* ((l0+l4)+(l2+l6)) + ((l1+l5)+(l3+l7)), as lanes_sum of scalar.h has it. */
static inline float lanes_sum(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* As scalar_exp, bit for bit. */
static inline __m256 exp_eight(__m256 x)
{
    const __m256 round = _mm256_set1_ps(EXP_ROUND);
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_MIN), _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(EXP_MAX), x); /* a NaN stays */
    __m256 n = _mm256_mul_ps(x, _mm256_set1_ps(EXP_LOG2E));
    n = _mm256_sub_ps(_mm256_add_ps(n, round), round);
    __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(EXP_LN2_HIGH)));
    r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(EXP_LN2_LOW)));
    __m256 p = _mm256_set1_ps(EXP_P0);
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(EXP_P1));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(EXP_P2));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(EXP_P3));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(EXP_P4));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(EXP_P5));
    p = _mm256_add_ps(_mm256_mul_ps(p, _mm256_mul_ps(r, r)), r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(p, power));
}
