/* ledger_private.h - what the ledger's files share: rows, requests, jobs, workers, queues. */
#pragma once
#include "gateway/ledger.h"

#define ROW_NAMES_MAX 8
#define POISON_MAX 256    /* hashes remembered; the oldest goes first */
#define RESENDS_MAX 24    /* ends of workers that one request may see, charged or not */
#define CHARGES_MAX 6     /* deaths while alone, even when each was passed afterwards */
#define REFUSALS_MAX 24   /* "no capacity" answers to one job */
#define QUIET_INTERVALS 3 /* without a beat: no new jobs */
#define GONE_INTERVALS 10 /* without a beat, or with work owed and none done: gone */
#define CANCELS_MAX 16
#define NO_PEER UINT32_MAX
#define NO_PLACE SIZE_MAX

/* How a stage's results come. */
enum flow {
    FLOW_WHOLE,  /* one, its blobs go into the request's bag */
    FLOW_TOKENS, /* many, token ids; the next stage runs at the same time */
    FLOW_BYTES,  /* many, bytes for the client, from tokens sent piece by piece */
    FLOWS
};

/* What a stage takes and gives; names end with NULL. */
struct stage_row {
    const char *name; /* NULL: any stage that has no row of its own */
    enum flow flow;
    /* A result has for each blob of the job, in order, what is made from it: the first of `gives`
     * that begins with its name and a dot, and others of that name behind it; last those without a
     * dot. */
    bool pairs;
    const char *takes[ROW_NAMES_MAX];     /* none: all that is in the bag */
    const char *gives[ROW_NAMES_MAX];     /* none: anything */
    const char *needs[ROW_NAMES_MAX];     /* must be in a result */
    const char *drops[ROW_NAMES_MAX];     /* nobody wants them after this stage */
    const char *only_with[ROW_NAMES_MAX]; /* passed over when the bag has none of these */
};
const struct stage_row *row_find(const char *name);
bool row_lists(const char *const *names, const char *name); /* also when the list is empty */

struct job;
struct job_list {
    struct job *first, *last;
    size_t n;
};

enum job_state {
    JOB_NONE,
    JOB_WAITING, /* in a queue of its stage */
    JOB_LATER,   /* refused for capacity; waits until later_us */
    JOB_HELD     /* at a worker */
};

/* A suspect was held by a worker that ended. It goes out again with no other suspect and no
 * newcomer beside it until it has passed the point of that death. Jobs that have passed may be
 * there, or streams would wait for each other's end. If it dies so, it is ALONE the next time: on
 * a worker that holds nothing else. Only then a death is charged. */
enum suspicion { CLEAR, SUSPECT, ALONE };

struct job {
    enum job_state state;
    enum suspicion suspicion;
    struct request *request;
    struct stage *stage;
    struct worker *worker; /* JOB_HELD */
    struct job_list *list; /* the queue, or the worker's held jobs */
    struct job *prev, *next;
    uint32_t epoch, seq;  /* of the attempt; next seq of a result */
    bool again;           /* was sent before: goes ahead of newcomers */
    uint32_t failures;    /* "fault of the stage" answers */
    uint32_t refusals;    /* "no capacity" answers */
    uint64_t avoid_start; /* the process that refused */
    int64_t later_us;     /* JOB_LATER */
    int64_t waiting_us;   /* JOB_WAITING: since when, or since it was last looked at */
    uint32_t point;       /* how far it was when its worker ended */
    bool point_last;      /* the end of its input was out */
};

/* A piece of what is known about a request, by name. */
struct item {
    struct blob_desc desc;
    struct blob *blob;
};

enum life {
    LIFE_STAGE,  /* in a stage before the stream, or infer has given nothing yet */
    LIFE_STREAM, /* infer gives tokens, format makes bytes of them */
    LIFE_TAIL,   /* infer has ended, format has not */
    LIVES
};

struct request {
    bool used;
    enum life life;
    struct rid rid;
    uint32_t pipeline;
    size_t position; /* of jobs[0]'s stage in the pipeline; jobs[1] is in the one behind it */
    uint64_t tenant;
    uint32_t tokens_max, epoch;
    bool batch_class;
    int64_t deadline_us, wake_us;
    size_t heap_place;
    uint64_t reserve_bytes, bag_bytes, work, input_hash;
    struct blob *parameters;
    struct item bag[LEDGER_BLOBS_MAX];
    size_t n_bag;
    struct job jobs[2]; /* [1]: format, beside infer */
    /* The stream. */
    int32_t *emitted;
    uint32_t n_emitted, emitted_capacity;
    struct blob *final; /* fields of infer's last result */
    char numerics[NUMERICS_MAX];
    uint32_t forwarded, upto; /* tokens given to format; tokens covered by the client's bytes */
    uint32_t more_seq;
    bool last_forwarded, bytes_sent, paused;
    int64_t paused_us;
    /* Blame. */
    uint32_t deaths, charges, resends;
    struct request *next; /* in a hash chain, or free */
};

struct worker {
    bool used;
    uint32_t peer;
    struct stage *stage;
    char seat[SEAT_MAX], numerics[NUMERICS_MAX];
    uint64_t start, model, work, memory_bytes;
    uint32_t slots, credit;
    uint32_t ghosts; /* cancelled jobs that it may still be at */
    struct {
        struct rid rid;
        uint32_t epoch;
    } cancels[CANCELS_MAX]; /* that could not be delivered; said again with its next beat */
    size_t n_cancels;
    bool quiet, unreachable, draining;
    bool owes;                /* FLOW_BYTES: was sent something since its counter moved */
    struct job_list held;     /* in the order they were sent */
    struct job *probe;        /* the suspect that it holds, not yet past its point */
    int64_t beat_us, work_us; /* last beat; since when its counter should have moved */
};

/* The waiting newcomers of one tenant in one stage and class; in a ring with the others. */
struct tenant_queue {
    uint64_t tenant;
    uint64_t deficit;
    bool visited; /* has had its quantum of this round */
    struct job_list jobs;
    struct tenant_queue *prev, *next;
};

struct stage {
    char name[STAGE_NAME_MAX];
    const struct stage_row *row;
    struct job_list suspects, again;
    struct tenant_queue *rings[2]; /* whose turn it is; [1]: batch */
    size_t n_waiting;              /* in all of these */
    struct worker *workers[LEDGER_WORKERS_MAX];
    size_t n_workers;
    bool dirty; /* something changed that may let a job go out */
};

struct ledger {
    struct ledger_config config;
    struct stage stages[LEDGER_STAGES_MAX];
    size_t n_stages;
    struct stage *lines[LEDGER_PIPELINES_MAX][LEDGER_PIPELINE_STAGES_MAX];

    struct request *requests; /* [requests_max] */
    struct request *free_requests;
    struct request **chains; /* [n_chains], a power of two */
    size_t n_chains;
    struct request **heap; /* [n_requests], the earliest wake_us first */
    size_t n_requests;
    uint64_t reserved_bytes;
    struct tenant_queue *tenant_queues; /* [2 * requests_max] */
    struct tenant_queue *free_tenant_queues;

    struct worker workers[LEDGER_WORKERS_MAX];
    struct worker *by_peer[LEDGER_PEERS_MAX];
    size_t n_workers;
    int64_t workers_us; /* no worker's silence matters before */
    uint32_t supervisor;

    struct {
        uint64_t hash;
        int64_t until_us;
    } poison[POISON_MAX];
    size_t poison_next;

    bool draining;
    int64_t end_us, gap_us; /* of the last ending; smoothed time between endings */

    int64_t now_us;             /* of the running step */
    struct ledger_actions *out; /* of the running step */
};

/* ledger.c */
struct ledger_action *action_add(struct ledger *ledger, enum ledger_action_kind kind,
                                 const struct request *request);
struct msg *action_send(struct ledger *ledger, uint32_t peer, enum msg_kind kind);
struct request *request_find(const struct ledger *ledger, struct rid rid);
void request_schedule(struct ledger *ledger, struct request *request);
struct request *request_take(struct ledger *ledger, struct rid rid); /* a place in the tables */
void request_give(struct ledger *ledger, struct request *request);   /* and back */

/* ledger_queue.c */
void list_append(struct job_list *list, struct job *job);
void list_prepend(struct job_list *list, struct job *job);
void list_remove(struct job *job);
void job_enqueue(struct ledger *ledger, struct job *job);
void job_dequeue(struct ledger *ledger, struct job *job); /* JOB_WAITING, JOB_LATER: to NONE */
bool worker_live(const struct worker *worker);            /* may get jobs at all */
bool worker_fits(const struct ledger *ledger, const struct worker *worker, const struct job *job);
bool worker_open(const struct ledger *ledger, const struct worker *worker, const struct job *job);
void stage_dispatch(struct ledger *ledger, struct stage *stage);

/* ledger_requests.c */
void requests_admit(struct ledger *ledger, const struct ledger_event *event);
void requests_client_gone(struct ledger *ledger, const struct ledger_event *event);
void request_end(struct ledger *ledger, struct request *request, enum status_code code,
                 const char *format, ...) PRINTF_LIKE(4, 5);
void request_drop(struct ledger *ledger, struct request *request); /* cancels, frees */
void request_wake(struct ledger *ledger, struct request *request); /* its time has come */
void request_to_stage(struct ledger *ledger, struct request *request, size_t position);

/* ledger_bag.c */
bool bag_fill(struct ledger *ledger, struct request *request, const struct ledger_event *event);
void bag_drop(struct ledger *ledger, struct request *request, const char *const *names);
void bag_clear(struct ledger *ledger, struct request *request);
bool bag_has(const struct request *request, const char *const *names);
/* Check a result's blobs by the stage's row and put them into the bag. STATUS_LIMIT: no memory; the
 * rest is the worker's fault. */
MUST_CHECK bool bag_result(struct ledger *ledger, struct job *job, const struct ledger_event *event,
                           struct status *st);

/* ledger_jobs.c */
enum worker_end { END_DIED, END_LOST, END_LEFT }; /* charged; suspected; neither */
void job_begin(struct ledger *ledger, struct job *job, struct stage *stage);
void job_send(struct ledger *ledger, struct job *job, struct worker *worker);
void job_release(struct job *job);                     /* JOB_HELD to NONE */
void job_stop(struct ledger *ledger, struct job *job); /* any state to NONE; cancel if held */
void job_passed(struct ledger *ledger, struct job *job);
void job_orphaned(struct ledger *ledger, struct job *job, enum worker_end how, bool alone,
                  bool probe);
void job_undelivered(struct ledger *ledger, struct worker *worker, const struct head *head);
void job_cancel(struct ledger *ledger, uint32_t peer, struct rid rid, uint32_t epoch);
void job_message(struct ledger *ledger, struct worker *worker, const struct ledger_event *event);
/* The worker's answer makes no sense: cancelled there and tried again, within limits. */
void job_bad(struct ledger *ledger, struct job *job, const char *format, ...) PRINTF_LIKE(3, 4);

/* ledger_streams.c */
void stream_tokens(struct ledger *ledger, struct job *job, const struct ledger_event *event);
void stream_bytes(struct ledger *ledger, struct job *job, const struct ledger_event *event);
void stream_job(struct ledger *ledger, struct job *job, struct msg *msg); /* its part of a job */
void stream_forward(struct ledger *ledger, struct request *request);
void stream_unsent(struct ledger *ledger, const struct ledger_event *event);
void stream_clear(struct request *request);

/* ledger_workers.c */
void workers_message(struct ledger *ledger, const struct ledger_event *event);
void workers_gone(struct ledger *ledger, const struct ledger_event *event);
void workers_send_failed(struct ledger *ledger, const struct ledger_event *event);
void workers_timers(struct ledger *ledger);
void worker_expect(const struct ledger *ledger, struct worker *worker); /* before it gets work */
