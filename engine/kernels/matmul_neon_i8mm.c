/* Products with rounded activations, NEON with matrix products of 8 bits. */
#define I8MM
#define KERNEL(type) matmul_##type##_neon_i8mm
#include "engine/kernels/matmul_neon.c"
