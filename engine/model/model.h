/* model.h - a decoder: prompts in, logits out; the table of architectures. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct model;
struct sequence;    /* one timeline of tokens with its keys and values */
struct kv;          /* engine/model/kv.h */
struct kv_snapshot; /* engine/model/kv.h */
struct pool;        /* engine/base/pool.h */
struct weights;     /* engine/weights/weights.h */
struct hparams;     /* engine/model/hparams.h */

struct model_options {
    bool exact;          /* activations stay float32; else they are rounded to 8 bits per block
                            against quantized weights */
    bool as_stored;      /* matrices stay in the file's layout: slower, the same numbers */
    const char *kv_type; /* "f16", "q8" or "f32" (kv_type_read in kv.h); NULL as "" */
    size_t context_max;  /* positions of one sequence */
    size_t kv_bytes;     /* memory for keys and values of all sequences together */
    /* Told while matrices are laid out for the kernels; NULL: nobody. */
    void (*progress)(void *context, size_t done_bytes, size_t all_bytes);
    void *progress_context;
};

/* Borrow the tensors of a decoder; refuses, naming it, what is missing or has another shape. The
 * weights and the pool (may be NULL) must outlive the model. Fails too when the file cannot be read
 * while its matrices are laid out (STATUS_CORRUPT: it became shorter). */
MUST_CHECK bool model_open(struct model **out, const struct weights *w, struct pool *pool,
                           const struct model_options *options, struct status *st);
void model_close(struct model *m);
const struct hparams *model_hparams(const struct model *m);
/* Build, kernel set, precision and key/value type: equal text means equal bits for equal input. */
const char *model_numerics(const struct model *m);

/* Memory of matrices that were laid out for the kernels, and then the whole file was read through;
 * 0: none were, since the kernels read them as they are stored, or, when memory_short, since there
 * was no room: slower, the same numbers. */
size_t model_laid_out_bytes(const struct model *m);
bool model_memory_short(const struct model *m);

/* For what it says of memory. */
const struct kv *model_kv(const struct model *m);

/* Bytes that a sequence of tokens_max positions takes of kv_bytes. */
size_t model_sequence_bytes(const struct model *m, size_t tokens_max);

/* Whether a sequence of tokens_max positions fits into kv_bytes now; and whether it would if all
 * snapshots made room. */
bool model_fits(const struct model *m, size_t tokens_max);
bool model_could(const struct model *m, size_t tokens_max);

/* STATUS_BUSY when tokens_max more positions do not fit into kv_bytes. */
MUST_CHECK bool sequence_new(struct sequence **out, struct model *m, size_t tokens_max,
                             struct status *st);
void sequence_free(struct sequence *s);
size_t sequence_length(const struct sequence *s); /* tokens read so far */

/* As if `length` tokens had been read, with keys and values that mean nothing: to measure what
 * comes behind them. The sequence has read nothing; length < its tokens_max. */
void sequence_pretend(struct sequence *s, size_t length);

/* Forget the tokens from position `length` on. It must lie behind the first row of the sequence's
 * last pass that asked for logits, and at most SEQUENCE_BACK_MAX tokens back; and no pass may be
 * under way. Reads on as if they had never been there. */
#define SEQUENCE_BACK_MAX 32
void sequence_take_back(struct sequence *s, size_t length);

/* A prefix that was read before (engine/model/kv.h): a sequence that begins with it gives the very
 * numbers of one that reads it anew. The cut may not be inside a picture.
 *
 * sequence_mark says, before the pass that reads past it, where a snapshot will be wanted (the
 * first place of several); sequence_snapshot takes it when the pass is done, sequence_unmark ends
 * it. */
void sequence_mark(struct sequence *s, size_t position);
void sequence_unmark(struct sequence *s);
/* STATUS_BUSY: no room for as many bytes as sequence_snapshot_need says. */
size_t sequence_snapshot_need(const struct sequence *s, size_t length);
MUST_CHECK bool sequence_snapshot(struct kv_snapshot **out, struct sequence *s, size_t length,
                                  struct status *st);
/* Let a sequence that has read nothing begin with the snapshot's tokens; it must have room for one
 * more. */
void sequence_share(struct sequence *s, const struct kv_snapshot *snapshot);

/* A token, or a soft slot, to be read next. */
struct model_input {
    struct sequence *sequence;
    const float *soft; /* [width] of a soft slot: taken as it is, not scaled */
    float *logits; /* [vocabulary] to be filled, soft-capped, suppressed ids -infinity; or NULL */
    float *hidden; /* [width] to be filled beside the logits: the normed stream they are made from,
                      which a drafter begins with; or NULL */
    int32_t id;    /* of a token; ignored when soft is there */
    int32_t block; /* -1; slots of one picture share a number >= 0 and must be in one forward */
};

/* One pass through the layers for up to rows_max tokens, with its own scratch memory. Several may
 * be under way in turn (a long prefill, and decode steps between), as long as a sequence is in one
 * only. */
struct forward;
struct forward *forward_new(struct model *m, size_t rows_max);
void forward_free(struct forward *f);

/* Begin reading inputs [n], 1 <= n <= rows_max, each sequence's inputs in order and together; they
 * may belong to several sequences. Then call forward_advance until it returns true: it works for
 * about budget_us and returns at the next border of a layer or tile. Where it returns never changes
 * a number. forward_abandon drops an unfinished pass: the sequences are as before it. */
void forward_begin(struct forward *f, const struct model_input *inputs, size_t n);
bool forward_advance(struct forward *f, int64_t budget_us);
void forward_abandon(struct forward *f);

/* Intermediate values of a pass as it goes, for comparison with a reference. values [rows][width]
 * (valid during the call) of all rows, in the order of the inputs:
 *   "embedding" and "hidden" (the normed stream; only rows that ask for logits), layer 0; and of
 *   every layer "q", "k", "v" (turned, [heads][head_dim]), "attention", "after_attention" and "out"
 *   (the residual stream); with experts also "router" (probability of each), "experts" (numbers of
 *   the chosen ones, best first) and "expert_weights". */
typedef void forward_watch(void *context, size_t layer, const char *name, const float *values,
                           size_t rows, size_t width);
/* watch NULL: none. */
void forward_trace(struct forward *f, forward_watch *watch, void *context);
