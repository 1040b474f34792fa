/* Q8_0: 32 values a block; half-float d, then int8 q[32]; value = d q. */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"
#include <math.h>
#include <string.h>

#define VALUES 32
#define BYTES 34

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b);
        for (size_t j = 0; j < VALUES; j++)
            out[i + j] = d * (float)(int8_t)b[2 + j];
    }
}

/* The values are divided by the unrounded scale, and halves go away from zero, as ggml has it. */
static void from_f32(void *blocks, const float *in, size_t n)
{
    uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float largest = 0.0f;
        for (size_t j = 0; j < VALUES; j++)
            largest = fmaxf(largest, fabsf(in[i + j]));
        float d = largest / 127.0f;
        float inverse = d > 0.0f ? 1.0f / d : 0.0f;
        uint16_t half = quant_f32_to_f16(d);
        memcpy(b, &half, sizeof half);
        for (size_t j = 0; j < VALUES; j++) {
            float v = in[i + j] * inverse;
            float whole = copysignf(floorf(fabsf(v) + 0.5f), v);
            b[2 + j] = (uint8_t)(int8_t)fminf(127.0f, fmaxf(-127.0f, whole));
        }
    }
}

const struct quant_row quant_q8_0 = {
    .dtype = DTYPE_Q8_0,
    .name = "q8_0",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
