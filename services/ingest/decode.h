/* decode.h - one medium, decoded: what happens in a child that is born for it and ends after it.
 *
 * The child and its keeper (children.c) speak fixed structs over a SOCK_SEQPACKET pair; the bytes
 * travel as memory files (memfd) beside them. Both are the same program, so there is no version. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "services/ingest/sniff.h"
#include <stdbool.h>
#include <stdint.h>

#define DECODE_SECONDS_MAX 30 /* of a sound, spec media.md section 4 */
#define DECODE_VIDEO_SECONDS_MAX 1200
#define DECODE_VIDEO_PACKETS_MAX 72000 /* frames in the file: 1200 s at 60 a second */
#define DECODE_NOTE_SIZE 240

/* Keeper to child, with the file as memfd. */
struct decode_request {
    uint32_t want;       /* enum medium_want */
    uint32_t budget;     /* soft tokens at most, of a picture or a frame; 0: leave the size */
    uint32_t tile_px;    /* side of a soft token */
    uint32_t frames_max; /* the rest is of videos; at most VIDEO_FRAMES_MAX */
    uint32_t sound_s;    /* so much of the sound is wanted, at most VIDEO_SOUND_S_MAX; 0: none */
    uint32_t reserved;
    double fps; /* frames that are shown of each second */
};

/* Child to keeper. The first one says that the child is ready; the second holds the result, with
 * the bytes as memfd when code is STATUS_OK. */
struct decode_answer {
    int32_t code;                /* enum status_code */
    uint32_t height;             /* of pictures: rows; 0 for sound */
    uint32_t width;              /* of pictures: px; 0 for sound */
    uint32_t frames;             /* of a video; else 0 */
    uint32_t samples;            /* of sound, also of a video's */
    uint32_t frames_seen;        /* video: frames that the file has */
    uint32_t length_ms;          /* video */
    uint32_t took_us;            /* from the request to this answer */
    char text[DECODE_NOTE_SIZE]; /* why it failed, or what was left out; ends with a zero */
};

/* A decoded medium: rgb [height][width][3], or float32 [samples]; of a video rgb
 * [frames][height][width][3], int32 [frames] times in ms, float32 [samples]. */
struct decoded {
    struct buffer bytes;
    size_t height, width, frames, samples;
    size_t frames_seen, length_ms;
    bool sound_cut;              /* there was more of it */
    char note[DECODE_NOTE_SIZE]; /* "": nothing was left out */
};

/* Load every plugin that may be needed; call once. Fails naming the plugin that is missing. */
MUST_CHECK bool decode_open(struct status *st);

/* Decode a small item of each path, after decode_open: what first use costs is paid, and decoders
 * that do not work are found (warm.c). */
MUST_CHECK bool decode_warm(struct status *st);

/* Sniff, decode, turn, resize. `file` is changed in place (an MP4's edit list is opened up). */
MUST_CHECK bool decode_medium(struct decoded *out, uint8_t *file, size_t size,
                              const struct decode_request *request, struct status *st);

/* How much of a sound is taken. */
struct sound_limit {
    size_t seconds;
    bool cut; /* leave the rest out, instead of refusing the file */
};

/* Make the edit list of an MP4 show everything: from 0 on, and for long. */
void edit_open(uint8_t *file, const struct medium *medium);

/* The sound of a file that was sniffed as such. `file` is changed in place. */
MUST_CHECK bool decode_sound(struct decoded *out, uint8_t *file, size_t size,
                             const struct medium *medium, const struct sound_limit *limit,
                             struct status *st);

/* A video (video.c). */
MUST_CHECK bool decode_video(struct decoded *out, uint8_t *file, size_t size,
                             const struct medium *medium, const struct decode_request *request,
                             struct status *st);

/* The child's life on socket `fd`: limits, ready, one item, end. Returns the exit status. */
int decode_child(int fd);
