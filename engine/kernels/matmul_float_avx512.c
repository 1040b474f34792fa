/* Products with float32 activations, AVX-512: sixteen fused partial sums a row. Four weight rows
 * share the loads of up to four activation rows; each pair of rows has its own sums, so their
 * number changes nothing. */
#include "engine/kernels/sets.h"
#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define LANES 16
#define CHUNK 256 /* values made float32 at a time: a whole number of blocks of every type */
#define TILE 4    /* weight rows */
#define ROWS 16   /* activation rows that share them */

/* Lanes 0 .. n-1, at most all. */
static ALWAYS_INLINE __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n < LANES ? (1u << n) - 1 : 0xffffu);
}

/* How 16 values of a type become float32, of which `mask` are there. */
typedef __m512 widen(const uint8_t *in, size_t i, __mmask16 mask);

static ALWAYS_INLINE __m512 widen_f32(const uint8_t *in, size_t i, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, in + 4 * i);
}

static ALWAYS_INLINE __m512 widen_f16(const uint8_t *in, size_t i, __mmask16 mask)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, in + 2 * i));
}

static ALWAYS_INLINE __m512 widen_bf16(const uint8_t *in, size_t i, __mmask16 mask)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, in + 2 * i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* ((0 + 8) + (4 + 12)) + ..., always the same tree. */
static inline float lanes_sum(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Add the products of n values: TILE weight rows, `rows` (1 .. 4) activation rows. */
static ALWAYS_INLINE void add_products(__m512 sum[][TILE], const uint8_t *const w[TILE],
                                       const float *a, size_t stride, size_t n, size_t rows,
                                       widen *wide)
{
    __m512 kept[4][TILE];
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            kept[r][t] = sum[r][t];
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = first_lanes(n - i);
        __m512 value[TILE];
        for (size_t t = 0; t < TILE; t++)
            value[t] = wide(w[t], i, mask);
        for (size_t r = 0; r < rows; r++) {
            __m512 x = _mm512_maskz_loadu_ps(mask, a + r * stride + i);
            for (size_t t = 0; t < TILE; t++)
                kept[r][t] = _mm512_fmadd_ps(value[t], x, kept[r][t]);
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            sum[r][t] = kept[r][t];
}

/* rows up to ROWS, four at a time: a number that the compiler knows keeps sums in registers. */
static ALWAYS_INLINE void add_rows(__m512 sum[][TILE], const uint8_t *const w[TILE], const float *a,
                                   size_t stride, size_t n, size_t rows, widen *wide)
{
    for (size_t r = 0; r < rows; r += 4) {
        const float *x = a + r * stride;
        if (rows - r >= 4)
            add_products(&sum[r], w, x, stride, n, 4, wide);
        else if (rows - r == 3)
            add_products(&sum[r], w, x, stride, n, 3, wide);
        else if (rows - r == 2)
            add_products(&sum[r], w, x, stride, n, 2, wide);
        else
            add_products(&sum[r], w, x, stride, n, 1, wide);
    }
}

/* For few rows values are widened where they are multiplied. */
static void add_few_f32(__m512 sum[][TILE], const uint8_t *const w[TILE], const float *a,
                        size_t stride, size_t n, size_t rows)
{
    add_rows(sum, w, a, stride, n, rows, widen_f32);
}

static void add_few_f16(__m512 sum[][TILE], const uint8_t *const w[TILE], const float *a,
                        size_t stride, size_t n, size_t rows)
{
    add_rows(sum, w, a, stride, n, rows, widen_f16);
}

static void add_few_bf16(__m512 sum[][TILE], const uint8_t *const w[TILE], const float *a,
                         size_t stride, size_t n, size_t rows)
{
    add_rows(sum, w, a, stride, n, rows, widen_bf16);
}

static ALWAYS_INLINE void chunk_wide(float *out, const uint8_t *in, size_t n, widen *wide)
{
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 mask = first_lanes(n - i);
        _mm512_mask_storeu_ps(out + i, mask, wide(in, i, mask));
    }
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

/* n values of TILE weight rows, which begin at in[t]. */
static void tile_chunk(__m512 sum[][TILE], const struct quant_row *type,
                       const uint8_t *const in[TILE], const float *a, size_t stride, size_t n,
                       size_t rows)
{
    float value[TILE][CHUNK];
    const uint8_t *wide[TILE];

    if (type->dtype == DTYPE_F32) {
        add_few_f32(sum, in, a, stride, n, rows);
    } else if (type->dtype == DTYPE_F16 && rows <= 4) {
        add_few_f16(sum, in, a, stride, n, rows);
    } else if (type->dtype == DTYPE_BF16 && rows <= 4) {
        add_few_bf16(sum, in, a, stride, n, rows);
    } else {
        for (size_t t = 0; t < TILE; t++) {
            chunk(value[t], type, in[t], n);
            wide[t] = (const uint8_t *)value[t];
        }
        add_few_f32(sum, wide, a, stride, n, rows);
    }
}

/* Ask for the same part of the next tile: its rows lie apart, so the processor does not see by
 * itself where we go. */
static inline void fetch(const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)from + i, _MM_HINT_T1);
}

static void tile_rows(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x, size_t first, size_t rows)
{
    __m512 sum[ROWS][TILE];
    const struct quant_row *type = w->type;

    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            sum[r][t] = _mm512_setzero_ps();
    for (size_t j = 0; j < w->width; j += CHUNK) {
        size_t n = w->width - j < CHUNK ? w->width - j : CHUNK;
        const uint8_t *in[TILE];
        for (size_t t = 0; t < TILE; t++) { /* beyond the end: the last row again */
            size_t i = w->begin + t < w->end ? w->begin + t : w->end - 1;
            in[t] = (const uint8_t *)w->data + i * w->row_bytes +
                    j / type->block_values * type->block_bytes;
            fetch(in[t] + TILE * w->row_bytes, n / type->block_values * type->block_bytes);
        }
        tile_chunk(sum, type, in, x->x + first * x->width + j, x->width, n, rows);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE && w->begin + t < w->end; t++)
            out[(first + r) * stride + w->begin + t] = lanes_sum(sum[r][t]);
}

void matmul_float_avx512(float *out, size_t stride, const struct weight_rows *w,
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
