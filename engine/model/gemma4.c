/* gemma4.c - one layer of Gemma 4, to be read from top to bottom (spec model.md section 3.3; the
 * experts of the 26B-A4B are in experts.c).
 *
 * A layer is a list of steps, a step is done in tiles of about 10 ms. A step works on all rows of
 * the pass; products go by output rows, the rest by tokens. */
#include "engine/model/decoder.h"
#include "engine/model/kv.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static bool borrow_vectors(struct model *m, size_t i, struct status *st)
{
    struct layer *layer = &m->layer[i];
    size_t d = m->hp.layer[i].head_dim, width = m->hp.width;
    const float *scale = NULL;
    const struct {
        const char *name;
        size_t n;
        const float **out;
    } vectors[] = {
        {"attn_norm", width, &layer->attn_norm},
        {"post_attention_norm", width, &layer->post_attn_norm},
        {"ffn_norm", width, &layer->ffn_norm},
        {"post_ffw_norm", width, &layer->post_ffn_norm},
        {"attn_q_norm", d, &layer->q_norm},
        {"attn_k_norm", d, &layer->k_norm},
        {"layer_output_scale", 1, &scale},
    };

    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
        char name[64];
        if (vectors[v].out == &layer->k_norm && m->hp.width_out > 0)
            continue;
        (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", i, vectors[v].name);
        if (!weights_borrow_f32(m->weights, name, vectors[v].n, vectors[v].out, st))
            return false;
    }
    layer->scale = *scale;
    return true;
}

static bool borrow(struct model *m, size_t i, struct status *st)
{
    const struct hparams_layer *shape = &m->hp.layer[i];
    struct layer *layer = &m->layer[i];
    size_t width = m->hp.width, ff = m->hp.ff;
    size_t q = m->hp.heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    const struct {
        const char *name;
        size_t in, out;
        const struct tensor_view **view;
    } matrices[] = {
        {"attn_q", width, q, &layer->q},       {"attn_k", width, kv, &layer->k},
        {"attn_v", width, kv, &layer->v},      {"attn_output", q, width, &layer->o},
        {"ffn_gate", width, ff, &layer->gate}, {"ffn_up", width, ff, &layer->up},
        {"ffn_down", ff, width, &layer->down},
    };

    for (size_t t = 0; t < sizeof matrices / sizeof matrices[0]; t++) {
        char name[64];
        if (matrices[t].view == &layer->v && !shape->value_own)
            continue;
        if (matrices[t].view == &layer->k && m->hp.width_out > 0)
            continue;
        (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", i, matrices[t].name);
        if (!decoder_borrow(m, name, matrices[t].in, matrices[t].out, matrices[t].view, st))
            return false;
    }
    return borrow_vectors(m, i, st) && experts_borrow(m, i, st);
}

/* ---- tiles: each does some of a step and says whether the step is done */

/* RMSNorm_weight(x) is to be multiplied. */
static bool norm_before(struct forward *f, const float *weight)
{
    const struct hparams *hp = &f->model->hp;

    activations_set_norm(f->act, f->branch, f->x, weight, f->n, hp->width, hp->eps);
    return true;
}

/* x = (x + RMSNorm_weight(branch)) * scale */
static bool norm_after(struct forward *f, const float *weight, float scale, const char *name)
{
    const struct hparams *hp = &f->model->hp;

    ops_add_norm(f->model->ops, f->x, f->branch, weight, f->n, hp->width, hp->eps, scale);
    forward_note(f, name, f->x, f->n, hp->width);
    return true;
}

/* Normalise and turn the heads, and append keys and values to the sequences' lines. */
static bool append(struct forward *f)
{
    const struct model *m = f->model;
    size_t i = f->cursor.layer;
    const struct hparams_layer *shape = &m->hp.layer[i];
    const struct layer *layer = &m->layer[i];
    size_t d = shape->head_dim, kv = shape->kv_heads, heads = m->hp.heads;
    const float *cos = f->cos[shape->sliding], *sin = f->sin[shape->sliding];

    /* The values first: without attn_v they are the keys before their norm and rotation. */
    ops_rmsnorm(m->ops, f->v, layer->v ? f->v : f->k, NULL, f->n * kv, d, m->hp.eps);
    ops_rmsnorm(m->ops, f->k, f->k, layer->k_norm, f->n * kv, d, m->hp.eps);
    ops_rmsnorm(m->ops, f->q, f->q, layer->q_norm, f->n * heads, d, m->hp.eps);
    ops_rope(m->ops, f->k, cos, sin, f->n, kv, d / 2);
    ops_rope(m->ops, f->q, cos, sin, f->n, heads, d / 2);
    forward_note(f, "q", f->q, f->n, heads * d);
    forward_note(f, "k", f->k, f->n, kv * d);
    forward_note(f, "v", f->v, f->n, kv * d);
    for (size_t r = 0; r < f->n; r++)
        f->places[r] = kv_line_place(f->inputs[r].sequence->line, i, (size_t)f->positions[r]);
    struct attend_shape pages = kv_shape(m->kv, i);
    ops_store(m->ops, &pages, f->places, f->n, f->k, f->v);
    return true;
}

/* What row r may see in this layer (spec model.md section 4): full layers the past; sliding layers
 * the window's part of it, and the slots of the row's own picture that follow. */
static struct attend_query query(const struct forward *f, size_t r)
{
    const struct hparams *hp = &f->model->hp;
    const struct hparams_layer *shape = &hp->layer[f->cursor.layer];
    const struct kv_line *line = f->inputs[r].sequence->line;
    size_t position = (size_t)f->positions[r];
    struct attend_query q = {
        .q = f->q + r * hp->heads * shape->head_dim,
        .out = f->heads + r * hp->heads * shape->head_dim,
        .keys = kv_line_keys(line, f->cursor.layer),
        .values = kv_line_values(line, f->cursor.layer),
        .first = 0,
        .end = position + 1,
    };

    if (shape->sliding) {
        q.first = position >= hp->window ? position + 1 - hp->window : 0;
        q.end = f->block_end[r] > q.end ? f->block_end[r] : q.end;
    }
    return q;
}

/* A tile of a row that sees so much that a tile is not enough; true when it has seen all. */
static bool attend_long(struct forward *f, const struct attend_shape *shape,
                        const struct attend_query *q, double unit)
{
    size_t begin = f->cursor.part, left, keys;

    begin = begin > 0 ? begin : q->first / ATTEND_GROUP_KEYS * ATTEND_GROUP_KEYS;
    left = (q->end - begin + ATTEND_GROUP_KEYS - 1) / ATTEND_GROUP_KEYS;
    keys = forward_tile(f, left, unit * ATTEND_GROUP_KEYS, 1) * ATTEND_GROUP_KEYS;
    ops_attend_some(f->model->ops, shape, q, &f->seen, begin, begin + keys);
    f->cursor.part = begin + keys < q->end ? begin + keys : 0;
    return f->cursor.part == 0;
}

static bool attend(struct forward *f)
{
    const struct model *m = f->model;
    struct attend_shape shape = kv_shape(m->kv, f->cursor.layer);
    double unit = 2 * (double)(shape.heads * shape.head_dim), cost = 0;
    size_t begin = f->cursor.at, end = begin;

    /* Each row sees as much as it sees: the first one of a picture little, the others all of it. */
    do {
        const struct attend_query *q = &f->queries[end];
        f->queries[end] = query(f, end);
        cost += unit * (double)(q->end - q->first);
        end++;
    } while (end < f->n && f->cursor.part == 0 && cost < forward_tile_cost(f));
    if (end == begin + 1 && (f->cursor.part > 0 || cost > 2 * forward_tile_cost(f))) {
        if (!attend_long(f, &shape, &f->queries[begin], unit))
            return false;
    } else {
        f->tile_cost += cost;
        ops_attend(m->ops, &shape, f->queries + begin, end - begin);
    }
    f->cursor.at = end;
    if (end < f->n)
        return false;
    activations_set(f->inner, f->heads, f->n, shape.heads * shape.head_dim);
    forward_note(f, "attention", f->heads, f->n, shape.heads * shape.head_dim);
    return true;
}

enum step {
    NORM_ATTENTION,
    QUERIES,
    KEYS,
    VALUES,
    APPEND,
    ATTEND,
    OUTPUT,
    ADD_ATTENTION,
    NORM_MLP,
    GATED,
    DOWN,
    EXPERTS,
    ADD_MLP,
    STEPS
};

/* The layer, step by step. */
static bool tile(struct forward *f)
{
    const struct model *m = f->model;
    const struct layer *layer = &m->layer[f->cursor.layer];
    const struct hparams_layer *shape = &m->hp.layer[f->cursor.layer];
    size_t q = m->hp.heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;

    switch ((enum step)f->cursor.step) {
    case NORM_ATTENTION:
        return norm_before(f, layer->attn_norm);
    case QUERIES:
        return forward_product(f, f->q, q, layer->q, f->act);
    case KEYS:
        return forward_product(f, f->k, kv, layer->k, f->act);
    case VALUES:
        return !layer->v || forward_product(f, f->v, kv, layer->v, f->act);
    case APPEND:
        return append(f);
    case ATTEND:
        return attend(f);
    case OUTPUT:
        return forward_product(f, f->branch, m->hp.width, layer->o, f->inner);
    case ADD_ATTENTION:
        return norm_after(f, layer->post_attn_norm, 1, "after_attention");
    case NORM_MLP:
        return norm_before(f, layer->ffn_norm);
    case GATED:
        return forward_gated(f, f->gated, layer->gate, layer->up, layer->down);
    case DOWN:
        return forward_product(f, f->branch, m->hp.width, layer->down, f->inner);
    case EXPERTS:
        return !layer->experts.router || experts_tile(f);
    case ADD_MLP:
        return norm_after(f, layer->post_ffn_norm, layer->scale, "out");
    case STEPS:
        break;
    }
    assert(f->cursor.step < STEPS);
    return true;
}

static bool advance(struct forward *f)
{
    if (!tile(f))
        return false;
    f->cursor = (struct cursor){.layer = f->cursor.layer, .step = f->cursor.step + 1};
    return f->cursor.step == STEPS;
}

const struct architecture gemma4_architecture = {
    .name = "gemma4",
    .borrow = borrow,
    .advance = advance,
};
