/* drafter.h - the small model that guesses the next tokens of a sequence (multi-token prediction).
 *
 * It has no keys and values of its own: it looks at those of its target, the model it drafts for. A
 * guess changes nothing: the target says which tokens come, the drafter only which are worth asking
 * for together. Source: spec model.md section 7. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct drafter;
struct hparams;  /* engine/model/hparams.h */
struct model;    /* engine/model/model.h */
struct sequence; /* engine/model/model.h */
struct weights;  /* engine/weights/weights.h */

/* Whether this file is a drafter for a target of these numbers, as drafter_open says; looks at
 * metadata only. */
MUST_CHECK bool drafter_check(const struct weights *w, const struct hparams *target,
                              struct status *st);

/* Borrow the tensors of a drafter (GGUF, architecture gemma4-assistant) and check that it was made
 * for this target: its width, vocabulary, window, head sizes and kinds of layers; refused in words
 * otherwise. Takes all memory that steps of up to rows_max sequences need. Weights and target must
 * outlive it. */
MUST_CHECK bool drafter_open(struct drafter **out, const struct weights *w, struct model *target,
                             size_t rows_max, struct status *st);
void drafter_close(struct drafter *d);

/* One guess for a sequence, none of which is in a pass. */
struct drafter_row {
    const struct sequence *sequence; /* of the target, with at least one token read */
    int32_t token; /* the first guess: chosen, but not yet read; then the guess before */
    float *hidden; /* [width of the target], in and out: the normed stream that predicted the first
                      token, as the target or the guess before left it */
};
/* The next guesses of n sequences, 1 <= n <= rows_max: logits [n][vocabulary], without soft cap,
 * nothing suppressed, valid until the next step. Numbers do not depend on what is drafted together.
 * Takes no heap memory. */
const float *drafter_step(struct drafter *d, const struct drafter_row *rows, size_t n);
