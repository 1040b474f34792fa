/* infer.h - prompts to tokens: one step for many requests at once. */
#pragma once
#include "services/stage/stage.h"

/* --model FILE, --drafter FILE, --draft-tokens N, --threads N (0: as many as cores), --context N,
 * --slots N, --kv-bytes N,
 * --exact yes|no. The files are read through once, with progress, before hello.
 * For tests: MILLRACE_TEST_CRASH_ID=N in the environment ends the process on a prompt with that
 * token id, two tokens into its answer. */
bool infer_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                struct status *st);
void infer_close(void *self);

bool infer_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
               struct status *st);
void infer_cancel(void *self, struct rid rid, uint32_t epoch);
int infer_tick(void *self, struct outbox *out);
size_t infer_running(void *self, struct rid *rids, size_t max);
