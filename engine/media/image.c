/* image.c - pictures: the size the model wants, resampling, patches. */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define CHANNELS 3

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

/* Where each output sample of one axis comes from: `n` inputs from `first` on, with weights. */
struct taps {
    size_t *first; /* [out] */
    size_t *n;     /* [out] */
    float *weight; /* [out][stride] */
    double *exact; /* [out][stride], the same unrounded */
    size_t stride;
};

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

static void taps_init(struct taps *taps, size_t out, size_t in)
{
    const double scale = (double)in / (double)out;
    const double stretch = fmax(scale, 1.0);
    const double reach = 2.0 * stretch;
    taps->stride = (size_t)(2.0 * reach) + 3;
    taps->first = heap_array(size_t, out);
    taps->n = heap_array(size_t, out);
    taps->weight = heap_array(float, out * taps->stride);
    taps->exact = heap_array(double, out * taps->stride);
    for (size_t i = 0; i < out; i++) {
        const double centre = ((double)i + 0.5) * scale;
        const double low = fmax(centre - reach + 0.5, 0.0);
        const size_t first = (size_t)low;
        const size_t end = (size_t)fmin(centre + reach + 0.5, (double)in);
        assert(end > first && end - first <= taps->stride);
        double *weight = taps->exact + i * taps->stride;
        double sum = 0.0;
        for (size_t j = 0; j < end - first; j++) {
            weight[j] = cubic(((double)(first + j) - centre + 0.5) / stretch);
            sum += weight[j];
        }
        for (size_t j = 0; j < end - first; j++) {
            weight[j] /= sum;
            taps->weight[i * taps->stride + j] = (float)weight[j];
        }
        taps->first[i] = first;
        taps->n[i] = end - first;
    }
}

static void taps_clear(struct taps *taps)
{
    heap_free(taps->first);
    heap_free(taps->n);
    heap_free(taps->weight);
    heap_free(taps->exact);
}

/* The sum of output sample i in float64. from: its first input, the next one `step` bytes on. */
static uint8_t exact_byte(const struct taps *taps, size_t i, const uint8_t *from, size_t step)
{
    double sum = 0.0;
    for (size_t j = 0; j < taps->n[i]; j++)
        sum += taps->exact[i * taps->stride + j] * from[j * step];
    return (uint8_t)fmin(fmax(sum + 0.5, 0.0), 255.0);
}

/* Inner loops have a fixed length without a tail, which is what the compiler turns into vectors. */
#define BLOCK_ROWS 16
#define LANES ((size_t)(BLOCK_ROWS * CHANNELS))

/* Sums are rounded as whole numbers of 1/65536 of a level, shifted up so that all are positive:
 * comparisons of floats would keep the compiler from making vectors. */
#define STEPS 65536
#define SHIFT 256 /* levels; the weights' negative parts are far from reaching it */

static inline int32_t to_steps(float sum)
{
    return (int32_t)(sum * (float)STEPS + ((float)SHIFT + 0.5F) * (float)STEPS);
}

/* How close to half a level a float32 sum is not trusted any more, in steps: above its error, which
 * is below n * 255 * sum|weights| * 2^-24 levels, and that of to_steps. */
static int32_t taps_doubt(const struct taps *taps, size_t i)
{
    const double levels = fmin(2.5e-5 * (double)(taps->n[i] + 8), 0.25);
    return (int32_t)(levels * STEPS) + 4;
}

/* Negative when a sum is closer to half a level than `doubt`. */
static inline int32_t certainty(int32_t steps, int32_t doubt)
{
    return ((steps + doubt) & (STEPS - 1)) - 2 * doubt - 1;
}

/* Round sums [LANES]. False where one of them is so close to half a level that its own error may
 * decide (ratios of small integers do meet exact halves). For those exact_byte is asked, so that
 * the bytes are those of float64 at about the price of float32. */
static bool round_lanes(uint8_t *restrict out, const float *restrict sum, int32_t doubt)
{
    int32_t unsure = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        const int32_t steps = to_steps(sum[lane]);
        int32_t level = (steps >> 16) - SHIFT;
        level = level < 0 ? 0 : level;
        out[lane] = (uint8_t)(level > 255 ? 255 : level);
        unsure |= certainty(steps, doubt);
    }
    return unsure >= 0;
}

/* Horizontal pass over BLOCK_ROWS rows at once, so that a tap is one vector operation.
 *   out [rows][stride] bytes, in [rows][width][3], scratch [width][3][BLOCK_ROWS] */
static void resize_rows(uint8_t *out, size_t stride, size_t out_width, const uint8_t *in,
                        size_t width, size_t rows, const struct taps *taps, float *restrict scratch)
{
    for (size_t i = 0; i < width * CHANNELS; i++)
        for (size_t r = 0; r < BLOCK_ROWS; r++) {
            const size_t row = r < rows ? r : rows - 1;
            scratch[i * BLOCK_ROWS + r] = (float)in[row * width * CHANNELS + i];
        }
    for (size_t x = 0; x < out_width; x++) {
        float sum[LANES] = {0};
        const float *weight = taps->weight + x * taps->stride;
        const float *from = scratch + taps->first[x] * LANES;
        for (size_t j = 0; j < taps->n[x]; j++)
            for (size_t lane = 0; lane < LANES; lane++)
                sum[lane] += weight[j] * from[j * LANES + lane];
        uint8_t bytes[LANES];
        const int32_t doubt = taps_doubt(taps, x);
        if (!round_lanes(bytes, sum, doubt))
            for (size_t lane = 0; lane < rows * CHANNELS; lane++) {
                const size_t r = lane / CHANNELS, c = lane % CHANNELS, at = c * BLOCK_ROWS + r;
                if (certainty(to_steps(sum[at]), doubt) < 0)
                    bytes[at] = exact_byte(
                        taps, x, in + (r * width + taps->first[x]) * CHANNELS + c, CHANNELS);
            }
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < CHANNELS; c++)
                out[r * stride + x * CHANNELS + c] = bytes[c * BLOCK_ROWS + r];
    }
}

/* Vertical pass for output row y: out [row_bytes], in [height][stride]; stride is a multiple of
 * LANES and at least row_bytes. */
static void resize_column(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                          const struct taps *taps, size_t y)
{
    const float *weight = taps->weight + y * taps->stride;
    const int32_t doubt = taps_doubt(taps, y);
    in += taps->first[y] * stride;
    for (size_t at = 0; at < row_bytes; at += LANES) {
        float sum[LANES] = {0};
        for (size_t j = 0; j < taps->n[y]; j++) {
            const uint8_t *restrict from = in + j * stride + at;
            for (size_t lane = 0; lane < LANES; lane++)
                sum[lane] += weight[j] * (float)from[lane];
        }
        uint8_t bytes[LANES];
        const size_t left = row_bytes - at < LANES ? row_bytes - at : LANES;
        if (!round_lanes(bytes, sum, doubt))
            for (size_t lane = 0; lane < left; lane++)
                if (certainty(to_steps(sum[lane]), doubt) < 0)
                    bytes[lane] = exact_byte(taps, y, in + at + lane, stride);
        memcpy(out + at, bytes, left);
    }
}

void image_resize(uint8_t *out, size_t out_height, size_t out_width, const uint8_t *in,
                  size_t height, size_t width)
{
    assert(height > 0 && width > 0 && out_height > 0 && out_width > 0);
    const size_t row_bytes = out_width * CHANNELS;
    if (height == out_height && width == out_width) {
        memcpy(out, in, height * row_bytes);
        return;
    }
    const size_t stride = (row_bytes + LANES - 1) / LANES * LANES;
    uint8_t *middle = heap_array(uint8_t, height * stride);
    struct taps taps;
    taps_init(&taps, out_width, width);
    float *scratch = heap_array(float, width *LANES);
    for (size_t y = 0; y < height; y += BLOCK_ROWS) {
        const size_t rows = height - y < BLOCK_ROWS ? height - y : BLOCK_ROWS;
        resize_rows(middle + y * stride, stride, out_width, in + y * width * CHANNELS, width, rows,
                    &taps, scratch);
    }
    heap_free(scratch);
    taps_clear(&taps);

    taps_init(&taps, out_height, height);
    for (size_t y = 0; y < out_height; y++)
        resize_column(out + y * row_bytes, row_bytes, middle, stride, &taps, y);
    taps_clear(&taps);
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
