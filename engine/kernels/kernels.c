#include "engine/kernels/kernels.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/sets.h"
#include <assert.h>

/* clang-format off */
#define ROW(dtype, needs, act_block, run) {dtype, needs, act_block, run, #run, NULL}
#define VNNI (CPU_AVX512 | CPU_VNNI)
#define PANEL_ROW(dtype, act_block, type)                                                          \
    {dtype, VNNI, act_block, matmul_##type##_vnni, "matmul_" #type "_vnni", &panels_##type##_vnni}

static const struct matmul_row rows[] = {
#if defined(__x86_64__)
    PANEL_ROW(DTYPE_Q8_0, 32, q8_0),
    PANEL_ROW(DTYPE_Q4_0, 32, q4_0),
    PANEL_ROW(DTYPE_Q4_1, 32, q4_1),
    PANEL_ROW(DTYPE_Q5_0, 32, q5_0),
    PANEL_ROW(DTYPE_Q5_1, 32, q5_1),
    PANEL_ROW(DTYPE_IQ4_NL, 32, iq4_nl),
    PANEL_ROW(DTYPE_MXFP4, 32, mxfp4),
    PANEL_ROW(DTYPE_Q2_K, 256, q2_k),
    PANEL_ROW(DTYPE_Q3_K, 256, q3_k),
    PANEL_ROW(DTYPE_Q4_K, 256, q4_k),
    PANEL_ROW(DTYPE_Q5_K, 256, q5_k),
    PANEL_ROW(DTYPE_Q6_K, 256, q6_k),
    PANEL_ROW(DTYPE_IQ4_XS, 256, iq4_xs),
    ROW(DTYPE_Q8_0, CPU_AVX2, 32, matmul_q8_0_avx2),
    ROW(DTYPE_Q4_0, CPU_AVX2, 32, matmul_q4_0_avx2),
    ROW(DTYPE_Q4_1, CPU_AVX2, 32, matmul_q4_1_avx2),
    ROW(DTYPE_Q5_0, CPU_AVX2, 32, matmul_q5_0_avx2),
    ROW(DTYPE_Q5_1, CPU_AVX2, 32, matmul_q5_1_avx2),
    ROW(DTYPE_IQ4_NL, CPU_AVX2, 32, matmul_iq4_nl_avx2),
    ROW(DTYPE_MXFP4, CPU_AVX2, 32, matmul_mxfp4_avx2),
    ROW(DTYPE_Q2_K, CPU_AVX2, 256, matmul_q2_k_avx2),
    ROW(DTYPE_Q3_K, CPU_AVX2, 256, matmul_q3_k_avx2),
    ROW(DTYPE_Q4_K, CPU_AVX2, 256, matmul_q4_k_avx2),
    ROW(DTYPE_Q5_K, CPU_AVX2, 256, matmul_q5_k_avx2),
    ROW(DTYPE_Q6_K, CPU_AVX2, 256, matmul_q6_k_avx2),
    ROW(DTYPE_IQ4_XS, CPU_AVX2, 256, matmul_iq4_xs_avx2),
#endif
    ROW(DTYPE_Q8_0, 0, 32, matmul_q8_0_c),
    ROW(DTYPE_Q4_0, 0, 32, matmul_q4_0_c),
    ROW(DTYPE_Q4_1, 0, 32, matmul_q4_1_c),
    ROW(DTYPE_Q5_0, 0, 32, matmul_q5_0_c),
    ROW(DTYPE_Q5_1, 0, 32, matmul_q5_1_c),
    ROW(DTYPE_IQ4_NL, 0, 32, matmul_iq4_nl_c),
    ROW(DTYPE_MXFP4, 0, 32, matmul_mxfp4_c),
    ROW(DTYPE_Q2_K, 0, 256, matmul_q2_k_c),
    ROW(DTYPE_Q3_K, 0, 256, matmul_q3_k_c),
    ROW(DTYPE_Q4_K, 0, 256, matmul_q4_k_c),
    ROW(DTYPE_Q5_K, 0, 256, matmul_q5_k_c),
    ROW(DTYPE_Q6_K, 0, 256, matmul_q6_k_c),
    ROW(DTYPE_IQ4_XS, 0, 256, matmul_iq4_xs_c),
};

/* Float32 activations with any storage type, through its to_f32; the dtype does not count. */
static const struct matmul_row any_type[] = {
#if defined(__x86_64__)
    ROW(DTYPE_F32, CPU_AVX512, 0, matmul_float_avx512),
    ROW(DTYPE_F32, CPU_AVX2, 0, matmul_float_avx2),
#endif
    ROW(DTYPE_F32, 0, 0, matmul_float_c),
};

/* vector: the suffix of what is not attention: few of a step's operations. */
#define SET(suffix, need, vector) {                                                                \
    .name = #suffix, .needs = (need), .round_row = round_row_##vector,                              \
    .rmsnorm = rmsnorm_##vector, .add_scale = add_scale_##vector, .gelu_mul = gelu_mul_##vector,   \
    .softcap = softcap_##vector, .rope = rope_##vector, .attend_store = attend_store_##vector, .attend = attend_##suffix,                  \
    .attend_add = attend_add_##suffix, .attend_finish = attend_finish_##suffix,                     \
    .resize_across = resize_across_##vector, .resize_down = resize_down_##vector }

static const struct kernel_set sets[] = {
#if defined(__x86_64__)
    SET(avx512, CPU_AVX2 | CPU_AVX512 | CPU_VNNI, avx2),
    SET(avx2, CPU_AVX2, avx2),
#endif
    SET(c, 0, c),
};

#define PROBE(suffix, need) {                                                                      \
    .name = #suffix, .needs = (need), .read = probe_read_##suffix, .int8 = probe_int8_##suffix,    \
    .float32 = probe_float32_##suffix }

static const struct probe probes[] = {
#if defined(__x86_64__)
    PROBE(avx512, CPU_AVX512 | CPU_VNNI),
    PROBE(avx2, CPU_AVX2),
#endif
    PROBE(c, 0),
};
/* clang-format on */

static bool fits(uint32_t needs)
{
    return (needs & ~cpu_features()) == 0;
}

const struct matmul_row *matmul_find(enum dtype dtype, bool rounded)
{
    for (size_t i = 0; rounded && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].dtype == dtype && fits(rows[i].needs))
            return &rows[i];
    for (size_t i = 0; !rounded && i < sizeof any_type / sizeof *any_type; i++)
        if (fits(any_type[i].needs))
            return &any_type[i];
    return NULL;
}

const struct kernel_set *kernels_find(void)
{
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (fits(sets[i].needs))
            return &sets[i];
    assert(false); /* the last row needs nothing */
    return NULL;
}

const struct probe *probe_find(void)
{
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (fits(probes[i].needs))
            return &probes[i];
    assert(false); /* the last row needs nothing */
    return NULL;
}

const struct matmul_row *matmul_rows(size_t *out_n)
{
    *out_n = sizeof rows / sizeof *rows;
    return rows;
}

const struct kernel_set *kernel_sets(size_t *out_n)
{
    *out_n = sizeof sets / sizeof *sets;
    return sets;
}
