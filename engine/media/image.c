/* image.c - pictures: the size the model wants, resampling, patches. */
#include "engine/base/heap.h"
#include "engine/kernels/kernels.h"
#include "engine/media/media.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define CHANNELS RESIZE_CHANNELS

static void free_axis_size(double long_side, double short_side, size_t budget, size_t tile_px,
                           size_t *out_long)
{
    const double tiles = fmin(floor(long_side / short_side), (double)budget);
    *out_long = (size_t)tiles * tile_px;
}

bool image_target_size(size_t height, size_t width, size_t budget, size_t tile_px,
                       size_t *out_height, size_t *out_width, struct status *st)
{
    if (height == 0 || width == 0)
        return status_fail(st, STATUS_INVALID, "picture of %zu x %zu px is empty", width, height);
    assert(budget > 0 && tile_px > 0);
    const double tile = (double)tile_px;
    const double pixels = (double)budget * tile * tile;
    const double factor = sqrt(pixels / ((double)height * (double)width));
    size_t h = (size_t)floor(factor * (double)height / tile) * tile_px;
    size_t w = (size_t)floor(factor * (double)width / tile) * tile_px;
    if (h == 0 && w == 0)
        return status_fail(st, STATUS_INVALID, "picture of %zu x %zu px has no size in tiles",
                           width, height);
    if (h == 0) {
        h = tile_px;
        free_axis_size((double)width, (double)height, budget, tile_px, &w);
    } else if (w == 0) {
        w = tile_px;
        free_axis_size((double)height, (double)width, budget, tile_px, &h);
    }
    if ((double)h * (double)w > pixels)
        return status_fail(st, STATUS_INVALID,
                           "picture of %zu x %zu px would need more than %zu soft tokens", width,
                           height, budget);
    *out_height = h;
    *out_width = w;
    return true;
}

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    return 0.0;
}

static void taps_init(struct resize_taps *taps, size_t out, size_t in)
{
    const double scale = (double)in / (double)out;
    const double stretch = fmax(scale, 1.0);
    const double reach = 2.0 * stretch;
    taps->out = out;
    taps->stride = (size_t)(2.0 * reach) + 3;
    taps->first = heap_array(size_t, out);
    taps->n = heap_array(size_t, out);
    taps->weight = heap_array(double, out * taps->stride);
    taps->rounded = heap_array(float, out * taps->stride);
    for (size_t i = 0; i < out; i++) {
        const double centre = ((double)i + 0.5) * scale;
        const double low = fmax(centre - reach + 0.5, 0.0);
        const size_t first = (size_t)low;
        const size_t end = (size_t)fmin(centre + reach + 0.5, (double)in);
        assert(end > first && end - first <= taps->stride);
        double *weight = taps->weight + i * taps->stride;
        double sum = 0.0;
        for (size_t j = 0; j < end - first; j++) {
            weight[j] = cubic(((double)(first + j) - centre + 0.5) / stretch);
            sum += weight[j];
        }
        for (size_t j = 0; j < end - first; j++) {
            weight[j] /= sum;
            taps->rounded[i * taps->stride + j] = (float)weight[j];
        }
        taps->first[i] = first;
        taps->n[i] = end - first;
    }
}

static void taps_clear(struct resize_taps *taps)
{
    heap_free(taps->first);
    heap_free(taps->n);
    heap_free(taps->weight);
    heap_free(taps->rounded);
}

void image_resize(uint8_t *out, size_t out_height, size_t out_width, const uint8_t *in,
                  size_t height, size_t width)
{
    assert(height > 0 && width > 0 && out_height > 0 && out_width > 0);
    const struct kernel_set *kernels = kernels_find();
    const size_t row_bytes = out_width * CHANNELS, stride = RESIZE_STRIDE(out_width);
    if (height == out_height && width == out_width) {
        memcpy(out, in, height * row_bytes);
        return;
    }
    uint8_t *middle = heap_array(uint8_t, height * stride);
    float *scratch = heap_array(float, RESIZE_SCRATCH(width));
    struct resize_taps across, down;
    taps_init(&across, out_width, width);
    taps_init(&down, out_height, height);
    for (size_t y = 0, made = 0; y < out_height; y++) {
        /* Rows are made when they are wanted, so that they are still in the cache. */
        for (; made < down.first[y] + down.n[y]; made += RESIZE_ROWS)
            kernels->resize_across(middle + made * stride, stride, in + made * width * CHANNELS,
                                   width, height - made < RESIZE_ROWS ? height - made : RESIZE_ROWS,
                                   &across, scratch);
        kernels->resize_down(out + y * row_bytes, row_bytes, middle, stride, &down, y);
    }
    taps_clear(&across);
    taps_clear(&down);
    heap_free(scratch);
    heap_free(middle);
}

void image_patches(float *out, const uint8_t *in, size_t height, size_t width, size_t tile_px)
{
    assert(tile_px > 0 && height % tile_px == 0 && width % tile_px == 0);
    const size_t plane = tile_px * tile_px;
    const float scale = 1.0F / 255.0F;
    for (size_t top = 0; top < height; top += tile_px)
        for (size_t left = 0; left < width; left += tile_px, out += CHANNELS * plane)
            for (size_t y = 0; y < tile_px; y++)
                for (size_t x = 0; x < tile_px; x++)
                    for (size_t c = 0; c < CHANNELS; c++)
                        out[c * plane + y * tile_px + x] =
                            (float)in[((top + y) * width + left + x) * CHANNELS + c] * scale;
}
