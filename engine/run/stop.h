/* stop.h - the end of an answer: stop ids, stop strings, length; holds back what may belong to a
 * stop string. */
#pragma once
#include "engine/run/batch.h"
#include <stddef.h>
#include <stdint.h>

struct stop;      /* opaque: one request's stop strings and the tokens held back */
struct tokenizer; /* engine/text/tokenizer.h */

/* The tokenizer must outlive it. Refuses an empty, over-long or ill-formed string and too many of
 * them. Memory for the tokens_max tokens of an answer is taken here.
 *
 * in_thought: the prompt ends inside an open thought. Stop strings are looked for in the answer's
 * ordinary text only, not in thoughts and tool calls, and never across a special token. */
MUST_CHECK bool stop_new(struct stop **out, const struct tokenizer *t, const char *const *texts,
                         size_t n_texts, size_t tokens_max, bool in_thought, struct status *st);
void stop_free(struct stop *s);

/* One more token of the answer; afterwards stop_take gives those that may be shown.
 * BATCH_RUNNING, BATCH_STOP (a stop id; it may be shown itself) or BATCH_STOP_STRING.
 * A stop string that begins inside a token takes that whole token with it: tokens are what travels,
 * and to show part of the stop string would be worse than to lose what stands before it. */
enum batch_finish stop_push(struct stop *s, int32_t id);

/* As stop_push for tokens [n] that were given out before: they are only remembered. The result is
 * that of the last one; BATCH_STOP_STRING cannot come, since it is never given out. */
enum batch_finish stop_resume(struct stop *s, const int32_t *ids, size_t n);

/* No more tokens will come (length): everything held may be shown. */
void stop_end(struct stop *s);

/* Take up to n_max tokens that may be shown, in order; how many. out_index: of the first. */
size_t stop_take(struct stop *s, int32_t *out, size_t n_max, size_t *out_index);
/* Tokens that may be shown and have not been taken. */
size_t stop_ready(const struct stop *s);
size_t stop_pushed(const struct stop *s); /* tokens of the answer so far, held ones included */
