/* stage.h - the loop of every service: connect, hello, credit, receive, tick, beat, cancel. */
#pragma once
#include "engine/base/status.h"
#include "proto/codec.h"
#include "proto/msg.h"

struct outbox; /* where results go; stage.c */

/* Options of every stage program, from its command line: --name value (stage.c lists the common
 * ones: --bus ADDRESS --seat HOST/STAGE/INDEX). Stage options are read with stage_option. */
struct stage_options {
    int argc;
    char **argv;
};
/* Value after --name, or fallback. */
const char *stage_option(const struct stage_options *options, const char *name,
                         const char *fallback);
/* The same, a whole number within [min, max]. */
MUST_CHECK bool stage_number(const struct stage_options *options, const char *name,
                             const char *fallback, uint64_t min, uint64_t max, uint64_t *out,
                             struct status *st);

/* What a stage says of itself in hello; filled by open. */
struct stage_hello {
    uint64_t model;
    char numerics[NUMERICS_MAX];
    uint32_t slots; /* jobs at once: the first credit; each ended job gives one back */
};

/* One row of a stage's own options, for --help and to refuse what is unknown. */
struct stage_option_row {
    const char *name;  /* without the dashes */
    const char *value; /* what --help calls its value: "FILE" */
    const char *what;  /* one line */
};

struct stage {
    const char *name;  /* in pipelines and on the wire */
    const char *about; /* what the program does, a sentence or two, for --help; may be NULL */
    const struct stage_option_row *options; /* ends with a row without name; NULL: none but ours */
    bool (*open)(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                 struct status *st);
    /* A job. False: the job has failed, with st and *fault (FAULT_STAGE when untouched), and the
     * stage has let go of it; stage.c says so. True: results come now or in later ticks, the last
     * one with `last`. The message is the callee's only during the call (blob_keep what stays). */
    bool (*job)(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                struct status *st);
    /* The next piece of a job's input, in order and without gaps; may be NULL. As job. */
    bool (*more)(void *self, const struct msg *more, struct outbox *out, enum fault *fault,
                 struct status *st);
    /* The job is not wanted any more; may be NULL. No result follows: what is sent for it falls.
     * Also called for every job when the gateway is lost and at the end. */
    void (*cancel)(void *self, struct rid rid, uint32_t epoch);
    /* Called once a turn; may be NULL. Returns in how many ms it wants to be called again at the
     * latest (0: at once, there is work; -1: only when a message or a descriptor comes). */
    int (*tick)(void *self, struct outbox *out);
    /* Descriptors to wait for besides the link; may be NULL. Returns how many were written. */
    size_t (*descriptors)(void *self, int *fds, size_t max);
    /* The jobs in the running step, for the beat; may be NULL. */
    size_t (*running)(void *self, struct rid *rids, size_t max);
    void (*close)(void *self);
};

/* Results. `msg` needs kind-specific fields and blobs only; seq, rid, epoch are filled in from the
 * job. outbox_result_take with head.last ends the job; outbox_fail ends it too. */
void outbox_result_take(struct outbox *out, struct rid rid, uint32_t epoch, struct msg *msg);
void outbox_fail(struct outbox *out, struct rid rid, uint32_t epoch, enum fault fault,
                 const struct status *st);
/* Moves the beat's counter, and sends a beat when the last one is a quarter of the interval old. A
 * job that works for longer than half a second without returning calls this now and then, and a
 * stage that waits for somebody else's work (a child's) calls it from tick as long as that goes on:
 * or it is taken for dead after two seconds. Allocates, so not under the heap's guard. */
void outbox_work(struct outbox *out);
/* Milliseconds left of a held job's deadline; negative: over. */
int64_t outbox_ms_left(const struct outbox *out, struct rid rid, uint32_t epoch);

/* Runs until SIGTERM, SIGINT, the end of what it holds after `drain`, or the end of its parent if
 * that gave it --start, as a supervisor does. The exit status: 0, or one of these. */
enum stage_exit {
    STAGE_EXIT_FAILED = 1,   /* could not open, or the bus's address is no good */
    STAGE_EXIT_REFUSED = 2,  /* the gateway does not want it; starting it again will not help */
    STAGE_EXIT_OPTIONS = 64, /* options make no sense */
};
int stage_main(const struct stage *stage, int argc, char **argv);
