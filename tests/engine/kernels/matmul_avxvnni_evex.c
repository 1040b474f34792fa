/* The products of the set avxvnni in the encoding that CPUs with AVX-512 VNNI also understand; the
 * source is the same, and so are the operations. Where both are missing, nothing of it is run. */
#define DPBUSD(sum, w, acts) _mm256_dpbusd_epi32(sum, w, acts)
#define KERNEL(type) matmul_##type##_avxvnni_evex
#include "engine/kernels/sets.h"
EACH_TYPE(DECLARE_MATMUL, avxvnni_evex)
#include "engine/kernels/matmul_avx2.c"
#include "engine/kernels/matmul_k_avx2.c"
