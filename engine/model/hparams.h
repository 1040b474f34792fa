/* hparams.h - the numbers that say how a decoder is built, read from its metadata and checked. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define HPARAMS_LAYERS_MAX 256
#define HPARAMS_SUPPRESSED_MAX 64
#define HPARAMS_DRAFTER "gemma4-assistant" /* the architecture of drafters */
/* Bounds of what one number may be: far above any published model, far below what overflows. */
#define HPARAMS_WIDTH_MAX 65536 /* of the residual stream, and of one head */
#define HPARAMS_FF_MAX 1048576  /* of the MLP */
#define HPARAMS_HEADS_MAX 1024
#define HPARAMS_EXPERTS_MAX 1024
#define HPARAMS_CONTEXT_MAX 4194304 /* positions; below 2^24, where float32 still counts */

struct weights; /* engine/weights/weights.h */

struct hparams_layer {
    bool sliding;    /* sees only the last `window` positions */
    bool value_own;  /* has attn_v; else the values are the raw key projection */
    size_t kv_heads; /* divides heads */
    size_t head_dim; /* even */
};

struct hparams {
    char arch[32]; /* prefix of the keys: "gemma4" */
    size_t layers, width, ff, heads, vocabulary;
    size_t experts, experts_used; /* of a layer, of a token; 0: the model has none */
    size_t expert_ff;             /* width of one expert */
    size_t context;               /* positions the model was made for */
    size_t width_out;             /* of a drafter: the width of the model it drafts for; else 0 */
    size_t window;  /* keys a sliding layer sees, the query's own included; 0: no such layer */
    float eps;      /* of every RMS norm */
    float soft_cap; /* of the logits; 0: none */
    float theta_full, theta_sliding; /* bases of the rotary wavelengths */
    size_t n_suppressed;
    int32_t suppressed[HPARAMS_SUPPRESSED_MAX]; /* ids whose logits mean nothing, ascending */
    struct hparams_layer layer[HPARAMS_LAYERS_MAX];
};

/* Read the metadata of architecture `arch` and check them against each other and against the
 * tensors there are (spec weights.md sections 3.1, 7.1). STATUS_UNSUPPORTED, in words: per-layer
 * embeddings, shared KV layers (of a drafter: any that are not), layers of different MLP width.
 * *out is untouched on failure. */
MUST_CHECK bool hparams_read(struct hparams *out, const struct weights *w, const char *arch,
                             struct status *st);
