/* Products with float32 activations, AVX2: eight fused partial sums a row, as matmul_float_c has
 * them; only the fused rounding differs. Four weight rows share the loads of one or two activation
 * rows; each pair of rows has its own sums, so their number changes nothing. */
#include "engine/kernels/math_avx2.h"
#include "engine/kernels/sets.h"
#include <string.h>

#define LANES 8
#define CHUNK 256 /* values made float32 at a time: a whole number of blocks of every type */
#define TILE 4    /* weight rows */
#define ROWS 16   /* activation rows that share them */

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

/* Add the products of n values: TILE weight rows, `rows` (1 or 2) activation rows. */
static ALWAYS_INLINE void add_products(__m256 sum[][TILE], const float *const w[TILE],
                                       const float *a, size_t stride, size_t n, size_t rows)
{
    __m256 kept[2][TILE];
    size_t i = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            kept[r][t] = sum[r][t];
    for (; i + LANES <= n; i += LANES)
        for (size_t r = 0; r < rows; r++) {
            __m256 x = _mm256_loadu_ps(a + r * stride + i);
            for (size_t t = 0; t < TILE; t++)
                kept[r][t] = _mm256_fmadd_ps(_mm256_loadu_ps(w[t] + i), x, kept[r][t]);
        }
    if (i < n) {
        __m256i mask = tail_mask(n - i);
        for (size_t r = 0; r < rows; r++) {
            __m256 x = _mm256_maskload_ps(a + r * stride + i, mask);
            for (size_t t = 0; t < TILE; t++)
                kept[r][t] = _mm256_fmadd_ps(_mm256_maskload_ps(w[t] + i, mask), x, kept[r][t]);
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            sum[r][t] = kept[r][t];
}

static void tile_rows(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x, size_t first, size_t rows)
{
    __m256 sum[ROWS][TILE];
    float value[TILE][CHUNK];
    const struct quant_row *type = w->type;

    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            sum[r][t] = _mm256_setzero_ps();
    for (size_t j = 0; j < w->width; j += CHUNK) {
        size_t n = w->width - j < CHUNK ? w->width - j : CHUNK;
        const float *weights[TILE];
        for (size_t t = 0; t < TILE; t++) { /* beyond the end: the last row again */
            size_t i = w->begin + t < w->end ? w->begin + t : w->end - 1;
            const uint8_t *in = (const uint8_t *)w->data + i * w->row_bytes +
                                j / type->block_values * type->block_bytes;
            weights[t] = value[t];
            if (type->dtype == DTYPE_F32)
                weights[t] = (const float *)(const void *)in;
            else
                chunk(value[t], type, in, n);
        }
        const float *a = x->x + first * x->width + j;
        for (size_t r = 0; r < rows; r += 2)
            if (rows - r >= 2)
                add_products(&sum[r], weights, a + r * x->width, x->width, n, 2);
            else
                add_products(&sum[r], weights, a + r * x->width, x->width, n, 1);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE && w->begin + t < w->end; t++)
            out[(first + r) * stride + w->begin + t] = lanes_sum(sum[r][t]);
}

void matmul_float_avx2(float *out, size_t stride, const struct weight_rows *w,
                       const struct act_rows *x)
{
    for (size_t begin = w->begin; begin < w->end; begin += TILE) {
        struct weight_rows part = *w;
        part.begin = begin;
        part.end = w->end - begin < TILE ? w->end : begin + TILE;
        for (size_t first = 0; first < x->rows; first += ROWS)
            tile_rows(out, stride, &part, x, first,
                      x->rows - first < ROWS ? x->rows - first : ROWS);
    }
}
