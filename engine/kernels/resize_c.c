/* Resampling of pictures, the meaning. */
#include "engine/kernels/sets.h"

uint8_t resize_byte(const struct resize_taps *taps, size_t i, const uint8_t *from, size_t step)
{
    const double *weight = taps->weight + i * taps->stride;
    double sum = 0.0;
    for (size_t j = 0; j < taps->n[i]; j++)
        sum += weight[j] * from[j * step];
    sum += 0.5;
    return (uint8_t)(sum < 0.0 ? 0.0 : sum > 255.0 ? 255.0 : sum);
}

void resize_across_c(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                     const struct resize_taps *taps, float *scratch)
{
    (void)scratch;
    for (size_t r = 0; r < rows; r++)
        for (size_t x = 0; x < taps->out; x++)
            for (size_t c = 0; c < RESIZE_CHANNELS; c++)
                out[r * stride + x * RESIZE_CHANNELS + c] =
                    resize_byte(taps, x, in + (r * width + taps->first[x]) * RESIZE_CHANNELS + c,
                                RESIZE_CHANNELS);
}

void resize_down_c(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                   const struct resize_taps *taps, size_t y)
{
    for (size_t i = 0; i < row_bytes; i++)
        out[i] = resize_byte(taps, y, in + taps->first[y] * stride + i, stride);
}
