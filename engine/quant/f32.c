/* F32: little-endian IEEE 754 binary32, one value a block. */
#include "engine/quant/types.h"
#include <string.h>

static void to_f32(float *out, const void *blocks, size_t n)
{
    memcpy(out, blocks, n * sizeof *out);
}

static void from_f32(void *blocks, const float *in, size_t n)
{
    memcpy(blocks, in, n * sizeof *in);
}

const struct quant_row quant_f32 = {
    .dtype = DTYPE_F32,
    .name = "f32",
    .block_values = 1,
    .block_bytes = 4,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
