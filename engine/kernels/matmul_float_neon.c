/* Products with float32 activations, NEON: eight fused partial sums a row, as matmul_float_avx2.c
 * has them. Quantized types come through their to_f32. */
#include "engine/kernels/math_neon.h"
#include "engine/kernels/sets.h"

#define CHUNK 256 /* values made float32 at a time: a whole number of blocks of every type */
#define TILE 4    /* weight rows */
#define ROWS 16   /* activation rows that share them */

static void f16_chunk(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        uint16_t half[4] = {0};
        memcpy(half, in + 2 * i, (n - i < 4 ? n - i : 4) * sizeof *half);
        store_some(out + i, load_half(half), n - i);
    }
}

static void bf16_chunk(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        uint16_t upper[4] = {0};
        memcpy(upper, in + 2 * i, (n - i < 4 ? n - i : 4) * sizeof *upper);
        uint32x4_t bits = vshll_n_u16(vld1_u16(upper), 16);
        store_some(out + i, vreinterpretq_f32_u32(bits), n - i);
    }
}

static void chunk(float *out, const struct quant_row *type, const uint8_t *in, size_t n)
{
    if (type->dtype == DTYPE_F16)
        f16_chunk(out, in, n);
    else if (type->dtype == DTYPE_BF16)
        bf16_chunk(out, in, n);
    else
        type->to_f32(out, in, n);
}

/* Add the products of n values: TILE weight rows, `rows` (1 or 2) activation rows. */
static ALWAYS_INLINE void add_products(float32x4_t sum[][TILE][2], const float *const w[TILE],
                                       const float *a, size_t stride, size_t n, size_t rows)
{
    float32x4_t kept[2][TILE][2];
    for (size_t r = 0; r < rows; r++)
        memcpy(kept[r], sum[r], sizeof kept[r]);
    for (size_t i = 0; i < n; i += 8)
        for (size_t part = 0; part < 2 && i + 4 * part < n; part++) {
            size_t at = i + 4 * part;
            float32x4_t value[TILE];
            for (size_t t = 0; t < TILE; t++)
                value[t] = load_some(w[t] + at, n - at);
            for (size_t r = 0; r < rows; r++) {
                float32x4_t x = load_some(a + r * stride + at, n - at);
                for (size_t t = 0; t < TILE; t++)
                    kept[r][t][part] = vfmaq_f32(kept[r][t][part], value[t], x);
            }
        }
    for (size_t r = 0; r < rows; r++)
        memcpy(sum[r], kept[r], sizeof kept[r]);
}

static void tile_rows(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x, size_t first, size_t rows)
{
    float32x4_t sum[ROWS][TILE][2];
    float value[TILE][CHUNK];
    const struct quant_row *type = w->type;

    memset(sum, 0, rows * sizeof *sum);
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
            out[(first + r) * stride + w->begin + t] = lanes_sum(sum[r][t][0], sum[r][t][1]);
}

void matmul_float_neon(float *out, size_t stride, const struct weight_rows *w,
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
