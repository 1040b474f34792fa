/* decode.h - one medium, decoded: what happens in a child that is born for it and ends after it.
 *
 * The child and its keeper (children.c) speak fixed structs over a SOCK_SEQPACKET pair; the bytes
 * travel as memory files (memfd) beside them. Both are the same program, so there is no version. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stdbool.h>
#include <stdint.h>

#define DECODE_SECONDS_MAX 30 /* of a sound, spec media.md section 4 */

enum decode_want { DECODE_PICTURE, DECODE_SOUND };

/* Keeper to child, with the file as memfd. */
struct decode_request {
    uint32_t want;    /* enum decode_want */
    uint32_t budget;  /* pictures: soft tokens at most; 0: leave the size as it is */
    uint32_t tile_px; /* pictures: side of a soft token */
};

/* Child to keeper. The first one says that the child is ready; the second holds the result, with
 * the frames as memfd when code is STATUS_OK. */
struct decode_answer {
    int32_t code;     /* enum status_code */
    uint32_t height;  /* picture: rows; 0 for sound */
    uint32_t width;   /* picture: px; sound: samples */
    uint32_t took_us; /* from the request to this answer */
    char text[240];   /* why it failed; ends with a zero */
};

/* A decoded medium: rgb [height][width][3], or `width` float32 samples. */
struct decoded {
    struct buffer bytes;
    size_t height, width;
};

/* Load every plugin that may be needed; call once. Fails naming the plugin that is missing. */
MUST_CHECK bool decode_open(struct status *st);

/* Decode a small item of each path, after decode_open: what first use costs is paid, and decoders
 * that do not work are found (warm.c). */
MUST_CHECK bool decode_warm(struct status *st);

/* Sniff, decode, turn, resize. `file` is changed in place (an MP4's edit list is opened up). */
MUST_CHECK bool decode_medium(struct decoded *out, uint8_t *file, size_t size,
                              const struct decode_request *request, struct status *st);

/* The child's life on socket `fd`: limits, ready, one item, end. Returns the exit status. */
int decode_child(int fd);
