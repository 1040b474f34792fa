/* sets.h - every kernel of this folder, for the tables in kernels.c and for their files. */
#pragma once
#include "engine/kernels/kernels.h"
#include "engine/kernels/probe.h"

matmul_kernel matmul_float_c; /* any type, through its to_f32; the others: rounded activations */
matmul_kernel matmul_q8_0_c;
matmul_kernel matmul_q4_0_c;
matmul_kernel matmul_q4_1_c;
matmul_kernel matmul_q5_0_c;
matmul_kernel matmul_q5_1_c;
matmul_kernel matmul_iq4_nl_c;
matmul_kernel matmul_mxfp4_c;
matmul_kernel matmul_q2_k_c;
matmul_kernel matmul_q3_k_c;
matmul_kernel matmul_q4_k_c;
matmul_kernel matmul_q5_k_c;
matmul_kernel matmul_q6_k_c;
matmul_kernel matmul_iq4_xs_c;

void round_row_c(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n, size_t block);
void rmsnorm_c(float *out, const float *x, const float *weight, size_t n, float epsilon);
void add_scale_c(float *x, const float *y, size_t n, float scale);
void gelu_mul_c(float *out, const float *gate, const float *up, size_t n);
void softcap_c(float *x, size_t n, float cap);
void rope_c(float *x, const float *cos, const float *sin, size_t heads, size_t half);
void attend_store_c(const struct attend_shape *shape, void *keys, void *values, size_t at,
                    const float *key, const float *value);
void attend_c(const struct attend_task *task, const struct attend_part *out);
void attend_add_c(const struct attend_part *total, const struct attend_part *more, size_t rows,
                  size_t head_dim);
void attend_finish_c(float *out, const float *values, float sum, size_t head_dim);
void resize_across_c(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                     const struct resize_taps *taps, float *scratch);
void resize_down_c(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                   const struct resize_taps *taps, size_t y);

uint64_t probe_read_c(const void *data, size_t size);
size_t probe_int8_c(size_t products, int32_t *out);
size_t probe_float32_c(size_t products, float *out);

#if defined(__x86_64__)
matmul_kernel matmul_float_avx2;
matmul_kernel matmul_float_avx512;
matmul_kernel matmul_q8_0_avx2;
matmul_kernel matmul_q4_0_avx2;
matmul_kernel matmul_q4_1_avx2;
matmul_kernel matmul_q5_0_avx2;
matmul_kernel matmul_q5_1_avx2;
matmul_kernel matmul_iq4_nl_avx2;
matmul_kernel matmul_mxfp4_avx2;
matmul_kernel matmul_q2_k_avx2;
matmul_kernel matmul_q3_k_avx2;
matmul_kernel matmul_q4_k_avx2;
matmul_kernel matmul_q5_k_avx2;
matmul_kernel matmul_q6_k_avx2;
matmul_kernel matmul_iq4_xs_avx2;

void round_row_avx2(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n, size_t block);
void rmsnorm_avx2(float *out, const float *x, const float *weight, size_t n, float epsilon);
void add_scale_avx2(float *x, const float *y, size_t n, float scale);
void gelu_mul_avx2(float *out, const float *gate, const float *up, size_t n);
void softcap_avx2(float *x, size_t n, float cap);
void rope_avx2(float *x, const float *cos, const float *sin, size_t heads, size_t half);
void attend_store_avx2(const struct attend_shape *shape, void *keys, void *values, size_t at,
                       const float *key, const float *value);
void attend_avx2(const struct attend_task *task, const struct attend_part *out);
void attend_add_avx2(const struct attend_part *total, const struct attend_part *more, size_t rows,
                     size_t head_dim);
void attend_finish_avx2(float *out, const float *values, float sum, size_t head_dim);
void resize_across_avx2(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                        const struct resize_taps *taps, float *scratch);
void resize_down_avx2(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                      const struct resize_taps *taps, size_t y);

void attend_avx512(const struct attend_task *task, const struct attend_part *out);
void attend_add_avx512(const struct attend_part *total, const struct attend_part *more, size_t rows,
                       size_t head_dim);
void attend_finish_avx512(float *out, const float *values, float sum, size_t head_dim);

uint64_t probe_read_avx2(const void *data, size_t size);
size_t probe_int8_avx2(size_t products, int32_t *out);
size_t probe_float32_avx2(size_t products, float *out);
uint64_t probe_read_avx512(const void *data, size_t size);
size_t probe_int8_avx512(size_t products, int32_t *out);
size_t probe_float32_avx512(size_t products, float *out);

/* Each with its own layout of weights. */
#define PANEL_KERNEL(type)                                                                         \
    matmul_kernel matmul_##type##_vnni;                                                            \
    extern const struct panels panels_##type##_vnni
PANEL_KERNEL(q8_0);
PANEL_KERNEL(q4_0);
PANEL_KERNEL(q4_1);
PANEL_KERNEL(q5_0);
PANEL_KERNEL(q5_1);
PANEL_KERNEL(iq4_nl);
PANEL_KERNEL(mxfp4);
PANEL_KERNEL(q2_k);
PANEL_KERNEL(q3_k);
PANEL_KERNEL(q4_k);
PANEL_KERNEL(q5_k);
PANEL_KERNEL(q6_k);
PANEL_KERNEL(iq4_xs);
#endif
