/* bench.h - what the parts of `millrace bench` share. */
#pragma once
#include "engine/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench; /* a model opened as the server opens it; bench_model.c */

struct bench_setup {
    const char *model, *media, *drafter; /* media, drafter "": none */
    size_t threads;
    size_t depth_max; /* longest prompt that is measured, in tokens */
    bool exact;
};
MUST_CHECK bool bench_open(struct bench **out, const struct bench_setup *setup, struct status *st);
void bench_close(struct bench *b);

/* Seconds that opening took, the reading of the file included. */
double bench_start_s(const struct bench *b);
const char *bench_numerics(const struct bench *b); /* model_numerics */
/* Bytes of weights that one decode step reads; multiplications of weights for one prefilled token
 * (the head left out). */
double bench_step_bytes(const struct bench *b);
double bench_token_products(const struct bench *b);
/* Bytes of keys and values that a decode step at that depth reads, and the multiplications it does
 * with them. */
double bench_kv_bytes(const struct bench *b, size_t depth);
double bench_attend_products(const struct bench *b, size_t depth);

/* All through the batch, as infer works: seconds to read a prompt of n tokens. */
double bench_prefill_s(struct bench *b, size_t n);
/* Seconds of one step while `streams` answers are written, the mean of `steps`, behind prompts of
 * `depth` tokens. */
double bench_decode_s(struct bench *b, size_t streams, size_t depth, size_t steps);
/* Seconds of one pass over `rows` tokens of one sequence with logits of each: what verifying rows -
 * 1 drafts costs. */
double bench_verify_s(struct bench *b, size_t rows);
/* Seconds to make the soft tokens of a picture of `tokens` tokens, or of a sound of that many; -1
 * without a media file. */
double bench_picture_s(struct bench *b, size_t *out_tokens);
double bench_sound_s(struct bench *b, size_t *out_tokens);
/* Seconds for a token of one answer, without the drafter and with it, if its guesses, three a
 * round, were right with probability `right`. False: there is no drafter. */
bool bench_drafted_s(struct bench *b, double right, double *out_plain_s, double *out_drafted_s);
