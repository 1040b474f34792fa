/* frames.c - decoded pixels and samples, brought into the model's form. */
#include "services/ingest/frames.h"
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "services/ingest/sniff.h"
#include <math.h>
#include <string.h>

#define SOUND_SECONDS_LOOKED_AT 600.0 /* to say how long a sound is that is too long */

/* EXIF orientation: where the stored row 0 and column 0 are seen. 5 to 8 exchange the axes. */
static const struct {
    bool swap, flip_y, flip_x; /* flips are of the stored rows and columns */
} turns[9] = {
    [1] = {false, false, false}, [2] = {false, false, true}, [3] = {false, true, true},
    [4] = {false, true, false},  [5] = {true, false, false}, [6] = {true, true, false},
    [7] = {true, true, true},    [8] = {true, false, true},
};

void frame_upright(struct decoded *out, const uint8_t *in, size_t height, size_t width,
                   const struct frame_layout *layout, int orientation)
{
    const bool swap = turns[orientation].swap;
    const bool flip_y = turns[orientation].flip_y, flip_x = turns[orientation].flip_x;
    out->height = swap ? width : height;
    out->width = swap ? height : width;
    out->bytes = (struct buffer){0};
    buffer_reserve(&out->bytes, height * width * 3);
    out->bytes.size = height * width * 3;
    const ptrdiff_t down = (ptrdiff_t)layout->stride, right = (ptrdiff_t)layout->pixel_bytes;
    const ptrdiff_t step_y = flip_y ? -down : down, step_x = flip_x ? -right : right;
    const ptrdiff_t next_row = swap ? step_x : step_y, next_pixel = swap ? step_y : step_x;
    ptrdiff_t row = (flip_y ? ((ptrdiff_t)height - 1) * down : 0) +
                    (flip_x ? ((ptrdiff_t)width - 1) * right : 0);
    if (next_pixel == 3 && layout->at[0] == 0 && layout->at[1] == 1 && layout->at[2] == 2) {
        for (size_t y = 0; y < out->height; y++, row += next_row)
            memcpy(out->bytes.data + y * out->width * 3, in + row, out->width * 3);
        return;
    }
    const size_t red = layout->at[0], green = layout->at[1], blue = layout->at[2];
    uint8_t *to = out->bytes.data;
    for (size_t y = 0; y < out->height; y++, row += next_row) {
        ptrdiff_t at = row;
        for (size_t x = 0; x < out->width; x++, to += 3, at += next_pixel) {
            to[0] = in[at + (ptrdiff_t)red];
            to[1] = in[at + (ptrdiff_t)green];
            to[2] = in[at + (ptrdiff_t)blue];
        }
    }
}

bool frame_resize(struct decoded *frame, size_t budget, size_t tile_px, struct status *st)
{
    size_t height, width;
    if (!image_target_size(frame->height, frame->width, budget, tile_px, &height, &width, st))
        return false;
    struct buffer resized = {0};
    buffer_reserve(&resized, height * width * 3);
    resized.size = height * width * 3;
    image_resize(resized.data, height, width, frame->bytes.data, frame->height, frame->width);
    buffer_clear(&frame->bytes);
    frame->bytes = resized;
    frame->height = height;
    frame->width = width;
    return true;
}

size_t sound_bytes_max(const struct medium *medium, const struct sound_limit *limit)
{
    const double seconds = limit->cut ? fmax(medium->start_s, 0) + (double)limit->seconds + 1
                                      : SOUND_SECONDS_LOOKED_AT;
    return (size_t)(seconds * MEDIA_AUDIO_RATE_HZ) * sizeof(float);
}

bool sound_cut(struct decoded *out, const struct buffer *all, const struct medium *medium,
               const struct sound_limit *limit, struct status *st)
{
    const double rate = MEDIA_AUDIO_RATE_HZ;
    const size_t n_all = all->size / sizeof(float);
    /* A tenth of a second covers frames that decoders hold back at the end. */
    if (medium->expect_s > 0 && (double)n_all / rate < medium->expect_s - 0.1 &&
        all->size < sound_bytes_max(medium, limit))
        return status_fail(st, STATUS_CORRUPT,
                           "the file is cut off or damaged: %.2f of %.2f seconds can be decoded",
                           (double)n_all / rate, medium->expect_s);
    const double first = round(medium->start_s * rate);
    double n = medium->length_s >= 0 ? ceil(medium->length_s * rate) : (double)n_all - first;
    n = fmin(n, (double)n_all - first + rate / 10); /* the same tenth, as silence */
    out->sound_cut = n > (double)limit->seconds * rate;
    if (out->sound_cut && !limit->cut)
        return status_fail(st, STATUS_LIMIT,
                           "the clip is %s%.1f seconds long; at most %zu seconds are taken",
                           all->size >= sound_bytes_max(medium, limit) ? "more than " : "",
                           n / rate, limit->seconds);
    n = fmin(n, (double)limit->seconds * rate);
    if (n < 1)
        return status_fail(st, STATUS_INVALID, "there is no sound in it");
    const size_t count = (size_t)n;
    float *samples = heap_array(float, count);
    for (size_t i = 0; i < count; i++) {
        const double from = first + (double)i;
        float value = 0.0F;
        if (from >= 0 && from < (double)n_all)
            memcpy(&value, all->data + (size_t)from * sizeof value, sizeof value);
        if (!isfinite(value)) {
            heap_free(samples);
            return status_fail(st, STATUS_INVALID, "sample %zu is not a number", i);
        }
        samples[i] = fminf(fmaxf(value, -1.0F), 1.0F);
    }
    out->samples = count;
    buffer_append(&out->bytes, samples, count * sizeof *samples);
    heap_free(samples);
    return true;
}
