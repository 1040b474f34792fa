/* frames.h - what is done to decoded pixels and samples: upright, at the model's size, cut. */
#pragma once
#include "services/ingest/decode.h"
#include <stddef.h>
#include <stdint.h>

struct medium;

/* How a decoder lays out a pixel. */
struct frame_layout {
    size_t stride, pixel_bytes; /* from row to row, from pixel to pixel */
    size_t at[3];               /* where in a pixel red, green and blue are */
};

/* RGB [height][width][3] of a decoder's picture, turned by its EXIF orientation (1 to 8). */
void frame_upright(struct decoded *out, const uint8_t *in, size_t height, size_t width,
                   const struct frame_layout *layout, int orientation);

/* To the model's size, in place. */
MUST_CHECK bool frame_resize(struct decoded *frame, size_t budget, size_t tile_px,
                             struct status *st);

/* So many bytes are decoded at most. */
size_t sound_bytes_max(const struct medium *medium, const struct sound_limit *limit);

/* The clip out of what was decoded (float32, 16 kHz): what the encoder put in front is cut off, and
 * what is behind its end. `all` is everything, or more than the limit. Refuses or cuts what is
 * longer than that; refuses what is shorter than the file's header tells, or not numbers; clamps to
 * [-1, 1]. Appends to out->bytes. */
MUST_CHECK bool sound_cut(struct decoded *out, const struct buffer *all,
                          const struct medium *medium, const struct sound_limit *limit,
                          struct status *st);
