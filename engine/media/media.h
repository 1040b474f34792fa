/* media.h - frames (RGB pictures, mono samples) to soft tokens. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define MEDIA_AUDIO_RATE_HZ 16000
/* 30 s a clip (spec media.md section 4). */
#define MEDIA_AUDIO_SAMPLES_MAX ((size_t)30 * MEDIA_AUDIO_RATE_HZ)
#define VIDEO_TIME_SIZE 24 /* bytes of "mm:ss", whatever the minutes */

struct projector; /* the matrices of a media file ("mmproj") */
struct weights;

/* What of a projector decides sizes; ingest needs only this. */
struct media_shape {
    size_t patch_px;          /* side of a soft token's tile in the picture: 48 */
    size_t positions;         /* rows of the position tables */
    size_t samples_per_token; /* 640 */
    size_t width;             /* of a soft token: the decoder's width */
};

/* The sizes alone, from the metadata and the dims of tensors; no matrix is touched. */
MUST_CHECK bool media_shape_read(struct media_shape *out, const struct weights *w,
                                 struct status *st);

/* Refuses, naming the tensor, a file whose shapes do not fit each other or `width` (0: any). */
MUST_CHECK bool projector_open(struct projector **out, const struct weights *w, size_t width,
                               struct status *st);
void projector_close(struct projector *p);
const struct media_shape *projector_shape(const struct projector *p);

/* Size a picture of height x width px is resized to: multiples of tile_px, at most `budget` tiles
 * (spec media.md section 2.2). Fails on a picture that has no such size. */
MUST_CHECK bool image_target_size(size_t height, size_t width, size_t budget, size_t tile_px,
                                  size_t *out_height, size_t *out_width, struct status *st);

/* Bicubic with antialiasing, a = -0.5, horizontal pass first, each pass rounded to bytes (spec
 * media.md section 2.3).
 *   out [out_height][out_width][3], in [height][width][3]; equal sizes copy. */
void image_resize(uint8_t *out, size_t out_height, size_t out_width, const uint8_t *in,
                  size_t height, size_t width);

/* Patch vectors in channel-first order, values in [0,1], raster order (spec media.md 2.5).
 *   out [(height / tile) * (width / tile)][3 * tile * tile], in [height][width][3] */
void image_patches(float *out, const uint8_t *in, size_t height, size_t width, size_t tile_px);

/* Some soft tokens of a picture at its target size: `count` of them from `first` on, in raster
 * order of the tiles. out [count][width], rgb [height][width][3]; there are (height / tile) *
 * (width / tile) tokens. The numbers of a token do not depend on how the picture is cut into calls.
 * Fails when the grid exceeds the position tables. */
MUST_CHECK bool image_embed(const struct projector *p, float *out, const uint8_t *rgb,
                            size_t height, size_t width, size_t first, size_t count,
                            struct status *st);

/* Soft tokens of n samples: ceil(n / samples_per_token). */
size_t audio_tokens(const struct media_shape *shape, size_t n_samples);
/* out [tokens][width], samples [n] mono 16 kHz in [-1,1]; the last frame is padded with zeros. */
void audio_embed(const struct projector *p, float *out, const float *samples, size_t n);

/* Which frames of a clip are shown: floor(seconds * fps) of them (at least 1, at most frames_max),
 * evenly spread from the first frame on; of each moment the frame that is seen then, and none
 * twice. So of a clip of even rate they are the indices floor(i * n / count).
 *   out       [frames_max] indices, ascending; returns how many
 *   times_us  [n] when each frame appears, ascending; n > 0
 *   end_us    when the last one disappears */
size_t video_choose(size_t *out, const int64_t *times_us, size_t n, int64_t end_us, double fps,
                    size_t frames_max);
/* "mm:ss", both rounded down; minutes run on past 59. */
void video_time(char out[VIDEO_TIME_SIZE], int64_t time_us);
