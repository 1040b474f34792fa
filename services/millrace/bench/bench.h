/* bench.h - what is measured on a model, opened and asked as the server does it. */
#pragma once
#include "engine/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench; /* a model that is open; bench_model.h */

struct bench_setup {
    const char *model, *media, *drafter; /* media, drafter "": none */
    const char *kv_type;                 /* as infer has it; "": its default */
    size_t threads;
    size_t prompt_max; /* longest prompt that is read as a whole, in tokens */
    size_t depth_max;  /* most tokens before a step or a piece of a prompt */
    bool exact;
};
MUST_CHECK bool bench_open(struct bench **out, const struct bench_setup *setup, struct status *st);
void bench_close(struct bench *b);

/* Seconds that opening took with the file in the page cache, and those of them in which matrices
 * were laid out; bytes of these matrices. */
double bench_start_s(const struct bench *b);
double bench_lay_out_s(const struct bench *b);
double bench_lay_out_bytes(const struct bench *b);
const char *bench_numerics(const struct bench *b); /* model_numerics */

/* ---- how much a step has to do */

/* Bytes of weights that one decode step reads; multiplications of weights for one prefilled token
 * (the head left out), and for one that is answered (with it). */
double bench_step_bytes(const struct bench *b);
double bench_token_products(const struct bench *b);
double bench_step_products(const struct bench *b);
/* Bytes of keys and values that a decode step at that depth reads, the multiplications it does
 * with them, and whether these are of 16-bit integers (else float32). */
double bench_kv_bytes(const struct bench *b, size_t depth);
double bench_attend_products(const struct bench *b, size_t depth);
bool bench_attends_in_integers(const struct bench *b);

/* ---- through the batch, as infer works */

/* Seconds to read a prompt of n tokens. */
double bench_prefill_s(struct bench *b, size_t n);
/* Seconds of one step that gives each of `streams` answers a token: 1, 4 or 8, short prompts. */
double bench_step_s(struct bench *b, size_t streams);

/* ---- one sequence */

struct bench_sequence;
/* Of which `depth` tokens count as read: its keys and values mean nothing (sequence_pretend). NULL
 * when the model's context or the memory that is free does not hold it. */
struct bench_sequence *bench_sequence_new(struct bench *b, size_t depth);
void bench_sequence_free(struct bench_sequence *s); /* NULL does nothing */
/* Seconds to read `rows` more tokens, with logits of each: what verifying rows - 1 drafts costs.
 * All but one are then taken back. */
double bench_rows_s(struct bench_sequence *s, size_t rows);
/* Seconds to read the next piece of a prompt: BATCH_CHUNK_TOKENS. */
double bench_piece_s(struct bench_sequence *s);

/* ---- the rest */

/* Seconds to make the soft tokens of a picture of `tokens` tokens, or of a sound of that many; -1
 * without a media file. */
double bench_picture_s(struct bench *b, size_t *out_tokens);
double bench_sound_s(struct bench *b, size_t *out_tokens);
/* Seconds for a token of one answer, without the drafter and with it, if its guesses, three a
 * round, were right with probability `right`. False: there is no drafter. */
bool bench_drafted_s(struct bench *b, double right, double *out_plain_s, double *out_drafted_s);
