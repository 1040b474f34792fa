/* children.h - spare decoder children: started ahead, one item each, killed when they take long. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "services/ingest/decode.h"
#include <stddef.h>
#include <stdint.h>

#define CHILDREN_MAX 16

struct children;

/* An item that is over. */
struct children_end {
    uint64_t ticket;
    bool ok;   /* else st says why */
    bool died; /* the child ended without an answer, or was killed */
    /* As decode_answer, within what was asked for. */
    size_t height, width, frames, samples, frames_seen, length_ms;
    char note[DECODE_NOTE_SIZE];
    struct buffer bytes; /* the caller's */
    uint32_t took_us;    /* in the child */
    struct status st;
};

/* Start `spares` children of `program` (--decode FD). They become ready by and by. wall_ms: what
 * one item may take; of a video VIDEO_WALL times as much. */
#define VIDEO_WALL 3
MUST_CHECK bool children_new(struct children **out, const char *program, size_t spares,
                             int64_t wall_ms, struct status *st);
void children_free(struct children *c);

/* Whether an item can be handed over now. */
bool children_ready(const struct children *c);
/* Hand over an item; asserts that children_ready. The bytes are copied. */
MUST_CHECK bool children_give(struct children *c, uint64_t ticket,
                              const struct decode_request *request, struct span bytes,
                              struct status *st);
/* Nobody waits for that item any more: its child is killed, no end follows. */
void children_cancel(struct children *c, uint64_t ticket);

/* Look after all: answers, deaths, time, replacements. True with an item that is over; call again
 * until false. */
bool children_poll(struct children *c, struct children_end *end);
/* Set while no child gets ready: why. Items should fail then. NULL when all is well. */
const struct status *children_broken(const struct children *c);

size_t children_descriptors(const struct children *c, int *fds, size_t max);
/* Milliseconds until children_poll has to look at the clock; -1: not at all. */
int children_wait_ms(const struct children *c);
