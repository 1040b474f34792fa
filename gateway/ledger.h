/* ledger.h - the life of every request, as a pure step function: events and time in, actions out.
 */
#pragma once
#include "engine/base/status.h"
#include "proto/msg.h"

#define LEDGER_STAGES_MAX 16 /* of all pipelines together */
#define LEDGER_PIPELINES_MAX 8
#define LEDGER_PIPELINE_STAGES_MAX 8
#define LEDGER_WORKERS_MAX 256
#define LEDGER_PEERS_MAX 1024 /* numbers of the bus are below this */
#define LEDGER_TOKENS_MAX (1U << 20)
#define LEDGER_BLOBS_MAX (BLOBS_MAX - 2) /* of a request; a job may add what was emitted */
#define LEDGER_SUPERVISOR "supervisor"   /* stage in the hello of `millrace up`; gets no jobs */

struct ledger; /* opaque; all tables are sized when it is made */

/* Everything that varies. Equal configuration, events and times give equal actions. */
struct ledger_config {
    size_t requests_max;       /* held at once, waiting ones included */
    uint64_t memory_max_bytes; /* sum of reservations */
    int64_t beat_interval_us;  /* 3 missed: no new jobs; 10: gone */
    int64_t pause_max_us;      /* a paused reader is cancelled after this */
    uint64_t unsent_max_bytes; /* of one client: then paused; goes on at half of it */
    uint32_t attempts_max;     /* deaths while alone before a request is refused: 2 */
    int64_t poison_us;         /* how long the hash of a refused input is remembered */
    bool resume_any;           /* resume on other numerics too */
    int64_t resume_wait_us;    /* how long a broken stream waits for equal numerics while workers
                                  of other numerics are there; then it ends with an error */
    struct {
        char name[STAGE_NAME_MAX];                               /* as the API calls it: model */
        char stages[LEDGER_PIPELINE_STAGES_MAX][STAGE_NAME_MAX]; /* in order */
        size_t n_stages;
    } pipelines[LEDGER_PIPELINES_MAX];
    size_t n_pipelines;
};

/* What the fields above are by default: 256 requests, 1 GiB, 200 ms, 30 s, 1 MiB, 2, 10 min, no,
 * 10 s, and no pipeline. */
struct ledger_config ledger_config_default(void);
/* Add a pipeline; refused in words: too many, an empty or doubled name, infer without format right
 * behind it, format without infer, nothing at the end that makes an answer. */
MUST_CHECK bool ledger_config_pipeline(struct ledger_config *config, const char *name,
                                       const char *const *stages, size_t n_stages,
                                       struct status *st);

enum ledger_event_kind {
    EVENT_REQUEST,     /* from api: head.fields are the parameters, blobs the inputs; see struct */
    EVENT_MESSAGE,     /* from a peer of the bus: head.kind says which */
    EVENT_WORKER_GONE, /* the loop knows that it ended: worker */
    EVENT_SEND_FAILED, /* a message of ACTION_SEND could not be delivered: worker, and its head */
    EVENT_CLIENT_GONE, /* rid; no action of this request follows, but cancels to workers */
    EVENT_CLIENT_UNSENT, /* rid, unsent_bytes: said when it changes much, growing or shrinking */
    EVENT_DRAIN, /* the gateway is asked to stop: what is held is finished, no new requests */
    EVENT_TICK   /* only time passes; due things are done in every step */
};
struct ledger_event {
    enum ledger_event_kind kind;
    struct rid rid;            /* EVENT_REQUEST: unique; EVENT_CLIENT_... */
    uint32_t worker;           /* peer number of the bus */
    const struct head *head;   /* EVENT_MESSAGE, EVENT_REQUEST, EVENT_SEND_FAILED */
    struct blob *const *blobs; /* [head->n_blobs]; the ledger keeps what it needs (blob_keep) */
    uint64_t unsent_bytes;     /* EVENT_CLIENT_UNSENT */
    /* EVENT_REQUEST: */
    uint32_t pipeline;      /* index in the configuration */
    uint64_t tenant;        /* one API key, the same after a restart: for fairness, and workers
                               remember what is one tenant's for that one alone; 0: nobody's */
    bool batch_class;       /* waits behind interactive ones */
    int64_t deadline_us;    /* absolute */
    uint64_t reserve_bytes; /* grows by itself when a stage gives more */
    uint64_t work;          /* predicted, for fairness: prompt + expected new tokens */
    uint64_t input_hash;    /* for poison; 0: none */
    uint32_t tokens_max;    /* more from infer is its failure; 0: LEDGER_TOKENS_MAX */
};

/* An accepted request ends exactly once: with ACTION_BYTES `last`, with ACTION_END, or with
 * EVENT_CLIENT_GONE. A refused one gets ACTION_END in the step of its EVENT_REQUEST. */
enum ledger_action_kind {
    ACTION_SEND,   /* message to a worker: welcome, refuse, job, more, cancel */
    ACTION_BYTES,  /* bytes to the client, never NULL but with `last`: the answer is complete */
    ACTION_PAUSE,  /* client's bytes pile up: the loop need not do anything but may log */
    ACTION_END,    /* the request has ended with an error: code and text; bytes_sent tells whether
                      bytes had been given before */
    ACTION_FORGET, /* the worker's number may be used again */
    ACTION_RESTART /* a worker hangs: msg is `gone` with its seat and start; worker is the
                      supervisor's number (who said hello as LEDGER_SUPERVISOR or sent `gone`),
                      UINT32_MAX when there is none */
};
struct ledger_action {
    enum ledger_action_kind kind;
    struct rid rid;
    uint32_t worker;
    bool last, bytes_sent;
    enum status_code code;
    char text[240];
    struct msg *msg;    /* ACTION_SEND, _RESTART: the loop takes it (msg_clear and heap_free after)
                           and sets it to NULL */
    struct blob *bytes; /* ACTION_BYTES: one use is the loop's, which sets it to NULL */
    int64_t retry_after_s; /* ACTION_END with BUSY or UNAVAILABLE */
};
/* Grows as needed; the loop empties it after each step. Zeroed is empty. */
struct ledger_actions {
    struct ledger_action *items;
    size_t n, capacity;
};
void ledger_actions_reset(struct ledger_actions *actions); /* frees what nobody took; n = 0 */
void ledger_actions_clear(struct ledger_actions *actions); /* and frees the array */

/* The configuration must be one that ledger_config_pipeline accepted. */
struct ledger *ledger_new(const struct ledger_config *config);
void ledger_free(struct ledger *ledger);
void ledger_step(struct ledger *ledger, const struct ledger_event *event, int64_t now_us,
                 struct ledger_actions *out);        /* appends to out */
int64_t ledger_next_us(const struct ledger *ledger); /* when it wants a tick; INT64_MAX: never */
MUST_CHECK bool ledger_check(const struct ledger *ledger, struct status *st); /* all invariants */

/* For health and the live view. */
struct ledger_counts {
    size_t requests, waiting, workers;
    uint64_t reserved_bytes;
};
void ledger_counts(const struct ledger *ledger, struct ledger_counts *out);
/* Whether every stage of the pipeline has a live worker; else the name of one that has none. */
bool ledger_ready(const struct ledger *ledger, uint32_t pipeline, const char **out_missing);
