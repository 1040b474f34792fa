#include "engine/kernels/cpu.h"
#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define AVX_VNNI (UINT32_C(1) << 4) /* in eax of cpuid's leaf 7, 1 */
#define ASIMDDP (1UL << 20)         /* in AT_HWCAP, of AArch64 */
#define I8MM (1UL << 13)            /* in AT_HWCAP2 */
#define UNKNOWN (UINT32_C(1) << 31)

static atomic_uint mask = UINT32_MAX;
static atomic_uint found = UNKNOWN;

static uint32_t detect(void)
{
    uint32_t features = 0;
#if defined(__x86_64__)
    uint32_t a, b, c = 0, d;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C))
        features |= CPU_AVX2; /* and the system keeps its registers */
    if ((features & CPU_AVX2) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI))
        features |= CPU_AVX_VNNI;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        features |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        features |= CPU_VNNI;
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & ASIMDDP)
        features |= CPU_NEON;
    if (getauxval(AT_HWCAP2) & I8MM)
        features |= CPU_I8MM;
#endif
    return features;
}

/* Asked once: in a virtual machine the question costs as much as a small product. */
uint32_t cpu_features(void)
{
    uint32_t features = atomic_load(&found);
    if (features == UNKNOWN) {
        features = detect();
        atomic_store(&found, features);
    }
    return features & atomic_load(&mask);
}

bool cpu_has(uint32_t needs)
{
    return (needs & ~cpu_features()) == 0;
}

void cpu_set_mask(uint32_t new_mask)
{
    atomic_store(&mask, new_mask);
}
