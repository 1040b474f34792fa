/* drafter.c - the drafter of Gemma 4, to be read from top to bottom (spec model.md section 7).
 *
 * A step is short (a sixteenth of the target's weights, a row a sequence), so it is done at once.
 */
#include "engine/model/drafter.h"
#include "engine/base/heap.h"
#include "engine/model/decoder.h"
#include "engine/model/kv.h"
#include "engine/ops/ops.h"
#include <assert.h>
#include <string.h>

struct drafter {
    struct model own; /* without keys and values */
    const struct model *target;
    const struct tensor_view *before; /* [2 * target width][width] */
    const struct tensor_view *after;  /* [width][target width] */
    size_t source[2]; /* the target's layer that full and sliding layers look at: its last ones */
    size_t rows_max;

    int32_t *positions;           /* [rows_max] */
    struct attend_query *queries; /* [rows_max] */
    float *joined;                /* [rows_max][2 * target width] */
    float *y, *branch;            /* [rows_max][width] */
    float *q, *heads;             /* [rows_max][heads][head_dim] */
    float *gated;                 /* [rows_max][ff] */
    float *cos[2], *sin[2];       /* [rows_max][half], full and sliding */
    float *hidden;                /* [rows_max][target width] */
    float *logits;                /* [rows_max][vocabulary] */
    struct activations *act, *inner;
};

/* ---- open */

static bool check_widths(const struct hparams *own, const struct hparams *target, struct status *st)
{
    if (own->width_out != target->width)
        return status_fail(st, STATUS_INVALID,
                           "it drafts for a model of width %zu, this one has %zu: not a pair",
                           own->width_out, target->width);
    if (own->vocabulary != target->vocabulary)
        return status_fail(st, STATUS_INVALID,
                           "its vocabulary has %zu tokens, the model's %zu: not a pair",
                           own->vocabulary, target->vocabulary);
    /* The target keeps keys for its own window only. */
    if (own->window > 0 && (own->window != target->window || own->window < 2))
        return status_fail(st, STATUS_INVALID,
                           "its sliding window is %zu, the model's %zu: not a pair", own->window,
                           target->window);
    return true;
}

/* Layer i looks at the last layer of its kind in the target: same kind, same heads. */
static bool check_layer(const struct hparams *hp, const struct hparams *target, size_t i,
                        size_t source[2], struct status *st)
{
    const struct hparams_layer *own = &hp->layer[i], *theirs = NULL;
    const char *kind = own->sliding ? "sliding" : "full";

    for (size_t t = 0; t < target->layers; t++)
        if (target->layer[t].sliding == own->sliding) {
            theirs = &target->layer[t];
            source[own->sliding] = t;
        }
    if (!theirs)
        return status_fail(st, STATUS_INVALID, "layer %zu is %s, the model has no such layer", i,
                           kind);
    if (own->head_dim != theirs->head_dim || own->kv_heads != theirs->kv_heads)
        return status_fail(st, STATUS_INVALID,
                           "layer %zu (%s): %zu key heads of %zu, the model's have %zu of %zu: not "
                           "a pair",
                           i, kind, own->kv_heads, own->head_dim, theirs->kv_heads,
                           theirs->head_dim);
    return true;
}

/* Read what the file says of itself, and which layers of the target full and sliding ones look at.
 */
static bool read_pair(struct hparams *hp, size_t source[2], const struct weights *w,
                      const struct hparams *target, struct status *st)
{
    struct span name = {0};

    if (!weights_string(w, "general.architecture", &name, st))
        return false;
    if (!span_is(name, HPARAMS_DRAFTER))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "architecture '%.*s' is no drafter: " HPARAMS_DRAFTER " is wanted",
                           (int)(name.size < 64 ? name.size : 64), (const char *)name.data);
    if (!hparams_read(hp, w, HPARAMS_DRAFTER, st) || !check_widths(hp, target, st))
        return false;
    for (size_t i = 0; i < hp->layers; i++)
        if (!check_layer(hp, target, i, source, st))
            return false;
    return true;
}

bool drafter_check(const struct weights *w, const struct hparams *target, struct status *st)
{
    struct hparams *hp = heap_new(1, sizeof *hp);
    size_t source[2];
    bool ok = read_pair(hp, source, w, target, st);

    heap_free(hp);
    return ok || status_wrap(st, "drafter '%s'", weights_path(w));
}

static void make_room(struct drafter *d)
{
    const struct hparams *hp = &d->own.hp;
    size_t n = d->rows_max, out = hp->width_out, q = 0;
    size_t widest = 2 * out > hp->width ? 2 * out : hp->width;

    for (size_t i = 0; i < hp->layers; i++)
        q = hp->heads * hp->layer[i].head_dim > q ? hp->heads * hp->layer[i].head_dim : q;
    widest = q > widest ? q : widest;
    d->positions = heap_array(int32_t, n);
    d->queries = heap_array(struct attend_query, n);
    d->joined = heap_array(float, n * 2 * out);
    d->y = heap_array(float, n * hp->width);
    d->branch = heap_array(float, n * hp->width);
    d->q = heap_array(float, n *q);
    d->heads = heap_array(float, n *q);
    d->gated = heap_array(float, n * hp->ff);
    for (size_t kind = 0; kind < 2; kind++) {
        d->cos[kind] = heap_array(float, n * d->own.half[kind]);
        d->sin[kind] = heap_array(float, n * d->own.half[kind]);
    }
    d->hidden = heap_array(float, n *out);
    d->logits = heap_array(float, n * hp->vocabulary);
    d->act = activations_new(n, widest);
    d->inner = activations_new(n, hp->ff);
}

bool drafter_open(struct drafter **out, const struct weights *w, struct model *target,
                  size_t rows_max, struct status *st)
{
    struct drafter *d = heap_new(1, sizeof *d);
    struct hparams *hp = &d->own.hp;

    assert(rows_max >= 1);
    d->own.weights = w;
    d->own.architecture = &gemma4_architecture; /* whose layers it has, without keys and values */
    d->own.ops = ops_beside(target->ops);
    d->target = target;
    d->rows_max = rows_max;
    if (!read_pair(hp, d->source, w, &target->hp, st) || !decoder_borrow_all(&d->own, st) ||
        !decoder_borrow(&d->own, "nextn.pre_projection.weight", 2 * hp->width_out, hp->width,
                        &d->before, st) ||
        !decoder_borrow(&d->own, "nextn.post_projection.weight", hp->width, hp->width_out,
                        &d->after, st) ||
        !decoder_lay_out(&d->own, NULL, NULL, st))
        goto fail;
    make_room(d);
    *out = d;
    return true;
fail:
    drafter_close(d);
    return status_wrap(st, "drafter '%s'", weights_path(w));
}

void drafter_close(struct drafter *d)
{
    if (!d)
        return;
    activations_free(d->act);
    activations_free(d->inner);
    heap_free(d->positions);
    heap_free(d->queries);
    heap_free(d->joined);
    heap_free(d->y);
    heap_free(d->branch);
    heap_free(d->q);
    heap_free(d->heads);
    heap_free(d->gated);
    for (size_t kind = 0; kind < 2; kind++) {
        heap_free(d->cos[kind]);
        heap_free(d->sin[kind]);
    }
    heap_free(d->hidden);
    heap_free(d->logits);
    ops_free(d->own.ops);
    decoder_clear(&d->own);
    heap_free(d);
}

/* ---- a step */

/* out = w x */
static void product(const struct drafter *d, float *out, const struct tensor_view *w,
                    struct activations *x)
{
    ops_matmul(d->own.ops, out, w->dims[1], w, 0, w->dims[1], x);
}

/* y = W_pre (embedding of the token by the target, its normed stream) */
static void embed(struct drafter *d, const struct drafter_row *rows, size_t n)
{
    const struct model *target = d->target;
    size_t width = target->hp.width;

    for (size_t r = 0; r < n; r++) {
        float *e = d->joined + r * 2 * width;
        ops_row(e, target->embedding, (size_t)rows[r].token);
        for (size_t j = 0; j < width; j++)
            e[j] *= target->embedding_scale;
        memcpy(e + width, rows[r].hidden, width * sizeof *e);
    }
    activations_set(d->act, d->joined, n, 2 * width);
    product(d, d->y, d->before, d->act);
}

/* All that the target has read is in the past; the place of the guess itself is not there yet. */
static void attend(struct drafter *d, size_t i, const struct drafter_row *rows, size_t n)
{
    const struct hparams *hp = &d->own.hp;
    const struct hparams_layer *layer = &hp->layer[i];
    size_t source = d->source[layer->sliding], q = hp->heads * layer->head_dim;
    struct attend_shape shape = {.heads = hp->heads,
                                 .kv_heads = layer->kv_heads,
                                 .head_dim = layer->head_dim,
                                 .type = kv_type(d->target->kv)};

    for (size_t r = 0; r < n; r++) {
        size_t position = (size_t)d->positions[r];
        d->queries[r] = (struct attend_query){
            .q = d->q + r * q,
            .out = d->heads + r * q,
            .keys = kv_line_keys(rows[r].sequence->line, source),
            .values = kv_line_values(rows[r].sequence->line, source),
            .first = layer->sliding && position >= hp->window ? position + 1 - hp->window : 0,
            .end = position,
        };
    }
    ops_attend(d->own.ops, &shape, d->queries, n);
}

/* y = (y + RMSNorm(branch)) * scale */
static void add(struct drafter *d, const float *norm, float scale, size_t n)
{
    const struct hparams *hp = &d->own.hp;

    ops_add_norm(d->own.ops, d->y, d->branch, norm, n, hp->width, hp->eps, scale);
}

static void layer(struct drafter *d, size_t i, const struct drafter_row *rows, size_t n)
{
    const struct hparams *hp = &d->own.hp;
    const struct layer *w = &d->own.layer[i];
    const struct ops *ops = d->own.ops;
    size_t dim = hp->layer[i].head_dim;
    bool kind = hp->layer[i].sliding;

    activations_set_norm(d->act, d->branch, d->y, w->attn_norm, n, hp->width, hp->eps);
    product(d, d->q, w->q, d->act);
    ops_rmsnorm(ops, d->q, d->q, w->q_norm, n * hp->heads, dim, hp->eps);
    ops_rope(ops, d->q, d->cos[kind], d->sin[kind], n, hp->heads, dim / 2);
    attend(d, i, rows, n);
    activations_set(d->act, d->heads, n, hp->heads * dim);
    product(d, d->branch, w->o, d->act);
    add(d, w->post_attn_norm, 1, n);

    activations_set_norm(d->act, d->branch, d->y, w->ffn_norm, n, hp->width, hp->eps);
    ops_gated_begin(ops, d->inner, d->gated, n, w->down);
    ops_gated(ops, d->inner, w->gate, w->up, 0, hp->ff, d->act);
    product(d, d->branch, w->down, d->inner);
    add(d, w->post_ffn_norm, w->scale, n);
}

const float *drafter_step(struct drafter *d, const struct drafter_row *rows, size_t n)
{
    const struct hparams *hp = &d->own.hp;

    assert(n >= 1 && n <= d->rows_max);
    for (size_t r = 0; r < n; r++) {
        assert(rows[r].sequence->length >= 1 && !rows[r].sequence->in);
        assert(rows[r].token >= 0 && (size_t)rows[r].token < hp->vocabulary);
        /* The same for all guesses of a round: that of the first token. */
        d->positions[r] = (int32_t)rows[r].sequence->length;
    }
    for (size_t kind = 0; kind < 2; kind++)
        if (d->own.half[kind] > 0)
            ops_rope_angles(d->cos[kind], d->sin[kind], d->positions, n, d->own.frequencies[kind],
                            d->own.half[kind]);
    embed(d, rows, n);
    for (size_t i = 0; i < hp->layers; i++)
        layer(d, i, rows, n);
    activations_set_norm(d->act, d->branch, d->y, d->own.norm, n, hp->width, hp->eps);
    product(d, d->hidden, d->after, d->act);
    product(d, d->logits, d->own.embedding, d->act);
    for (size_t r = 0; r < n; r++)
        memcpy(rows[r].hidden, d->hidden + r * hp->width_out, hp->width_out * sizeof(float));
    return d->logits;
}
