/* decoder.h - what model.c, forward.c and the architectures share; not for callers of the engine.
 */
#pragma once
#include "engine/base/arena.h"
#include "engine/kernels/attend.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/ops/ops.h"
#include "engine/weights/weights.h"
#include <stddef.h>
#include <stdint.h>

struct kv;      /* engine/model/kv.h */
struct kv_line; /* engine/model/kv.h */
struct forward;

/* What a layer with experts has beside the MLP; an expert is a slab of the third dimension. */
struct layer_experts {
    const struct tensor_view *router;  /* [width][experts]; NULL: no experts */
    const struct tensor_view *gate_up; /* [width][2 * expert_ff][experts], gates first */
    const struct tensor_view *down;    /* [expert_ff][width][experts] */
    const float *router_scale;         /* [width] */
    const float *scale;                /* [experts] */
    /* [width] after the MLP, before the experts, after them */
    const float *post_mlp_norm, *norm, *post_norm;
};

/* The weights of one layer; matrices have dims [in][out], in contiguous. */
struct layer {
    const float *attn_norm, *post_attn_norm, *ffn_norm, *post_ffn_norm; /* [width] */
    const float *q_norm, *k_norm;                                       /* [head_dim] */
    const struct tensor_view *q, *k, *v, *o; /* v NULL: values are the raw keys. k, k_norm NULL: a
                                                drafter's, which looks at its target's */
    const struct tensor_view *gate, *up, *down;
    struct layer_experts experts;
    float scale; /* of the residual stream after the layer */
};

/* One architecture. A pass is a list of steps per layer, each cut into tiles. */
struct architecture {
    const char *name; /* general.architecture */
    /* Borrow the weights of layer i. */
    bool (*borrow)(struct model *m, size_t i, struct status *st);
    /* Do one tile of the current step of the current layer; true when the layer is finished. */
    bool (*advance)(struct forward *f);
};
extern const struct architecture gemma4_architecture; /* gemma4.c */

struct model {
    const struct architecture *architecture;
    const struct weights *weights;
    struct hparams hp;
    struct ops *ops;
    struct kv *kv;
    size_t context_max;
    const struct tensor_view *embedding; /* also the head */
    const float *norm;                   /* [width] */
    float embedding_scale;
    float *frequencies[2]; /* of the rotary embedding: full layers, sliding ones; [head_dim / 2] */
    size_t half[2];        /* head_dim / 2 of each; 0: no such layer */
    struct layer *layer;
    bool memory_short; /* for another layout of its matrices */
    char numerics[160];
};

struct sequence {
    struct model *model;
    struct kv_line *line;
    size_t length, tokens_max;
    size_t length_min;        /* that it can be taken back to */
    size_t mark;              /* sequence_mark; SIZE_MAX: none */
    const struct forward *in; /* the pass that reads it now, or NULL */
};

/* Make the layers and borrow the weights of all of them, the embedding, the norm and the rotary
 * frequencies; m has its architecture, weights and hparams. model_close or decoder_clear undoes it,
 * also when it failed. */
MUST_CHECK bool decoder_borrow_all(struct model *m, struct status *st);
void decoder_clear(struct model *m);
/* Lay out all matrices of the file for the kernels, as ops_lay_out says; progress: NULL, or told.
 * When memory is too short they stay as they are, and m says so; fails when the file cannot be
 * read. */
MUST_CHECK bool decoder_lay_out(struct model *m,
                                void (*progress)(void *context, size_t done, size_t all),
                                void *progress_context, struct status *st);

/* How far a pass is. `at` counts what is done of the step: output rows of a product, tokens of all
 * else. The step of the experts has parts of its own, some of them again for each expert; a row
 * that sees very much has parts by its keys: `part` is the next of them. */
struct cursor {
    size_t layer, step, at;
    size_t part, expert;
};

/* A matrix of a model by name; refuses one of another shape or of a type that holds no weights. */
MUST_CHECK bool decoder_borrow(const struct model *m, const char *name, size_t in, size_t out,
                               const struct tensor_view **view, struct status *st);
/* The same for a stack of matrices, dims [in][out][slabs] as stored: in contiguous. */
MUST_CHECK bool decoder_borrow_slabs(const struct model *m, const char *name, const size_t dims[3],
                                     const struct tensor_view **view, struct status *st);

/* Output rows [first, first + n) of a matrix, or of all slabs one below the other, as a matrix. */
struct tensor_view decoder_rows(const struct tensor_view *w, size_t first, size_t n);

/* What the experts of a layer work on (experts.c). Floats share memory with q, k and v. */
struct expert_rows {
    float *probability; /* [n][experts] */
    float *weight;      /* [n][experts_used] */
    int32_t *chosen;    /* [n][experts_used] best first */
    uint32_t *order;    /* [n * experts_used] indices of `chosen`, by expert, then by token */
    size_t *begin;      /* [experts + 1] of an expert in `order` */
    float *x;           /* [n][width] what all experts get */
    float *in, *out;    /* [n][width] the rows of one expert's tokens */
    float *gated;       /* [n][expert_ff] */
    float *sum;         /* [n][width] what the experts say */
};
/* Memory for up to rows_max tokens; nothing when the model has no experts. */
void experts_init(struct expert_rows *e, const struct hparams *hp, size_t rows_max);
void experts_clear(struct expert_rows *e);
/* Floats per token in the memory that is shared, and their places in it. */
size_t experts_floats(const struct hparams *hp);
void experts_lay_out(struct expert_rows *e, const struct hparams *hp, float *memory, size_t n);
/* The weights of layer i, or nothing when it has no router. */
MUST_CHECK bool experts_borrow(struct model *m, size_t i, struct status *st);
/* One tile of the step between the MLP's last product and its norm; true when the step is done:
 * branch [n][width] = RMSNorm(branch) + RMSNorm(experts(x)). */
bool experts_tile(struct forward *f);

/* A pass of n rows (tokens). Arrays below are of the pass's arena, made anew by forward_begin. */
struct forward {
    struct model *model;
    size_t rows_max, n;
    bool active, head; /* head: the layers are done */
    struct cursor cursor;
    double cost_per_us; /* multiplications, as measured: sizes the tiles, never a number */
    double tile_cost;   /* of the tile being done */

    struct model_input *inputs;   /* [rows_max] */
    int32_t *positions;           /* [rows_max] */
    struct attend_query *queries; /* [rows_max] */
    struct attend_place *places;  /* [rows_max] */
    struct attend_part seen;      /* [heads] rows: of a row whose keys take many tiles */
    size_t *block_end; /* [rows_max] end of the positions a slot sees within its picture; or 0 */

    struct arena arena;
    float *x;                 /* [n][width] residual stream */
    float *branch;            /* [n][width] what is added to it next, or its norm */
    float *q, *k, *v, *heads; /* [n][heads or kv_heads][head_dim]; share memory with the MLP */
    struct expert_rows experts;
    float *gated;           /* [n][ff] */
    float *cos[2], *sin[2]; /* [n][half], full and sliding */
    float *logits;          /* [rows with logits][a tile of the vocabulary] */
    size_t n_logits;
    struct activations *act;   /* the normed stream */
    struct activations *inner; /* heads, or what is gated: apart, since memory that all threads have
                                  just read is slow to write (tests/bench/LOG.md) */

    forward_watch *watch; /* NULL: none */
    void *watch_context;
};

/* Show values [n][width] of the current layer to whoever traces the pass. */
void forward_note(const struct forward *f, const char *name, const float *values, size_t n,
                  size_t width);

/* Multiplications that fit into about a tile's time. */
double forward_tile_cost(const struct forward *f);
/* How many of `left` units of unit_cost multiplications each the next tile takes: what fits into
 * about a tile's time, but at least `least` of them, and a multiple of it unless they are the last.
 */
size_t forward_tile(struct forward *f, size_t left, double unit_cost, size_t least);

/* One tile of out [rows of x][stride] = w * x, from cursor.at on; true when all is there. */
bool forward_product(struct forward *f, float *out, size_t stride, const struct tensor_view *w,
                     struct activations *x);
/* One tile of f->inner = gelu(gate * f->act) * (up * f->act), to be multiplied with `next`;
 * made: as ops_gated_begin has it. */
bool forward_gated(struct forward *f, float *made, const struct tensor_view *gate,
                   const struct tensor_view *up, const struct tensor_view *next);
