/* Products with float32 activations, AVX-512: sixteen fused partial sums a row. */
#include <immintrin.h>
#include <stddef.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define LANES 16
#define AT_ONCE 4

typedef __m512 floats;

/* Lanes 0 .. n-1, at most all. */
static ALWAYS_INLINE __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n < LANES ? (1u << n) - 1 : 0xffffu);
}

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), x);
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    return _mm512_fmadd_ps(a, b, sum);
}

/* ((0 + 8) + (4 + 12)) + ..., always the same tree. */
static ALWAYS_INLINE float floats_sum(floats v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
#include "engine/kernels/matmul_float_walk.h"

static ALWAYS_INLINE floats widen_f16(const uint8_t *in, size_t i, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), in + 2 * i));
}

static ALWAYS_INLINE floats widen_bf16(const uint8_t *in, size_t i, size_t n)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), in + 2 * i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static bool add_stored(floats sum[][TILE], enum dtype dtype, const uint8_t *const w[TILE],
                       const float *a, size_t stride, size_t n, size_t rows)
{
    if (rows > AT_ONCE || (dtype != DTYPE_F16 && dtype != DTYPE_BF16))
        return false;
    if (dtype == DTYPE_F16)
        add_rows(sum, w, a, stride, n, rows, widen_f16);
    else
        add_rows(sum, w, a, stride, n, rows, widen_bf16);
    return true;
}

static ALWAYS_INLINE void chunk_wide(float *out, const uint8_t *in, size_t n, widen *wide)
{
    for (size_t i = 0; i < n; i += LANES)
        _mm512_mask_storeu_ps(out + i, first_lanes(n - i), wide(in, i, n - i));
}

static inline __m512 block_scale(const uint8_t *block)
{
    uint16_t half;
    memcpy(&half, block, sizeof half);
    return _mm512_set1_ps(_cvtsh_ss(half));
}

/* d times sixteen whole numbers. */
static inline void scaled(float *out, __m128i bytes, __m512 d)
{
    _mm512_storeu_ps(out, _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))));
}

static void q8_0_chunk(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i += 32, in += 34) {
        __m512 d = block_scale(in);
        scaled(out + i, _mm_loadu_si128((const __m128i *)(const void *)(in + 2)), d);
        scaled(out + i + 16, _mm_loadu_si128((const __m128i *)(const void *)(in + 18)), d);
    }
}

static void q4_0_chunk(float *out, const uint8_t *in, size_t n)
{
    const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    for (size_t i = 0; i < n; i += 32, in += 18) {
        __m512 d = block_scale(in);
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(in + 2));
        scaled(out + i, _mm_sub_epi8(_mm_and_si128(b, low), eight), d);
        b = _mm_and_si128(_mm_srli_epi16(b, 4), low);
        scaled(out + i + 16, _mm_sub_epi8(b, eight), d);
    }
}

static void chunk(float *out, const struct quant_row *type, const uint8_t *in, size_t n)
{
    switch (type->dtype) {
    case DTYPE_F16:
        chunk_wide(out, in, n, widen_f16);
        break;
    case DTYPE_BF16:
        chunk_wide(out, in, n, widen_bf16);
        break;
    case DTYPE_Q8_0:
        q8_0_chunk(out, in, n);
        break;
    case DTYPE_Q4_0:
        q4_0_chunk(out, in, n);
        break;
    default:
        type->to_f32(out, in, n);
        break;
    }
}

void matmul_float_avx512(float *out, size_t stride, const struct weight_rows *w,
                         const struct act_rows *x)
{
    multiply(out, stride, w, x);
}
