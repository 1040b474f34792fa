/* prefix.h - what was read before: find, keep, forget.
 *
 * Snapshots of keys and values (engine/model/kv.h) at the cut points of prompts. They live in what
 * running sequences leave of the memory for keys and values, and give way to them. A snapshot is
 * found only by a prompt of the same tenant that begins with the same ids and the same soft tokens;
 * its sequence then gives the very numbers of one that reads all anew. */
#pragma once
#include "engine/base/status.h"
#include "engine/run/prefix_key.h"
#include <stddef.h>
#include <stdint.h>

struct prefix;   /* opaque: the snapshots of a model */
struct sequence; /* engine/model/model.h */

#define PREFIX_SNAPSHOTS_MAX 256
/* Of a prompt: after the system turn, after its last medium, where the newest turn ends. */
#define PREFIX_CUTS_MAX 3

/* A run of soft slots of which no part can be shared. */
struct prefix_run {
    size_t start, end;     /* positions */
    struct prefix_key key; /* of what is in it: prefix_run_key */
};

/* Where a later prompt may begin to differ. */
struct prefix_cut {
    size_t length; /* tokens before it */
    bool newest;   /* the newest turn ends here: the next turn of the chat makes this one stale */
    struct prefix_key key;
};

/* A prompt with what is known of its beginnings; the arrays outlive it. */
struct prefix_prompt {
    uint64_t tenant;
    const int32_t *ids; /* [n_ids], each >= 0 */
    size_t n_ids;
    const struct prefix_run *runs; /* [n_runs] ascending */
    size_t n_runs;
    struct prefix_cut cuts[PREFIX_CUTS_MAX]; /* ascending; none inside a run; length <= n_ids */
    size_t n_cuts;
    size_t cut;          /* those before it are read */
    size_t found_tokens; /* that it began with, found by prefix_begin */
    struct prefix_key found;
};

MUST_CHECK bool prefix_new(struct prefix **out, struct status *st);
void prefix_free(struct prefix *p); /* before its model is closed */

/* Snapshots there are. */
size_t prefix_snapshots(const struct prefix *p);

/* The name of media that are read together: spans [n_spans][3] start, count and kind, and their
 * values [sum of counts][width] as received. Where they start does not matter. */
struct prefix_key prefix_run_key(const struct prefix *p, const int32_t *spans, size_t n_spans,
                                 const float *soft, size_t width);

/* Name the cuts of a prompt. */
void prefix_name(const struct prefix *p, struct prefix_prompt *prompt);

/* Let a sequence that has read nothing begin with the longest known beginning of its prompt that
 * is shorter than `limit` tokens. Takes no memory. */
void prefix_begin(struct prefix *p, struct prefix_prompt *prompt, struct sequence *s, size_t limit);

/* Around a pass that reads the prompt on up to position `end`: before it, and when it is done.
 * prefix_keep takes memory, and forgets what is worth less when there is no room. */
void prefix_mark(const struct prefix_prompt *prompt, struct sequence *s, size_t end);
void prefix_keep(struct prefix *p, struct prefix_prompt *prompt, struct sequence *s);

/* Forget the least valuable snapshot; false when there is none. A snapshot's value is
 *     age + uses * tokens / bytes
 * where uses counts how often it was found, and once for when it was made; of a newest turn that
 * was followed by the next, these two do not count any more. bytes are those that nobody else
 * holds, age is the value of what was forgotten last when it was last used: so what is not used any
 * more goes in the end, however valuable it was (GreedyDual-Size with frequency, Cherkasova 1998).
 */
bool prefix_forget(struct prefix *p);
