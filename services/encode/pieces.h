/* pieces.h - the media of a job, as pieces that become soft tokens one after the other. */
#pragma once
#include "engine/media/media.h"
#include "engine/text/template.h"
#include "proto/msg.h"

/* A picture, a frame of a video, or at most 30 s of sound; it points into a blob of the job. */
struct piece {
    enum media_kind kind;
    const uint8_t *rgb; /* [height][width][3] */
    size_t height, width;
    const float *samples; /* [n_samples] of a sound */
    size_t n_samples;
    size_t tokens;
};

/* Zeroed is empty. */
struct pieces {
    struct piece *items; /* [n] in the order of the prompt */
    size_t n;
    size_t rows; /* soft tokens of all */

    enum media_kind kinds[BLOBS_MAX];    /* [n_media] in the order of the turns' parts */
    struct chat_medium media[BLOBS_MAX]; /* [n_media] for the template; points into what follows */
    size_t n_media;
    struct span *times; /* [n] of frames */
    char (*stamps)[VIDEO_TIME_SIZE];
    size_t *sounds; /* [n] soft tokens of pieces of a video's sound */
    struct blob *blobs[BLOBS_MAX];
    size_t n_blobs;
};

/* Read the blobs that ingest makes: image.rgb, audio.pcm, and for a video video.rgb with
 * video.times behind it, and video.pcm behind that when it has sound. Nothing in them is believed.
 * projector NULL: there must be none. The blobs are kept until pieces_clear. Fails naming the blob;
 * `out` is then to be cleared too. */
MUST_CHECK bool pieces_read(struct pieces *out, const struct projector *projector,
                            const struct msg *job, struct status *st);
void pieces_clear(struct pieces *p);
