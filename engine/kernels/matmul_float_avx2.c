/* Products with float32 activations, AVX2: eight fused partial sums a row, as matmul_float_c has
 * them; only the fused rounding differs. */
#include "engine/kernels/math_avx2.h"

#define LANES 8
#define AT_ONCE 2

typedef __m256 floats;

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    return n >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, tail_mask(n));
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    return _mm256_fmadd_ps(a, b, sum);
}

static ALWAYS_INLINE float floats_sum(floats v)
{
    return lanes_sum(v);
}
#include "engine/kernels/matmul_float_walk.h"

static void f16_chunk(float *out, const uint8_t *in, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(
            out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i))));
    for (; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = _cvtsh_ss(half);
    }
}

static void bf16_chunk(float *out, const uint8_t *in, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m128i upper = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(upper), 16);
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(bits));
    }
    for (; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, in + 2 * i, sizeof upper);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* d times eight whole numbers. */
static inline void scale_eight(float *out, __m128i bytes, __m256 d)
{
    _mm256_storeu_ps(out, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))));
}

static inline __m256 block_scale(const uint8_t *block)
{
    uint16_t half;
    memcpy(&half, block, sizeof half);
    return _mm256_set1_ps(_cvtsh_ss(half));
}

static void q8_0_chunk(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i += 32, in += 34) {
        __m256 d = block_scale(in);
        for (size_t j = 0; j < 32; j += LANES)
            scale_eight(out + i + j, _mm_loadl_epi64((const __m128i *)(const void *)(in + 2 + j)),
                        d);
    }
}

static void q4_0_chunk(float *out, const uint8_t *in, size_t n)
{
    const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    for (size_t i = 0; i < n; i += 32, in += 18) {
        __m256 d = block_scale(in);
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(in + 2));
        __m128i first = _mm_sub_epi8(_mm_and_si128(b, low), eight);
        __m128i second = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), eight);
        scale_eight(out + i, first, d);
        scale_eight(out + i + 8, _mm_srli_si128(first, 8), d);
        scale_eight(out + i + 16, second, d);
        scale_eight(out + i + 24, _mm_srli_si128(second, 8), d);
    }
}

static void chunk(float *out, const struct quant_row *type, const uint8_t *in, size_t n)
{
    switch (type->dtype) {
    case DTYPE_F16:
        f16_chunk(out, in, n);
        break;
    case DTYPE_BF16:
        bf16_chunk(out, in, n);
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

static bool add_stored(floats sum[][TILE], enum dtype dtype, const uint8_t *const w[TILE],
                       const float *a, size_t stride, size_t n, size_t rows)
{
    (void)sum, (void)dtype, (void)w, (void)a, (void)stride, (void)n, (void)rows;
    return false;
}

void matmul_float_avx2(float *out, size_t stride, const struct weight_rows *w,
                       const struct act_rows *x)
{
    multiply(out, stride, w, x);
}
