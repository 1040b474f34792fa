/* quant.h - the table of storage types: block layout, size, and their way to and from float32. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

/* The number of a type in a GGUF file. */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_IQ4_NL = 20,
    DTYPE_IQ4_XS = 23,
    DTYPE_I8 = 24,
    DTYPE_I16 = 25,
    DTYPE_I32 = 26,
    DTYPE_BF16 = 30,
    DTYPE_MXFP4 = 39,
};

/* One storage type. A row of a matrix is a whole number of blocks. */
struct quant_row {
    enum dtype dtype;
    const char *name;    /* "q4_0" */
    size_t block_values; /* values in a block: 1, 32 or 256 */
    size_t block_bytes;
    /* out [n], n a multiple of block_values; exact to the bit (spec: weights, section 6).
     * NULL for integer types, which hold no weights. */
    void (*to_f32)(float *out, const void *blocks, size_t n);
    /* blocks [n / block_values]; round to nearest. NULL where we only read. */
    void (*from_f32)(void *blocks, const float *in, size_t n);
};

/* The row of that number, or NULL when this program does not read the type. Static. */
const struct quant_row *quant_find(uint32_t dtype);

/* The name of any type number that has been published, also those not read here: for errors.
 * "type 77" style numbers are given as "unknown". Static. */
const char *quant_name(uint32_t dtype);

/* Half floats: IEEE 754 binary16, round to nearest even, subnormals kept. */
float quant_f16_to_f32(uint16_t half);
uint16_t quant_f32_to_f16(float value);
