/* ledger.h - the life of every request, as a pure step function: events and time in, actions out.
 */
#pragma once
#include "engine/base/status.h"
#include "proto/msg.h"

#define LEDGER_STAGES_MAX 16 /* of all pipelines together */
#define LEDGER_PIPELINES_MAX 8
#define LEDGER_WORKERS_MAX 256
#define LEDGER_ACTIONS_MAX 256 /* of one step */

struct ledger; /* opaque; all tables are sized when it is made */

/* Everything that varies. Equal configuration, events and times give equal actions. */
struct ledger_config {
    size_t requests_max;       /* held at once, waiting ones included */
    uint64_t memory_max_bytes; /* sum of reservations */
    int64_t beat_interval_us;  /* 3 missed: no new jobs; 10: gone */
    int64_t pause_max_us;      /* a paused reader is cancelled after this */
    uint64_t unsent_max_bytes; /* of one client: then paused */
    uint32_t attempts_max;     /* deaths while alone before a request is refused: 2 */
    int64_t poison_us;         /* how long the hash of a refused input is remembered */
    bool resume_any;           /* resume on other numerics too */
    struct {
        char name[STAGE_NAME_MAX];      /* as the API calls it: model */
        char stages[8][STAGE_NAME_MAX]; /* in order */
        size_t n_stages;
    } pipelines[LEDGER_PIPELINES_MAX];
    size_t n_pipelines;
};

enum ledger_event_kind {
    EVENT_REQUEST,     /* from api: head.fields are the parameters, blobs the inputs; see struct */
    EVENT_MESSAGE,     /* from a worker: head.kind says which */
    EVENT_WORKER_GONE, /* the loop knows that it ended */
    EVENT_SEND_FAILED, /* an action's message could not be delivered: worker, rid, epoch */
    EVENT_CLIENT_GONE,
    EVENT_CLIENT_UNSENT, /* bytes the client has not taken yet */
    EVENT_TICK
};
struct ledger_event {
    enum ledger_event_kind kind;
    struct rid rid;
    uint32_t worker;           /* peer number of the bus */
    const struct head *head;   /* EVENT_MESSAGE, EVENT_REQUEST */
    struct blob *const *blobs; /* [head->n_blobs]; the ledger keeps what it needs */
    uint64_t unsent_bytes;     /* EVENT_CLIENT_UNSENT */
    /* EVENT_REQUEST: */
    uint32_t pipeline;
    uint32_t tenant;     /* fairness: one API key */
    bool batch_class;    /* waits behind interactive ones */
    int64_t deadline_us; /* absolute */
    uint64_t reserve_bytes;
    uint64_t work;       /* predicted, for fairness: prompt + expected new tokens */
    uint64_t input_hash; /* for poison */
};

enum ledger_action_kind {
    ACTION_SEND,   /* message to a worker: welcome, refuse, job, more, cancel, drain */
    ACTION_BYTES,  /* blob[0] to the client; `last`: the answer is complete */
    ACTION_PAUSE,  /* client's bytes pile up: the loop need not do anything but may log */
    ACTION_END,    /* the request has ended with an error: code and text; bytes_sent tells whether
                      bytes had been given before */
    ACTION_FORGET, /* the worker's number may be used again */
    ACTION_RESTART /* ask the supervisor to restart a hung worker (seat in head.seat) */
};
struct ledger_action {
    enum ledger_action_kind kind;
    struct rid rid;
    uint32_t worker;
    bool last, bytes_sent;
    enum status_code code;
    char text[240];
    struct msg *msg;    /* ACTION_SEND: the loop takes it (heap; msg_clear and heap_free after) */
    struct blob *bytes; /* ACTION_BYTES: one use is the loop's */
    int64_t retry_after_s; /* ACTION_END with BUSY or UNAVAILABLE */
};
/* Grows as needed; the loop empties it after each step. Zeroed is empty. */
struct ledger_actions {
    struct ledger_action *items;
    size_t n, capacity;
};
void ledger_actions_clear(
    struct ledger_actions *actions); /* frees what nobody took, and the array */

struct ledger *ledger_new(const struct ledger_config *config);
void ledger_free(struct ledger *ledger);
void ledger_step(struct ledger *ledger, const struct ledger_event *event, int64_t now_us,
                 struct ledger_actions *out);
int64_t ledger_next_us(const struct ledger *ledger); /* when it wants a tick; INT64_MAX: never */
bool ledger_check(const struct ledger *ledger, struct status *st); /* every invariant */

/* For health and the live view. */
struct ledger_counts {
    size_t requests, waiting, workers;
    uint64_t reserved_bytes;
};
void ledger_counts(const struct ledger *ledger, struct ledger_counts *out);
/* Whether every stage of the pipeline has a live worker; else the name of one that has none. */
bool ledger_ready(const struct ledger *ledger, uint32_t pipeline, const char **out_missing);
