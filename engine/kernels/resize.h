/* resize.h - pictures: bytes that are weighted sums of bytes, along one axis. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Where each output sample of an axis comes from: `n` inputs from `first` on, with weights. */
struct resize_taps {
    size_t *first; /* [out] */
    size_t *n;     /* [out], at most stride */
    double
        *weight; /* [out][stride]; the absolute values of a sample's weights sum to less than 2 */
    float *rounded; /* [out][stride], the same in float32 */
    size_t out, stride;
};

#define RESIZE_CHANNELS ((size_t)3)
#define RESIZE_ROWS ((size_t)8) /* that `across` makes at once */
/* Bytes from one row to the next of what `across` makes: kernels work in whole vectors. */
#define RESIZE_STRIDE(width) (((size_t)(width) + 31) / 32 * 32 * RESIZE_CHANNELS)
/* Floats of `across`'s scratch. */
#define RESIZE_SCRATCH(width) ((width)*RESIZE_CHANNELS * RESIZE_ROWS)

/* Sample i of an axis: the sum in float64 in the order of the taps, + 0.5, cut to 0 .. 255. This
 * is what every kernel's bytes are, so a sum in float32 that comes so close to half a level that
 * its error may decide asks here.
 * from: the first input of the sample, the next one `step` bytes on. */
uint8_t resize_byte(const struct resize_taps *taps, size_t i, const uint8_t *from, size_t step);
