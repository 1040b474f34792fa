/* session.h - one request's timeline: prompt in, next token out. */
#pragma once
#include "engine/model/drafter.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/run/gain.h"
#include "engine/run/prefix.h"
#include "engine/run/sampler.h"
#include <stddef.h>

struct session;   /* opaque */
struct tokenizer; /* engine/text/tokenizer.h */

struct session_limits {
    size_t context_max;    /* prompt and answer together, in tokens */
    size_t rows_max;       /* of one prefill pass; a picture must fit into it */
    bool drafts;           /* there is a drafter */
    struct prefix *prefix; /* what was read before; NULL: nothing is remembered */
};

/* What a pass fills for the last known token and for its drafts, in order. */
struct session_rows {
    float *logits; /* [1 + drafts][vocabulary] */
    float *hidden; /* [1 + drafts][width]; without a drafter NULL */
};

/* As batch_add says; what the request holds is copied. */
MUST_CHECK bool session_new(struct session **out, struct model *m, const struct tokenizer *t,
                            const struct batch_request *request,
                            const struct session_limits *limits, struct status *st);
void session_free(struct session *s);

/* Tokens read, and to be read before the next one can be chosen. */
size_t session_read(const struct session *s);
size_t session_known(const struct session *s);

/* Before anything is read: begin with what is known of the prompt. Takes no memory. */
void session_begin(struct session *s);
/* Around a pass that reads the next n inputs: say what will be kept of it; keep it when it is done,
 * which takes memory. */
void session_mark(struct session *s, size_t n);
void session_keep(struct session *s);

/* The next inputs to be read, about `chunk` of them and at most rows_max: a picture that would be
 * cut is taken whole if it fits, else it is left for the next chunk. The last known token and its
 * drafts ask for `rows`. out [rows_max]; how many, >= 1; 0 when all are read. */
size_t session_inputs(const struct session *s, struct model_input *out, size_t chunk,
                      const struct session_rows *rows);

/* Choose what comes after the last known token and its drafts, which were read: one token, and one
 * more behind every draft that is the very token chosen. The other drafts are taken back. What was
 * chosen is known, the last of it not read. Returns the number of drafts that were right. */
size_t session_choose(struct session *s, struct sampler *sampler, const struct session_rows *rows);

/* Drafts: guesses of what follows the last known token. A guess is drawn as the token itself will
 * be, with the same random number, so the two are the same where drafter and model think alike. */
size_t session_drafts(const struct session *s);
void session_drop_drafts(struct session *s);
/* Whether one more guess makes sense: there is room, and the answer may go on after the last one.
 */
bool session_can_draft(const struct session *s);
/* For the next guess; hidden [width] is read and written by it. */
struct drafter_row session_draft_row(const struct session *s, float *hidden);
void session_draft(struct session *s, struct sampler *sampler, const float *logits);
/* [width] what the first guess starts from; NULL: not known yet. */
const float *session_hidden(const struct session *s);
struct gain_record *session_gain(struct session *s);

/* How the answer ended, or BATCH_RUNNING. */
enum batch_finish session_finish(const struct session *s);

/* Put what may be given out into the event: tokens, index, and the end when it has come and all
 * tokens before it are given out. False when there is nothing to say. */
bool session_event(struct session *s, struct batch_event *event);
