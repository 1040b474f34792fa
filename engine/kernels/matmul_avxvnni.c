/* Products with rounded activations, AVX-VNNI: those of AVX2, multiplied and added in one
 * instruction. tests/engine/kernels/matmul_avxvnni_evex.c says how they are tested. */
#define DPBUSD(sum, w, acts) _mm256_dpbusd_avx_epi32(sum, w, acts)
#define KERNEL(type) matmul_##type##_avxvnni
#include "engine/kernels/matmul_avx2.c"
#include "engine/kernels/matmul_k_avx2.c"
