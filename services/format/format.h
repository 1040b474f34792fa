/* format.h - tokens to the bytes of the answer, in the wanted style. */
#pragma once
#include "services/stage/stage.h"

/* --model FILE (its tokenizer). */
bool format_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                 struct status *st);
void format_close(void *self);

/* A job opens a stream (with "tokens" and head.skip it goes on where an earlier one stopped),
 * `more` brings tokens. The bytes are a pure function of style, parameters, rid, time of creation
 * and the tokens so far: one piece of bytes for each token index, however the tokens were grouped.
 */
bool format_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                struct status *st);
bool format_more(void *self, const struct msg *more, struct outbox *out, enum fault *fault,
                 struct status *st);
void format_cancel(void *self, struct rid rid, uint32_t epoch);
