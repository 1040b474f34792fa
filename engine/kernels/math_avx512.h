/* math_avx512.h - pieces shared by the AVX-512 files; static, as math_avx2.h. */
#pragma once
#include "engine/kernels/polynomials.h"
#include <immintrin.h>
#include <stddef.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* As scalar_exp, bit for bit. */
static inline __m512 exp_sixteen(__m512 x)
{
    const __m512 round = _mm512_set1_ps(EXP_ROUND);
    __mmask16 enough = _mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_MIN), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(EXP_MAX), x); /* a NaN stays */
    __m512 n = _mm512_mul_ps(x, _mm512_set1_ps(EXP_LOG2E));
    n = _mm512_sub_ps(_mm512_add_ps(n, round), round);
    __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(n, _mm512_set1_ps(EXP_LN2_HIGH)));
    r = _mm512_sub_ps(r, _mm512_mul_ps(n, _mm512_set1_ps(EXP_LN2_LOW)));
    __m512 p = _mm512_set1_ps(EXP_P0);
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(EXP_P1));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(EXP_P2));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(EXP_P3));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(EXP_P4));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(EXP_P5));
    p = _mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r);
    p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    return _mm512_maskz_mul_ps(enough, p, power);
}
