/* draft.h - the drafts of a round: which answers get them, and how far.
 *
 * A round is one pass that reads the newest token of every answer. Its drafts are guesses of what
 * follows; they are read in the same pass, and each that is the very token chosen saves a round. */
#pragma once
#include "engine/run/sampler.h"
#include "engine/run/session.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct draft;
struct drafter; /* engine/model/drafter.h */

struct draft_options {
    struct drafter *drafter; /* must outlive it, and take DRAFT_STEP_ROWS rows */
    size_t slots;            /* answers in a round, at most */
    size_t tokens;           /* guesses for one answer, within [1, BATCH_DRAFT_TOKENS_MAX] */
    bool always;             /* also when it does not pay */
};

struct draft *draft_new(const struct draft_options *options, const struct model *target);
void draft_free(struct draft *d);

/* Rows that a round needs at most, drafts included. */
size_t draft_rows_max(size_t slots, size_t tokens);

/* Begin a round of sessions [n]: the drafts they may still hold are dropped. */
void draft_begin(struct draft *d, struct session *const *sessions, size_t n);

/* Guess for about budget_us; true when all guesses are there. The same sessions as in draft_begin;
 * NULL: one that has left since. */
bool draft_advance(struct draft *d, struct session *const *sessions, struct sampler *sampler,
                   int64_t budget_us);

/* How many of a session's drafts were right. */
void draft_judged(struct draft *d, struct session *s, size_t right);

/* The round is over; it took so long, guesses and pass together. */
void draft_end(struct draft *d, int64_t elapsed_us);
