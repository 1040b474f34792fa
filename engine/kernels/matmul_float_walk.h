/* matmul_float_walk.h - products with float32 activations, whatever the width of a vector; static,
 * as math_avx2.h. TILE weight rows share the loads of a few activation rows; each pair of rows has
 * its own fused partial sums, so their number changes nothing. The file that includes it defines
 * before:
 *
 *   LANES, floats in a vector; AT_ONCE (2 or 4), activation rows whose sums stay in registers
 *   floats                  a vector of float; all bytes zero: zeros
 *   floats_first            the first n of a vector's numbers, the others zero; all of them from
 *                           LANES on
 *   floats_add_product, floats_sum    sum + a * b; the lanes of one vector together
 *
 * and the functions declared below after it. */
#pragma once
#include "engine/kernels/sets.h"
#include <string.h>

#define CHUNK 256 /* values made float32 at a time: a whole number of blocks of every type */
#define TILE 4    /* weight rows */
#define ROWS 16   /* activation rows that share them */

/* n values (of whole blocks) as float32. */
static void chunk(float *out, const struct quant_row *type, const uint8_t *in, size_t n);

/* n products of TILE weight rows, which begin at w[t], with rows of activations, `stride` apart,
 * if the type's values are better widened where they are multiplied; else false. */
static bool add_stored(floats sum[][TILE], enum dtype dtype, const uint8_t *const w[TILE],
                       const float *a, size_t stride, size_t n, size_t rows);

/* The vector at value i of a row as stored, of which n values are there. */
typedef floats widen(const uint8_t *in, size_t i, size_t n);

static ALWAYS_INLINE floats widen_f32(const uint8_t *in, size_t i, size_t n)
{
    return floats_first((const float *)(const void *)in + i, n);
}

/* Add the products of n values: TILE weight rows, `rows` (1 .. 4) activation rows. */
static ALWAYS_INLINE void add_products(floats sum[][TILE], const uint8_t *const w[TILE],
                                       const float *a, size_t stride, size_t n, size_t rows,
                                       widen *wide)
{
    floats kept[4][TILE];
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            kept[r][t] = sum[r][t];
    for (size_t i = 0; i < n; i += LANES) {
        floats value[TILE];
        for (size_t t = 0; t < TILE; t++)
            value[t] = wide(w[t], i, n - i);
        for (size_t r = 0; r < rows; r++) {
            floats x = floats_first(a + r * stride + i, n - i);
            for (size_t t = 0; t < TILE; t++)
                kept[r][t] = floats_add_product(kept[r][t], value[t], x);
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE; t++)
            sum[r][t] = kept[r][t];
}

/* rows up to ROWS, AT_ONCE at a time: a number that the compiler knows keeps sums in registers. */
static ALWAYS_INLINE void add_rows(floats sum[][TILE], const uint8_t *const w[TILE], const float *a,
                                   size_t stride, size_t n, size_t rows, widen *wide)
{
    for (size_t r = 0; r < rows; r += AT_ONCE) {
        const float *x = a + r * stride;
        switch (rows - r < AT_ONCE ? rows - r : AT_ONCE) {
        case 1:
            add_products(&sum[r], w, x, stride, n, 1, wide);
            break;
        case 2:
            add_products(&sum[r], w, x, stride, n, 2, wide);
            break;
        case 3:
            add_products(&sum[r], w, x, stride, n, 3, wide);
            break;
        default:
            add_products(&sum[r], w, x, stride, n, 4, wide);
        }
    }
}

static void add_floats(floats sum[][TILE], const uint8_t *const w[TILE], const float *a,
                       size_t stride, size_t n, size_t rows)
{
    add_rows(sum, w, a, stride, n, rows, widen_f32);
}

/* n values of TILE weight rows, which begin at in[t]. */
static void tile_chunk(floats sum[][TILE], const struct quant_row *type,
                       const uint8_t *const in[TILE], const float *a, size_t stride, size_t n,
                       size_t rows)
{
    float value[TILE][CHUNK];
    const uint8_t *made[TILE];

    if (type->dtype == DTYPE_F32) {
        add_floats(sum, in, a, stride, n, rows);
    } else if (!add_stored(sum, type->dtype, in, a, stride, n, rows)) {
        for (size_t t = 0; t < TILE; t++) {
            chunk(value[t], type, in[t], n);
            made[t] = (const uint8_t *)value[t];
        }
        add_floats(sum, made, a, stride, n, rows);
    }
}

static void tile_rows(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x, size_t first, size_t rows)
{
    floats sum[ROWS][TILE];
    const struct quant_row *type = w->type;

    memset(sum, 0, sizeof sum);
    for (size_t j = 0; j < w->width; j += CHUNK) {
        size_t n = w->width - j < CHUNK ? w->width - j : CHUNK;
        const uint8_t *in[TILE];
        for (size_t t = 0; t < TILE; t++) { /* beyond the end: the last row again */
            size_t i = w->begin + t < w->end ? w->begin + t : w->end - 1;
            in[t] = (const uint8_t *)w->data + i * w->row_bytes +
                    j / type->block_values * type->block_bytes;
            /* The same part of the next tile: its rows lie apart, so the processor does not see by
             * itself where we go. */
            for (size_t k = 0; k < n / type->block_values * type->block_bytes; k += 64)
                __builtin_prefetch(in[t] + TILE * w->row_bytes + k, 0, 2);
        }
        tile_chunk(sum, type, in, x->x + first * x->width + j, x->width, n, rows);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t t = 0; t < TILE && w->begin + t < w->end; t++)
            out[(first + r) * stride + w->begin + t] = floats_sum(sum[r][t]);
}

static void multiply(float *out, size_t stride, const struct weight_rows *w,
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
