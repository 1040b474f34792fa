/* sim.h - the ledger among fake workers, clients and a supervisor, in virtual time, from a seed. */
#pragma once
#include "engine/base/bytes.h"
#include "gateway/ledger.h"

#define SIM_REQUESTS_MAX 12
#define SIM_SEATS_MAX 12
#define SIM_PROCESSES_MAX 160 /* in the course of a history */
#define SIM_SLOTS_MAX 8
#define SIM_TOKENS_MAX 16
#define SIM_MEDIA_MAX 3

enum sim_class {
    SIM_CALM,   /* nothing goes wrong: all complete */
    SIM_POISON, /* some requests end whatever works on them: they are refused, all others complete
                 */
    SIM_ROUGH,  /* things go wrong for a while: whoever is not refused completes afterwards */
    SIM_MAD,    /* anything at any time: nothing is lost, doubled or foreign */
    SIM_CLASSES
};

enum sim_stage { SIM_INGEST, SIM_ENCODE, SIM_INFER, SIM_FORMAT, SIM_STAGES };
extern const char *const sim_stage_names[SIM_STAGES];

/* What a client asks, what it has got, how it ended. */
struct sim_request {
    struct rid rid;
    int n_media;
    bool audio[SIM_MEDIA_MAX];
    bool unstreamed, poison, accepted, gone, slow_reader;
    enum sim_stage poison_stage;
    uint32_t poison_index;
    uint8_t parameters[6];
    char got[1024];
    size_t n_got, unsent;
    int ends; /* must become 1 */
    bool complete;
    enum status_code code;
};

struct sim_job {
    bool used;
    int request;
    uint32_t epoch, seq, more_seq;
    int64_t ready_us;
    int32_t tokens[SIM_TOKENS_MAX]; /* infer: emitted; format: received */
    uint32_t n_tokens;
    uint32_t skip, upto; /* format */
    bool ended;          /* format: the last input is there */
};

struct sim_process {
    bool alive, welcome, hung, silent, draining, mad, turning;
    int seat;
    enum sim_stage stage;
    uint64_t start, work;
    uint32_t peer, slots, credit_owed;
    int64_t turn_us, last_in_us, last_out_us;
    char numerics; /* of infer: its words depend on it */
    struct sim_job jobs[SIM_SLOTS_MAX];
};

enum sim_kind {
    SIM_TO_PROCESS,
    SIM_TO_GATEWAY,
    SIM_TURN,  /* a process does a piece of work */
    SIM_BEAT,  /* a process */
    SIM_START, /* a seat */
    SIM_CRASH, /* a process */
    SIM_GONE,  /* the supervisor tells of a process */
    SIM_REQUEST,
    SIM_CLIENT_GONE,
    SIM_CLIENT_READS
};
struct sim_event {
    int64_t at_us;
    uint64_t order; /* among equal times */
    enum sim_kind kind;
    int number; /* of the process, seat or request */
    struct msg *msg;
};

struct sim {
    uint64_t seed, random;
    enum sim_class class;
    int64_t now_us, calm_us; /* from calm_us on, nothing goes wrong any more */
    struct ledger *ledger;
    struct sim_event *events; /* a heap */
    size_t n_events, events_capacity;
    uint64_t order;
    struct sim_request requests[SIM_REQUESTS_MAX];
    int n_requests;
    struct {
        enum sim_stage stage;
        int process; /* -1: none at the moment */
        char numerics;
        bool mad;
    } seats[SIM_SEATS_MAX];
    int n_seats;
    struct sim_process *processes; /* [SIM_PROCESSES_MAX], the caller's */
    int n_processes;
    int by_peer[LEDGER_PEERS_MAX]; /* -1: free */
    uint32_t next_peer, supervisor;
    bool resume_any;
    uint64_t steps;
    bool traced; /* each message is printed */
    bool failed; /* something was wrong; it has been said */
};

/* What happened in all histories: so that one sees that it did happen. */
struct sim_totals {
    uint64_t steps, complete, ends[STATUS_CODES], refused, gone, crashes, sends_lost, restarts;
};
extern struct sim_totals sim_totals;

/* sim.c */
uint64_t sim_random(struct sim *sim, uint64_t below);
bool sim_chance(struct sim *sim, unsigned percent); /* never once it is calm */
uint64_t sim_hash(uint64_t a, uint64_t b);
void sim_wrong(struct sim *sim, const char *format, ...) PRINTF_LIKE(2, 3);
void sim_at(struct sim *sim, int64_t at_us, enum sim_kind kind, int number, struct msg *msg);
void sim_step(struct sim *sim, const struct ledger_event *event);
void sim_run(struct sim *sim, uint64_t seed, bool traced); /* one history */

/* sim_clients.c: what is asked, and what an answer must be */
void sim_make_requests(struct sim *sim);
int sim_request_of(struct sim *sim, struct rid rid);
void sim_ask(struct sim *sim, int number);
void sim_client_bytes(struct sim *sim, const struct ledger_action *action);
void sim_client_end(struct sim *sim, const struct ledger_action *action);
void sim_client_reads(struct sim *sim, int number);
void sim_judge(struct sim *sim);
uint32_t sim_n_tokens(const struct sim *sim, int request, char numerics);
int32_t sim_token(const struct sim *sim, int request, char numerics, uint32_t index);
/* The answer's piece for an index, and its ending; pure functions of the tokens. */
void sim_piece(const struct sim_request *request, const int32_t *tokens, uint32_t index,
               struct buffer *out);
void sim_ending(const struct sim_request *request, const int32_t *tokens, uint32_t n,
                struct buffer *out);

/* sim_workers.c */
void sim_start(struct sim *sim, int seat);
void sim_crash(struct sim *sim, int process);
void sim_turn(struct sim *sim, int process);
void sim_beat(struct sim *sim, int process);
void sim_receive(struct sim *sim, int process, struct msg *msg);
void sim_post(struct sim *sim, int process, struct msg *msg);        /* to the gateway; takes it */
void sim_end_job(struct sim *sim, int process, struct sim_job *job); /* gives its credit back */

/* sim_work.c */
struct msg *sim_message(enum msg_kind kind, const struct sim *sim, const struct sim_job *job);
bool sim_is_poison(const struct sim *sim, const struct sim_process *process,
                   const struct sim_job *job, bool ends);
void sim_work_whole(struct sim *sim, int process, struct sim_job *job); /* ingest, encode */
void sim_work_infer(struct sim *sim, int process, struct sim_job *job);
void sim_work_format(struct sim *sim, int process, struct sim_job *job);
void sim_talk_nonsense(struct sim *sim, int process, struct sim_job *job);
