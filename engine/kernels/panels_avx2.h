/* panels_avx2.h - products with rounded activations, AVX2: what the files of this set share;
 * static, so no other file can get code with these flags from here. The same whole numbers and the
 * same order as matmul_c.c.
 *
 * Eight rows of weights are computed side by side, one in each 32-bit lane. Their blocks are first
 * laid out as panels: bytes 4g .. 4g+3 of row i stand in lane i of vector g. A panel is then
 * multiplied with 4 broadcast activations at a time, for all activation rows before the next one
 * is made; so no sum runs across lanes, and one row gives the same bits as many.
 *
 * matmul_avxvnni.c compiles these files again, with DPBUSD: the instruction that adds four products
 * of unsigned weights and signed activations to each lane. Signed weights are stored with
 * SIGN_OFFSET added then, which the sums of the activations take away again. */
#pragma once
#include "engine/kernels/math_avx2.h"
#include "engine/kernels/sets.h"
#include <string.h>

#define LANES ((size_t)8)
#define LINE ((size_t)64) /* bytes of the cache */
#define STRIP ACT_STRIP   /* values of a panel: 8 blocks of 32, or one of 256 */
#define ACT_ROWS 16       /* activation rows that share a panel */
#ifndef KERNEL
#define KERNEL(type) matmul_##type##_avx2
#endif

struct panel {
    __m256i w[STRIP / 4];
    __m256 scale[STRIP / 32], base[STRIP / 32]; /* of block b, row in lane; of 256 values: [0] */
    __m256i sub_scale[STRIP / 16]; /* of a group of 16 or 32 values, as a pair of equal int16 */
    __m256i sub_base[STRIP / 32];  /* int16 of the two groups of 16 in 32 values */
};

/* How a storage type is unpacked and multiplied. */
struct steps {
    /* blocks [strip / 32 or 1] of eight rows, which begin at row[i] */
    void (*unpack)(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks);
    /* add the strip's products with n activation rows, 1 <= n <= 4 */
    void (*multiply)(__m256 *sum, const struct panel *p, const struct act_rows *x, size_t r,
                     size_t n, size_t strip, size_t n_blocks);
};

/* 16 bytes at `at` of eight rows: of row i in the lower half of a[i], of row i + 4 in the upper. */
static inline void load_rows(__m256i a[4], const uint8_t *const row[LANES], size_t at)
{
    for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(row[i] + at));
        __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(row[i + 4] + at));
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
}

/* The same, transposed: dword j of row i in lane i of v[j]. */
static inline void load_transposed(__m256i v[4], const uint8_t *const row[LANES], size_t at)
{
    __m256i a[4];
    load_rows(a, row, at);
    __m256i t0 = _mm256_unpacklo_epi32(a[0], a[1]), t1 = _mm256_unpackhi_epi32(a[0], a[1]);
    __m256i t2 = _mm256_unpacklo_epi32(a[2], a[3]), t3 = _mm256_unpackhi_epi32(a[2], a[3]);
    v[0] = _mm256_unpacklo_epi64(t0, t2);
    v[1] = _mm256_unpackhi_epi64(t0, t2);
    v[2] = _mm256_unpacklo_epi64(t1, t3);
    v[3] = _mm256_unpackhi_epi64(t1, t3);
}

/* Low 16 bits of eight lanes, as half floats. */
static inline __m256 half_lanes(__m256i dwords)
{
    __m256i words = _mm256_and_si256(dwords, _mm256_set1_epi32(0xffff));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

/* The half floats at `at` of eight rows; 14 bytes more of each row are read and not used. */
static inline __m256 load_scales(const uint8_t *const row[LANES], size_t at)
{
    __m256i a[4];
    load_rows(a, row, at);
    __m256i t0 = _mm256_unpacklo_epi32(a[0], a[1]), t1 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i dwords = _mm256_unpacklo_epi64(t0, t1); /* of row i in lane i */
    return half_lanes(dwords);
}

static inline __m256i four_acts(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

#ifdef DPBUSD
#define SIGN_OFFSET 128
static inline __m256i stored_bytes(__m256i w)
{
    return _mm256_xor_si256(w, _mm256_set1_epi8(-SIGN_OFFSET));
}
#else
static inline __m256i stored_bytes(__m256i w)
{
    return w;
}
#endif

/* sum += (scale of weights * scale of activations) * whole, not fused. */
static inline __m256 add_block(__m256 sum, __m256 scale, float act_scale, __m256i whole)
{
    __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(act_scale));
    return _mm256_add_ps(sum, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(whole)));
}

/* ---- products */

static inline void store(float *out, __m256 sum, size_t n)
{
    float lane[LANES];
    if (n == LANES) {
        _mm256_storeu_ps(out, sum);
        return;
    }
    _mm256_storeu_ps(lane, sum);
    memcpy(out, lane, n * sizeof *out);
}

/* Ask for lines that will be needed soon. */
static inline void fetch(const void *from, size_t size)
{
    for (size_t i = 0; i < size; i += LINE)
        _mm_prefetch((const char *)from + i, _MM_HINT_T0);
}

/* A strip of activations, of some rows. */
static inline void fetch_acts(const struct act_rows *x, size_t r, size_t rows, size_t strip)
{
    size_t first = strip * x->rows + r, scales = STRIP / x->block;
    size_t sums = STRIP / ACT_GROUP(x->block);
    if (strip * STRIP >= x->width)
        return;
    fetch(x->q + first * STRIP, rows * STRIP);
    fetch(x->scale + first * scales, rows * scales * sizeof *x->scale);
    fetch(x->sum + first * sums, rows * sums * sizeof *x->sum);
}

/* One product: up to 8 rows of weights, up to ACT_ROWS of activations. */
struct tile {
    const struct weight_rows *w;
    const struct act_rows *x;
    size_t r, rows;
    const uint8_t *ahead, *ahead_end; /* weights that come next: their rows are short and lie apart,
                                         so the processor does not see by itself where we go */
};

static inline void matmul_tile(float *out, size_t stride, struct tile *t, const struct steps *steps)
{
    __m256 sum[ACT_ROWS];
    struct panel panel;
    const struct weight_rows *w = t->w;
    size_t values = w->type->block_values, blocks = w->width / values, strip = STRIP / values;
    size_t n = w->end - w->begin;
    const uint8_t *row[LANES];

    for (size_t i = 0; i < t->rows; i++)
        sum[i] = _mm256_setzero_ps();
    for (size_t i = 0; i < LANES; i++) /* beyond the end: the last row again */
        row[i] = (const uint8_t *)w->data + (w->begin + (i < n ? i : n - 1)) * w->row_bytes;
    for (size_t b = 0; b < blocks; b += strip) {
        size_t n_blocks = blocks - b < strip ? blocks - b : strip;
        size_t row_bytes = n_blocks * w->type->block_bytes, bytes = LANES * row_bytes;
        if (t->rows > 1)
            fetch_acts(t->x, t->r, t->rows, b / strip + 1);
        if (bytes <= (size_t)(t->ahead_end - t->ahead)) {
            fetch(t->ahead, bytes);
            t->ahead += bytes;
        }
        steps->unpack(&panel, row, n_blocks);
        for (size_t i = 0; i < t->rows; i += 4)
            steps->multiply(&sum[i], &panel, t->x, t->r + i, t->rows - i < 4 ? t->rows - i : 4,
                            b / strip, n_blocks);
        for (size_t i = 0; i < LANES; i++)
            row[i] += row_bytes;
    }
    for (size_t i = 0; i < t->rows; i++)
        store(out + (t->r + i) * stride + w->begin, sum[i], n);
}

static inline void matmul_steps(float *out, size_t stride, const struct weight_rows *w,
                                const struct act_rows *x, const struct steps *steps)
{
    const uint8_t *data = w->data;
    for (size_t begin = w->begin; begin < w->end; begin += LANES) {
        struct weight_rows part = *w;
        part.begin = begin;
        part.end = w->end - begin < LANES ? w->end : begin + LANES;
        struct tile tile = {.w = &part,
                            .x = x,
                            .ahead = data + part.end * w->row_bytes,
                            .ahead_end = data + w->end * w->row_bytes};
        for (; tile.r < x->rows; tile.r += ACT_ROWS) {
            tile.rows = x->rows - tile.r < ACT_ROWS ? x->rows - tile.r : ACT_ROWS;
            matmul_tile(out, stride, &tile, steps);
            tile.ahead = tile.ahead_end;
        }
    }
}

/* A number of rows that the compiler knows keeps their sums in registers. type_rows is the product,
 * type_unpack makes panels. */
#define STEPS(type)                                                                                \
    static void type##_multiply(__m256 *sum, const struct panel *p, const struct act_rows *x,      \
                                size_t r, size_t n, size_t strip, size_t n_blocks)                 \
    {                                                                                              \
        __m256 kept[4] = {sum[0], sum[n > 1], sum[n > 2 ? 2 : 0], sum[n > 3 ? 3 : 0]};             \
        if (n == 4)                                                                                \
            type##_rows(kept, p, x, r, 4, strip, n_blocks);                                        \
        else if (n == 3)                                                                           \
            type##_rows(kept, p, x, r, 3, strip, n_blocks);                                        \
        else if (n == 2)                                                                           \
            type##_rows(kept, p, x, r, 2, strip, n_blocks);                                        \
        else                                                                                       \
            type##_rows(kept, p, x, r, 1, strip, n_blocks);                                        \
        for (size_t i = 0; i < n; i++)                                                             \
            sum[i] = kept[i];                                                                      \
    }                                                                                              \
    void KERNEL(type)(float *out, size_t stride, const struct weight_rows *w,                      \
                      const struct act_rows *x)                                                    \
    {                                                                                              \
        static const struct steps steps = {type##_unpack, type##_multiply};                        \
        matmul_steps(out, stride, w, x, &steps);                                                   \
    }
