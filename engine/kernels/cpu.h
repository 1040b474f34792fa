/* cpu.h - which instruction sets this machine has. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Bits of what a kernel needs. AVX2 stands for AVX2, FMA and F16C together. */
enum cpu_feature {
    CPU_AVX2 = 1 << 0,
    CPU_AVX512 = 1 << 1,   /* F, BW, DQ, VL */
    CPU_VNNI = 1 << 2,     /* AVX512-VNNI */
    CPU_NEON = 1 << 3,     /* with dot products (FEAT_DotProd) */
    CPU_AVX_VNNI = 1 << 4, /* vectors of 256 bits, encoded as AVX2 is */
    CPU_I8MM = 1 << 5,     /* NEON with matrix products of 8 bits (FEAT_I8MM) */
};

/* What this machine has, less what the mask takes away. */
uint32_t cpu_features(void);
/* Whether all of these are among them. */
bool cpu_has(uint32_t needs);

/* For tests: only these features are seen by tables that are asked from now on. */
void cpu_set_mask(uint32_t mask);
