/* batch.h - the requests that a model works on: which advance in this step, and by what. */
#pragma once
#include "engine/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct batch;
struct drafter;   /* engine/model/drafter.h */
struct model;     /* engine/model/model.h */
struct tokenizer; /* engine/text/tokenizer.h */

#define BATCH_SLOTS_MAX 64
#define BATCH_STOPS_MAX 8 /* stop strings a request */
#define BATCH_STOP_BYTES_MAX 128
#define BATCH_DRAFT_TOKENS_MAX 8  /* guesses for one answer in a round */
#define BATCH_CHUNK_TOKENS 256    /* of a prompt at a time, as infer reads it */
#define BATCH_PICTURE_TOKENS 1120 /* of the largest picture, which no chunk cuts */
#define BATCH_STEP_US 50000       /* of a step, as infer works */
#define DRAFT_STEP_ROWS 8         /* answers that guess together: a step stays short */

/* How the next token is chosen (spec chat.md section 7). */
struct sampling {
    float temperature; /* 0: the largest logit */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all */
    uint64_t seed;     /* with the token's index it fixes the random number */
};

/* What a request asks. Everything is copied by batch_add. */
struct batch_request {
    const int32_t *ids; /* [n_ids] prompt; ids of soft slots are ignored */
    size_t n_ids;
    const int32_t *spans; /* [n_spans][3] start, count, kind (enum media_kind): sorted, disjoint */
    size_t n_spans;
    const int32_t *cuts; /* [n_cuts] places that a later prompt may share: ascending, above 0, up to
                          * n_ids, not among soft slots (engine/text/template.h) */
    size_t n_cuts;
    uint64_t tenant;        /* what was read for another is not used */
    const float *soft;      /* [sum of counts][width], in span order */
    const int32_t *emitted; /* [n_emitted] tokens that were already given out (resume) */
    size_t n_emitted;
    size_t tokens_max; /* new tokens at most, those of `emitted` included; >= 1 */
    struct sampling sampling;
    const char *stops[BATCH_STOPS_MAX]; /* stop strings, UTF-8, not empty */
    size_t n_stops;
};

enum batch_finish { BATCH_RUNNING, BATCH_STOP, BATCH_STOP_STRING, BATCH_LENGTH };

/* What happened to a slot in a step. */
struct batch_event {
    size_t slot;
    size_t index;         /* of the first token: 0 is the first new token of the answer */
    size_t cached_tokens; /* of the prompt that had been read before */
    int32_t tokens[16];   /* tokens that may be shown now (a stop string holds some back) */
    size_t n_tokens;
    enum batch_finish finish; /* not BATCH_RUNNING: the slot is free again after this event */
    size_t drafted, accepted; /* guesses of the drafter so far, and those that were right */
};

struct batch_options {
    size_t slots;            /* requests at once, <= BATCH_SLOTS_MAX */
    size_t context_max;      /* tokens of prompt and answer together, of one request */
    size_t chunk_tokens;     /* prefill chunk; a picture is never cut */
    int64_t step_us;         /* a step should return after about this long */
    struct drafter *drafter; /* NULL: none. Takes DRAFT_STEP_ROWS rows, outlives the batch */
    size_t draft_tokens;     /* guesses for one answer in a round, within
                                [1, BATCH_DRAFT_TOKENS_MAX]; ignored without a drafter */
    bool draft_always;       /* draft also when it does not pay: for tests and measurements */
};

MUST_CHECK bool batch_new(struct batch **out, struct model *model, const struct tokenizer *t,
                          const struct batch_options *options, struct status *st);
void batch_free(struct batch *b);

/* Take up a request. What was kept of prompts gives way to it. STATUS_BUSY: no slot or no room for
 * keys and values; STATUS_LIMIT: prompt and
 * tokens_max exceed the context (the text gives both numbers); STATUS_INVALID: an id outside the
 * vocabulary, spans or cuts out of order, a value not finite. Nothing of it is kept on failure. */
MUST_CHECK bool batch_add(struct batch *b, const struct batch_request *request, size_t *out_slot,
                          struct status *st);

/* Let go of a slot at any time between steps. */
void batch_remove(struct batch *b, size_t slot);
size_t batch_active(const struct batch *b);

/* One bounded piece of work: some prefill, or one token for every request that decodes; about half
 * of the time each when both wait. Returns the number of events (<= slots) written to events. What
 * a request gets depends neither on the others nor on a drafter: that only makes it come sooner,
 * several tokens in a step. batch_working tells which slots the last step
 * touched. */
size_t batch_step(struct batch *b, struct batch_event *events);
size_t batch_working(const struct batch *b, size_t *out_slots); /* [slots] */

/* Progress of a slot's prompt: tokens read and in all. */
void batch_progress(const struct batch *b, size_t slot, size_t *out_read, size_t *out_all);
