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
#define PICTURE_PACKED_BYTES_MAX (1U << 20) /* deflated texts and profiles of a PNG */
#define VIDEO_PIXELS_MAX 9000000U           /* a frame: 4096 x 2160 */

/* What a medium is wanted as; several kinds of files can be two of these. */
enum medium_want { WANT_PICTURE, WANT_SOUND, WANT_VIDEO, WANTS };

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
    MEDIUM_WEBM_OPUS,
    MEDIUM_WEBM_VORBIS,
    MEDIUM_MP4_VIDEO,
    MEDIUM_WEBM_VIDEO,
    MEDIUM_KINDS
};

enum video_codec { VIDEO_H264, VIDEO_HEVC, VIDEO_VP8, VIDEO_VP9, VIDEO_CODECS };

#define SOUND_NAME_SIZE 32

struct medium {
    enum medium_kind kind;
    size_t width_px, height_px; /* pictures and videos: as stored */
    int orientation;            /* pictures and videos: as in EXIF, 1 to 8 */
    enum video_codec codec;     /* videos */
    /* Videos: the codec of the first sound track, "" when there is none; has_sound: sniff with
     * WANT_SOUND takes the file. */
    char sound_name[SOUND_NAME_SIZE];
    bool has_sound;
    /* Sound: where the clip begins in what the decoder puts out (encoders add silence in front; a
     * negative start is filled with silence), and how long it is; negative length: to the end. */
    double start_s, length_s;
    /* Sound: decoded output shorter than this was cut off; 0: the header does not say. */
    double expect_s;
    /* Videos: start_s and length_s are those of what is shown, of the track's own times.
     * MP4: where the first entry of the edit list is, 0: none; version 1 has 64-bit entries. */
    size_t edit_at;
    int edit_version;
};

const char *medium_name(enum medium_kind kind); /* "PNG"; static */

/* Fails in words that may be shown to the sender: not a picture (or sound, or video) but what it
 * is, cut off, too large, "MP4: AV1 in it; ...". */
MUST_CHECK bool sniff(struct medium *out, struct span bytes, enum medium_want want,
                      struct status *st);

/* The parts of sniff, one for each container; `out` has kind set and defaults. */
MUST_CHECK bool sniff_png(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_jpeg(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_webp(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_wav(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_flac(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_mp3(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_ogg(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_mp4_sound(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_mp4_video(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_webm_sound(struct medium *out, struct span bytes, struct status *st);
MUST_CHECK bool sniff_webm_video(struct medium *out, struct span bytes, struct status *st);

/* A track of a codec that is not read: STATUS_UNSUPPORTED, naming it. name may be NULL: then the
 * container's own word is shown as far as it is printable. */
bool sniff_foreign_codec(const char *name, struct span word, struct status *st);
MUST_CHECK bool sniff_video_size(struct medium *out, size_t width, size_t height,
                                 struct status *st);
