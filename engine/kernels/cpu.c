#include "engine/kernels/cpu.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static uint32_t mask = UINT32_MAX;

uint32_t cpu_features(void)
{
    uint32_t features = 0;
#if defined(__x86_64__)
    uint32_t a, b, c = 0, d;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C))
        features |= CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        features |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        features |= CPU_VNNI;
#elif defined(__aarch64__)
    features |= CPU_NEON; /* part of the base architecture */
#endif
    return features & mask;
}

void cpu_set_mask(uint32_t new_mask)
{
    mask = new_mask;
}
