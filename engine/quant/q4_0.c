/* Q4_0: 32 values a block; half-float d, then b[16]: low nibbles are values 0..15, high ones
 * 16..31; value = d (nibble - 8). */
#include "engine/quant/parts.h"
#include "engine/quant/types.h"
#include <math.h>
#include <string.h>

#define VALUES 32
#define BYTES 18

static void to_f32(float *out, const void *blocks, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float d = part_half(b);
        for (size_t j = 0; j < VALUES / 2; j++) {
            out[i + j] = d * (float)((b[2 + j] & 15) - 8);
            out[i + j + VALUES / 2] = d * (float)((b[2 + j] >> 4) - 8);
        }
    }
}

static uint8_t nibble(float value, float inverse)
{
    return (uint8_t)fminf(15.0f, fmaxf(0.0f, value * inverse + 8.5f));
}

/* The value that is largest without its sign becomes exactly -8 d: d has the opposite sign. */
static void from_f32(void *blocks, const float *in, size_t n)
{
    uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += VALUES, b += BYTES) {
        float largest = in[i];
        for (size_t j = 1; j < VALUES; j++)
            if (fabsf(in[i + j]) > fabsf(largest))
                largest = in[i + j];
        float d = largest / -8.0f;
        float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        uint16_t half = quant_f32_to_f16(d);
        memcpy(b, &half, sizeof half);
        for (size_t j = 0; j < VALUES / 2; j++) {
            uint8_t low = nibble(in[i + j], inverse);
            uint8_t high = nibble(in[i + j + VALUES / 2], inverse);
            b[2 + j] = (uint8_t)(low | high << 4);
        }
    }
}

const struct quant_row quant_q4_0 = {
    .dtype = DTYPE_Q4_0,
    .name = "q4_0",
    .block_values = VALUES,
    .block_bytes = BYTES,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
