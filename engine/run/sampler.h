/* sampler.h - logits to the next token; the random number is fixed by (seed, index). */
#pragma once
#include "engine/run/batch.h"
#include <stddef.h>
#include <stdint.h>

struct sampler; /* opaque: scratch memory for one vocabulary, to be used by any request in turn */

struct sampler *sampler_new(size_t vocabulary);
void sampler_free(struct sampler *s);

/* Choose an id from logits [vocabulary]. Order of the filters: temperature, top-k, top-p, min-p.
 * An id of logit -infinity (a suppressed one) or NaN is never chosen. Equal logits rank by id, the
 * lower first: temperature 0 takes the first, and top-k keeps exactly k. Takes no heap memory.
 *
 * index: of the token within the answer. If no logit is a number (a broken model), 0. */
int32_t sampler_pick(struct sampler *s, const float *logits, const struct sampling *sampling,
                     uint64_t index);

/* The random number of a token, uniform in [0, 1): a function of its arguments, without state. */
double sampler_uniform(uint64_t seed, uint64_t index);

/* Refuses numbers that mean nothing: negative, not finite, a probability above 1. */
MUST_CHECK bool sampling_check(const struct sampling *sampling, struct status *st);
