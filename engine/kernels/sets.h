/* sets.h - every kernel of this folder, for the tables in kernels.c and for their files. */
#pragma once
#include "engine/kernels/kernels.h"
#include "engine/kernels/probe.h"
#include <string.h>

/* Types with a kernel for rounded activations, in every set; block: values that share a scale. */
#define EACH_TYPE(MACRO, ...)                                                                      \
    MACRO(Q8_0, q8_0, 32, __VA_ARGS__)                                                             \
    MACRO(Q4_0, q4_0, 32, __VA_ARGS__)                                                             \
    MACRO(Q4_1, q4_1, 32, __VA_ARGS__)                                                             \
    MACRO(Q5_0, q5_0, 32, __VA_ARGS__)                                                             \
    MACRO(Q5_1, q5_1, 32, __VA_ARGS__)                                                             \
    MACRO(IQ4_NL, iq4_nl, 32, __VA_ARGS__)                                                         \
    MACRO(MXFP4, mxfp4, 32, __VA_ARGS__)                                                           \
    MACRO(Q2_K, q2_k, 256, __VA_ARGS__)                                                            \
    MACRO(Q3_K, q3_k, 256, __VA_ARGS__)                                                            \
    MACRO(Q4_K, q4_k, 256, __VA_ARGS__)                                                            \
    MACRO(Q5_K, q5_k, 256, __VA_ARGS__)                                                            \
    MACRO(Q6_K, q6_k, 256, __VA_ARGS__)                                                            \
    MACRO(IQ4_XS, iq4_xs, 256, __VA_ARGS__)
#define DECLARE_MATMUL(dtype, type, block, set) matmul_kernel matmul_##type##_##set;
#define DECLARE_PANELS(dtype, type, block, set) extern const struct panels panels_##type##_##set;
/* A row of the table of products. */
#define MATMUL_ROW(dtype, type, block, needs, set)                                                 \
    {DTYPE_##dtype, needs, block, matmul_##type##_##set, "matmul_" #type "_" #set, NULL},

/* What a set has beside products; the AVX-512 files have some of it. */
#define DECLARE_VECTORS(set)                                                                       \
    void rmsnorm_##set(float *out, const float *x, const float *weight, size_t n, float epsilon);  \
    void add_norm_##set(float *x, const float *y, const float *weight, size_t n, float epsilon,    \
                        float scale);                                                              \
    void gelu_mul_##set(float *out, const float *gate, const float *up, size_t n);                 \
    void softcap_##set(float *x, size_t n, float cap);                                             \
    void rope_##set(float *x, const float *cos, const float *sin, size_t heads, size_t half);      \
    void round_row_##set(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n,          \
                         size_t block);
#define DECLARE_SET(set)                                                                           \
    DECLARE_VECTORS(set)                                                                           \
    void attend_store_##set(const struct attend_shape *shape, void *keys, void *values, size_t at, \
                            const float *key, const float *value);                                 \
    void attend_##set(const struct attend_task *task, const struct attend_part *out);              \
    void attend_add_##set(const struct attend_part *total, const struct attend_part *more,         \
                          size_t rows, size_t head_dim);                                           \
    void attend_finish_##set(float *out, const float *values, float sum, size_t head_dim);         \
    void resize_across_##set(uint8_t *out, size_t stride, const uint8_t *in, size_t width,         \
                             size_t rows, const struct resize_taps *taps, float *scratch);         \
    void resize_down_##set(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,       \
                           const struct resize_taps *taps, size_t y);

/* The step of a block of activations: largest / 127; for blocks of 32 values the next number from
 * there that has a significand of ACT_STEP_BITS bits. Products with such a step need one
 * multiplication less (matmul_vnni.c); it is 2.2 % larger on the average. */
static inline float act_step(float largest, size_t block)
{
    const uint32_t rest = (1u << (24 - ACT_STEP_BITS)) - 1;
    float step = largest / 127.0f;
    uint32_t bits;
    if (block != 32)
        return step;
    memcpy(&bits, &step, sizeof bits);
    bits = (bits + rest) & ~rest;
    memcpy(&step, &bits, sizeof step);
    return step;
}

matmul_kernel matmul_float_c; /* any type, through its to_f32 */
EACH_TYPE(DECLARE_MATMUL, c)
DECLARE_SET(c)

uint64_t probe_read_c(const void *data, size_t size);
size_t probe_int8_c(size_t products, int32_t *out);
size_t probe_float32_c(size_t products, float *out);

#if defined(__x86_64__)
matmul_kernel matmul_float_avx2;
matmul_kernel matmul_float_avx512;

DECLARE_SET(avx2)

DECLARE_VECTORS(avx512)
void attend_avx512(const struct attend_task *task, const struct attend_part *out);
void attend_add_avx512(const struct attend_part *total, const struct attend_part *more, size_t rows,
                       size_t head_dim);
void attend_finish_avx512(float *out, const float *values, float sum, size_t head_dim);

uint64_t probe_read_avx2(const void *data, size_t size);
size_t probe_int8_avx2(size_t products, int32_t *out);
size_t probe_float32_avx2(size_t products, float *out);
size_t probe_int8_avxvnni(size_t products, int32_t *out);
uint64_t probe_read_avx512(const void *data, size_t size);
size_t probe_int8_avx512(size_t products, int32_t *out);
size_t probe_float32_avx512(size_t products, float *out);

EACH_TYPE(DECLARE_MATMUL, avx2)
EACH_TYPE(DECLARE_MATMUL, avxvnni)
EACH_TYPE(DECLARE_MATMUL, vnni)
EACH_TYPE(DECLARE_PANELS, vnni) /* each with its own layout of weights */
#elif defined(__aarch64__)
matmul_kernel matmul_float_neon;
EACH_TYPE(DECLARE_MATMUL, neon)
EACH_TYPE(DECLARE_MATMUL, neon_i8mm)

DECLARE_SET(neon)

uint64_t probe_read_neon(const void *data, size_t size);
size_t probe_int8_neon(size_t products, int32_t *out);
size_t probe_float32_neon(size_t products, float *out);
size_t probe_int8_neon_i8mm(size_t products, int32_t *out);
#endif
