/* ledger_world.h - a ledger, its time, and what it said last; for tests that tell one story. */
#pragma once
#include "gateway/ledger.h"

struct world {
    struct ledger *ledger;
    struct ledger_config config;
    struct ledger_actions out; /* of the last step */
    int64_t now_us;
};

/* The pipelines "chat" (ingest, encode, infer, format) and "plain" (upper, lower; of stages that
 * have no row of their own). A world is opened with it when `config` is NULL. */
struct ledger_config world_config(void);
void world_open(struct world *world, const struct ledger_config *config);
void world_close(struct world *world);

/* One step, with every invariant checked after it. */
void world_step(struct world *world, const struct ledger_event *event);
/* Let time pass until then, waking the ledger as often as it wants. What it does is gathered. */
void world_pass(struct world *world, int64_t until_us);

/* A blob of a message: text, or i32 numbers first, first + 1, ... */
struct piece {
    const char *name, *text;
    int first, n;
};
#define NO_PIECES ((struct piece[]){{0}})

struct rid world_rid(unsigned number);
/* A request of tenant 0 with a minute's time; `pieces` end with a nameless one. */
struct ledger_event world_request(struct world *world, unsigned number);
void world_admit(struct world *world, struct ledger_event event, const struct piece *pieces);
/* hello with seat "h/STAGE/PEER", and credit for all slots. */
void world_hello(struct world *world, uint32_t peer, const char *stage, uint32_t slots);
struct head world_hello_head(uint32_t peer, const char *stage, uint32_t slots);
void world_message(struct world *world, uint32_t peer, const struct head *head,
                   const struct piece *pieces);
/* The whole answer to `job`: one result, the last. */
void world_result(struct world *world, uint32_t peer, const struct msg *job,
                  const struct piece *pieces);
/* Infer's: n tokens from index (each the number 100 + its index). */
void world_tokens(struct world *world, uint32_t peer, const struct msg *job, uint32_t seq,
                  uint32_t index, int n, bool last);
/* Format's. */
void world_bytes(struct world *world, uint32_t peer, const struct msg *job, uint32_t seq,
                 uint32_t upto, const char *text, bool last);
/* failed, for capacity; and the credit that comes back. */
void world_no_capacity(struct world *world, uint32_t peer, const struct msg *job);
void world_credit(struct world *world, uint32_t peer, uint32_t n);
void world_beat(struct world *world, uint32_t peer, uint64_t work, uint32_t held);
void world_gone(struct world *world, uint32_t peer);

/* The nth action of that kind in the last step, NULL when there are fewer. */
const struct ledger_action *world_action(const struct world *world, enum ledger_action_kind kind,
                                         size_t nth);
/* The nth message of that kind to that peer, NULL when there are fewer. */
struct msg *world_sent(const struct world *world, uint32_t peer, enum msg_kind kind, size_t nth);
/* As world_sent, the first; it must be there, and is the caller's (world_free_msg). */
struct msg *world_take(struct world *world, uint32_t peer, enum msg_kind kind);
void world_free_msg(struct msg *msg);
/* The names of a message's blobs, with a blank between. Static. */
const char *world_names(const struct msg *msg);

/* --- a line of one worker for each stage of "chat" --- */
enum { INGEST = 1, ENCODE, INFER, FORMAT, INFER_2, FORMAT_2, OTHER, SUPERVISOR };
extern const struct piece world_text[];   /* the inputs of a request without media */
extern const struct piece world_prompt[]; /* what encode makes of it */
void world_line(struct world *world, const struct ledger_config *config);
/* Admit request `number` and bring it to infer; its job there (world_free_msg). */
struct msg *world_to_infer(struct world *world, unsigned number);
/* And let infer give n tokens; format's job. */
struct msg *world_to_format(struct world *world, unsigned number, int n);
void world_assert_end(const struct world *world, unsigned number, enum status_code code);
void world_assert_bytes(const struct world *world, const char *text, bool last);
size_t world_requests(const struct world *world);
