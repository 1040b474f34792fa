/* Products with float32 activations, NEON: eight fused partial sums a row, as matmul_float_avx2.c
 * has them. Quantized types come through their to_f32. */
#include "engine/kernels/math_neon.h"

#define LANES 8
#define AT_ONCE 2

typedef float32x4x2_t floats;

static ALWAYS_INLINE floats floats_first(const float *x, size_t n)
{
    floats v = {{load_some(x, n), vdupq_n_f32(0.0f)}};
    if (n > 4)
        v.val[1] = load_some(x + 4, n - 4);
    return v;
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    for (size_t i = 0; i < 2; i++)
        sum.val[i] = vfmaq_f32(sum.val[i], a.val[i], b.val[i]);
    return sum;
}

static ALWAYS_INLINE float floats_sum(floats v)
{
    return lanes_sum(v.val[0], v.val[1]);
}
#include "engine/kernels/matmul_float_walk.h"

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

static bool add_stored(floats sum[][TILE], enum dtype dtype, const uint8_t *const w[TILE],
                       const float *a, size_t stride, size_t n, size_t rows)
{
    (void)sum, (void)dtype, (void)w, (void)a, (void)stride, (void)n, (void)rows;
    return false;
}

void matmul_float_neon(float *out, size_t stride, const struct weight_rows *w,
                       const struct act_rows *x)
{
    multiply(out, stride, w, x);
}
