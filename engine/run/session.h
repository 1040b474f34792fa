/* session.h - one request's timeline: prompt in, next token out. */
#pragma once
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/run/sampler.h"
#include <stddef.h>

struct session;   /* opaque */
struct tokenizer; /* engine/text/tokenizer.h */

struct session_limits {
    size_t context_max; /* prompt and answer together, in tokens */
    size_t rows_max;    /* of one prefill pass; a picture must fit into it */
};

/* As batch_add says; what the request holds is copied. */
MUST_CHECK bool session_new(struct session **out, struct model *m, const struct tokenizer *t,
                            const struct batch_request *request,
                            const struct session_limits *limits, struct status *st);
void session_free(struct session *s);

/* Tokens read, and to be read before the next one can be chosen. */
size_t session_read(const struct session *s);
size_t session_known(const struct session *s);

/* The next inputs to be read, about `chunk` of them and at most rows_max: a picture that would be
 * cut is taken whole if it fits, else it is left for the next chunk. The last known token asks for
 * logits. out [rows_max]; how many, >= 1; 0 when all are read. */
size_t session_inputs(const struct session *s, struct model_input *out, size_t chunk,
                      float *logits);

/* Choose the next token from the logits of the last one; it is then known and not read. */
void session_choose(struct session *s, struct sampler *sampler, const float *logits);

/* How the answer ended, or BATCH_RUNNING. */
enum batch_finish session_finish(const struct session *s);

/* Put what may be given out into the event: tokens, index, and the end when it has come and all
 * tokens before it are given out. False when there is nothing to say. */
bool session_event(struct session *s, struct batch_event *event);
