/* outbox.h - what a stage process holds and sends: its jobs, results that wait, credits, beats.
 * Only stage.c needs it; stages see stage.h. */
#pragma once
#include "proto/link.h"
#include "services/stage/options.h"
#include "services/stage/stage.h"
#include <sys/types.h>

/* A job that the stage holds. */
struct held {
    bool used;
    struct rid rid;
    uint32_t epoch;
    uint32_t more_seq;   /* of the next piece */
    bool more_ended;     /* `last` has come */
    uint32_t result_seq; /* of the next result */
    int64_t deadline_us;
};

struct pending {
    struct pending *next;
    struct msg msg;
};

enum phase {
    PHASE_HELLO,    /* nobody has welcomed us (yet, or any more); no jobs are held */
    PHASE_WORK,     /* welcome */
    PHASE_DRAINING, /* finish what is held */
    PHASE_OVER
};

struct outbox {
    const struct stage *stage;
    void *self;
    struct link *link;
    struct stage_settings settings;
    struct stage_hello hello;
    enum phase phase;
    int exit_status;
    struct held jobs[SLOTS_MAX];
    uint32_t n_held;
    uint32_t credit_owed; /* to be given with the next chance */
    struct pending *first, **end;
    size_t n_pending;
    uint64_t work;
    int64_t interval_us, next_beat_us, next_hello_us;
    int64_t connected_us; /* when something could be sent, last */
    int statm;
    pid_t parent;
    struct msg scratch; /* for what we send ourselves; large */
    struct msg in;
};

void outbox_init(struct outbox *box, const struct stage *stage);
void outbox_clear(struct outbox *box); /* closes what outbox_init opened; not the link */

/* The process itself. */
uint64_t outbox_resident_bytes(const struct outbox *box);
bool outbox_welcomed(const struct outbox *box); /* working or draining */
void outbox_bye(struct outbox *box);            /* if there is somebody to say it to */
/* Send whatever is due and finds room: waiting results, hello, credits, the beat. */
void outbox_flush(struct outbox *box);
/* The gateway does not know us any more, or cannot be reached: its jobs are nobody's now. */
void outbox_lose_gateway(struct outbox *box, const char *why);
/* Every job is cancelled, nothing waits any more. */
void outbox_drop_jobs(struct outbox *box);

/* Jobs. */
struct held *outbox_add(struct outbox *box, const struct head *head); /* a slot must be free */
struct held *outbox_find(struct outbox *box, struct rid rid);
struct held *outbox_find_epoch(struct outbox *box, struct rid rid, uint32_t epoch);
void outbox_cancel(struct outbox *box, struct held *job); /* gives its credit back */
/* Say that a job failed which is not held. */
void outbox_post_failed(struct outbox *box, struct rid rid, uint32_t epoch, enum fault fault,
                        const struct status *st);
