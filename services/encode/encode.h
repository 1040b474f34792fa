/* encode.h - turns and frames to the prompt: ids, spans, soft tokens, cut points. */
#pragma once
#include "services/stage/stage.h"

/* --model FILE (its tokenizer and width), --media FILE (the projectors; without it media are
 * refused). */
bool encode_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                 struct status *st);
void encode_close(void *self);

/* Renders the prompt at once; soft tokens are made in ticks, a few dozen each, so that beats go on
 * while a large picture is projected. */
bool encode_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                struct status *st);
void encode_cancel(void *self, struct rid rid, uint32_t epoch);
int encode_tick(void *self, struct outbox *out);
