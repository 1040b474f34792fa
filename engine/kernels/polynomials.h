/* polynomials.h - constants of our exp and tanh, the same in every instruction set.
 *
 * exp: x = n ln 2 + r with |r| <= ln(2)/2, exp(r) by a polynomial, times 2^n. tanh: a polynomial
 * below TANH_SMALL, beyond it 1 - 2 / (exp(2 |x|) + 1). Each step is one rounded multiplication or
 * addition, never fused, so that vectors and tails and all sets give the same bits.
 * Source of the polynomials: S. Moshier, Cephes, expf.c and tanhf.c (errors below 2 units). */
#pragma once

#define EXP_MAX 88.0f
#define EXP_MIN (-87.0f) /* below it the result is 0 */
#define EXP_LOG2E 1.44269504088896341f
#define EXP_LN2_HIGH 0.693359375f /* 9 bits: n times it is exact */
#define EXP_LN2_LOW (-2.12194440e-4f)
#define EXP_ROUND 12582912.0f /* 1.5 * 2^23: adding and taking it away rounds to a whole number */
#define EXP_P0 1.9875691500e-4f
#define EXP_P1 1.3981999507e-3f
#define EXP_P2 8.3334519073e-3f
#define EXP_P3 4.1665795894e-2f
#define EXP_P4 1.6666665459e-1f
#define EXP_P5 5.0000001201e-1f

#define TANH_SMALL 0.625f
#define TANH_P0 (-5.70498872745e-3f)
#define TANH_P1 2.06390887954e-2f
#define TANH_P2 (-5.37397155531e-2f)
#define TANH_P3 1.33314422036e-1f
#define TANH_P4 (-3.33332819422e-1f)

/* gelu_tanh(u) = u / (1 + exp(-2 sqrt(2/pi) (u + GELU_CUBE u^3))) */
#define GELU_CUBE 0.044715f
#define GELU_SCALE (-1.5957691216057308f)
