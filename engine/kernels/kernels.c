#include "engine/kernels/kernels.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/sets.h"
#include <assert.h>

/* clang-format off */
#define VNNI (CPU_AVX512 | CPU_VNNI)
#define PANEL_ROW(dtype, type, block, needs, set)                                                  \
    {DTYPE_##dtype, needs, block, matmul_##type##_##set, "matmul_" #type "_" #set,                 \
     &panels_##type##_##set},

static const struct matmul_row rows[] = {
#if defined(__x86_64__)
    EACH_TYPE(PANEL_ROW, VNNI, vnni)
    EACH_TYPE(MATMUL_ROW, CPU_AVX2 | CPU_AVX_VNNI, avxvnni)
    EACH_TYPE(MATMUL_ROW, CPU_AVX2, avx2)
#elif defined(__aarch64__)
    EACH_TYPE(MATMUL_ROW, CPU_NEON | CPU_I8MM, neon_i8mm)
    EACH_TYPE(MATMUL_ROW, CPU_NEON, neon)
#endif
    EACH_TYPE(MATMUL_ROW, 0, c)
};

/* Float32 activations with any storage type, through its to_f32; the dtype does not count. */
static const struct matmul_row any_type[] = {
#if defined(__x86_64__)
    MATMUL_ROW(F32, float, 0, CPU_AVX512, avx512)
    MATMUL_ROW(F32, float, 0, CPU_AVX2, avx2)
#elif defined(__aarch64__)
    MATMUL_ROW(F32, float, 0, CPU_NEON, neon)
#endif
    MATMUL_ROW(F32, float, 0, 0, c)
};

/* wide: the suffix of what has vectors of its own in the AVX-512 set; other: of the rest. */
#define SET(set, need, wide, other) {                                                              \
    .name = #set, .needs = (need), .round_row = round_row_##wide,                                 \
    .rmsnorm = rmsnorm_##wide, .add_norm = add_norm_##wide, .gelu_mul = gelu_mul_##wide,           \
    .softcap = softcap_##wide, .rope = rope_##wide, .attend_store = attend_store_##other,          \
    .attend = attend_##wide, .attend_add = attend_add_##wide,                                      \
    .attend_finish = attend_finish_##wide, .resize_across = resize_across_##other,                 \
    .resize_down = resize_down_##other }

static const struct kernel_set sets[] = {
#if defined(__x86_64__)
    SET(avx512, CPU_AVX2 | CPU_AVX512 | CPU_VNNI, avx512, avx2),
    SET(avxvnni, CPU_AVX2 | CPU_AVX_VNNI, avx2, avx2),
    SET(avx2, CPU_AVX2, avx2, avx2),
#elif defined(__aarch64__)
    SET(neon, CPU_NEON, neon, neon),
#endif
    SET(c, 0, c, c),
};

#define PROBE(set, need, other) {                                                                  \
    .name = #set, .needs = (need), .read = probe_read_##other, .int8 = probe_int8_##set,           \
    .float32 = probe_float32_##other }

static const struct probe probes[] = {
#if defined(__x86_64__)
    PROBE(avx512, CPU_AVX512 | CPU_VNNI, avx512),
    PROBE(avxvnni, CPU_AVX2 | CPU_AVX_VNNI, avx2),
    PROBE(avx2, CPU_AVX2, avx2),
#elif defined(__aarch64__)
    PROBE(neon_i8mm, CPU_NEON | CPU_I8MM, neon),
    PROBE(neon, CPU_NEON, neon),
#endif
    PROBE(c, 0, c),
};
/* clang-format on */

const struct matmul_row *matmul_find(enum dtype dtype, bool rounded)
{
    for (size_t i = 0; rounded && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].dtype == dtype && cpu_has(rows[i].needs))
            return &rows[i];
    for (size_t i = 0; !rounded && i < sizeof any_type / sizeof *any_type; i++)
        if (cpu_has(any_type[i].needs))
            return &any_type[i];
    return NULL;
}

const struct kernel_set *kernels_find(void)
{
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (cpu_has(sets[i].needs))
            return &sets[i];
    assert(false); /* the last row needs nothing */
    return NULL;
}

const struct probe *probe_find(void)
{
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (cpu_has(probes[i].needs))
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
