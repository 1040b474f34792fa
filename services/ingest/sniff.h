/* sniff.h - what a medium is, told from its bytes before any decoder sees it.
 *
 * The name of a file and the type its sender claims do not count. Headers are walked far enough to
 * know how large the decoded thing is, which way up it is, and whether the file was cut off, since
 * decoders answer those questions late, or with grey pixels instead of an error. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PICTURE_PIXELS_MAX 64000000U
#define PICTURE_SIDE_MAX 65535U

enum medium_kind {
    MEDIUM_PNG,
    MEDIUM_PNG_DEEP, /* 16 bits a sample */
    MEDIUM_JPEG,
    MEDIUM_WEBP,
    MEDIUM_WAV,
    MEDIUM_FLAC,
    MEDIUM_MP3,
    MEDIUM_OGG_OPUS,
    MEDIUM_OGG_VORBIS,
    MEDIUM_MP4_AAC,
    MEDIUM_KINDS
};

struct medium {
    enum medium_kind kind;
    size_t width_px, height_px; /* pictures: as stored */
    int orientation;            /* pictures: EXIF, 1 to 8 */
    /* Sound: where the clip begins in what the decoder puts out (encoders add silence in front; a
     * negative start is filled with silence), and how long it is; negative length: to the end. */
    double start_s, length_s;
    /* Sound: decoded output shorter than this was cut off; 0: the header does not say. */
    double expect_s;
    /* MP4: where the first entry of the edit list is, 0: none. Version 1 has 64-bit entries. */
    size_t edit_at;
    int edit_version;
};

const char *medium_name(enum medium_kind kind); /* "PNG"; static */
bool medium_is_picture(enum medium_kind kind);

/* Fails in words that may be shown to the sender: not a picture (or sound) but what it is, cut off,
 * too large. */
MUST_CHECK bool sniff(struct medium *out, struct span bytes, bool want_picture, struct status *st);

/* The parts of sniff, one for each container; `out` has kind set and defaults. */
MUST_CHECK bool sniff_png(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_jpeg(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_webp(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_wav(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_flac(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_mp3(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_ogg(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_mp4(struct medium *out, struct span bytes, struct status *st);
