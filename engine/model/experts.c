/* experts.c - the mixture of experts beside the MLP (26B-A4B; spec model.md section 8.1).
 *
 * Tokens are grouped by expert, so a pass reads each expert that anybody chose once. Experts come
 * in the order of their numbers: a token's sum has the order of its own choice, whoever else is in
 * the pass. */
#include "engine/base/heap.h"
#include "engine/model/decoder.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void experts_init(struct expert_rows *e, const struct hparams *hp, size_t rows_max)
{
    *e = (struct expert_rows){0};
    if (hp->experts == 0)
        return;
    e->chosen = heap_array(int32_t, rows_max * hp->experts_used);
    e->order = heap_array(uint32_t, rows_max * hp->experts_used);
    e->begin = heap_array(size_t, hp->experts + 1);
}

void experts_clear(struct expert_rows *e)
{
    heap_free(e->chosen);
    heap_free(e->order);
    heap_free(e->begin);
    *e = (struct expert_rows){0};
}

size_t experts_floats(const struct hparams *hp)
{
    return hp->experts == 0 ? 0 : 4 * hp->width + hp->expert_ff + hp->experts + hp->experts_used;
}

void experts_lay_out(struct expert_rows *e, const struct hparams *hp, float *memory, size_t n)
{
    float **const parts[] = {&e->x,     &e->in,          &e->out,   &e->sum,
                             &e->gated, &e->probability, &e->weight};
    const size_t sizes[] = {hp->width,     hp->width,   hp->width,       hp->width,
                            hp->expert_ff, hp->experts, hp->experts_used};

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i] = memory;
        memory += n * sizes[i];
    }
}

bool experts_borrow(struct model *m, size_t i, struct status *st)
{
    struct layer_experts *e = &m->layer[i].experts;
    size_t width = m->hp.width, ff = m->hp.expert_ff, n = m->hp.experts;
    const struct {
        const char *name;
        size_t dims[3];
        const struct tensor_view **view;
    } matrices[] = {
        {"ffn_gate_up_exps.weight", {width, 2 * ff, n}, &e->gate_up},
        {"ffn_down_exps.weight", {ff, width, n}, &e->down},
    };
    const struct {
        const char *name;
        size_t n;
        const float **out;
    } vectors[] = {
        {"ffn_gate_inp.scale", width, &e->router_scale},
        {"ffn_down_exps.scale", n, &e->scale},
        {"post_ffw_norm_1.weight", width, &e->post_mlp_norm},
        {"pre_ffw_norm_2.weight", width, &e->norm},
        {"post_ffw_norm_2.weight", width, &e->post_norm},
    };
    char name[64];

    (void)snprintf(name, sizeof name, "blk.%zu.ffn_gate_inp.weight", i);
    if (!weights_find(m->weights, name))
        return true;
    if (!decoder_borrow(m, name, width, n, &e->router, st))
        return false;
    for (size_t t = 0; t < sizeof matrices / sizeof matrices[0]; t++) {
        (void)snprintf(name, sizeof name, "blk.%zu.%s", i, matrices[t].name);
        if (!decoder_borrow_slabs(m, name, matrices[t].dims, matrices[t].view, st))
            return false;
    }
    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
        (void)snprintf(name, sizeof name, "blk.%zu.%s", i, vectors[v].name);
        if (!weights_borrow_f32(m->weights, name, vectors[v].n, vectors[v].out, st))
            return false;
    }
    return true;
}

/* ---- the parts of the step; each does a tile and says whether the part is done */

/* What the router looks at: the normed stream, by its own scale and by width^-0.5. */
static bool look(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;
    struct expert_rows *e = &f->experts;
    float root = (float)(1 / sqrt((double)hp->width));

    ops_rmsnorm(f->model->ops, e->in, f->x, layer->router_scale, f->n, hp->width, hp->eps);
    for (size_t i = 0; i < f->n * hp->width; i++)
        e->in[i] *= root;
    activations_set(f->act, e->in, f->n, hp->width);
    return true;
}

/* The `used` experts of the largest probabilities, best first; of equal ones the lower number. */
static void choose_row(int32_t *chosen, float *weight, const float *p, const float *scale,
                       const struct hparams *hp)
{
    size_t n = 0;
    float sum = 0;

    for (size_t i = 0; i < hp->experts; i++) {
        size_t at = n;
        while (at > 0 && p[i] > p[chosen[at - 1]])
            at--;
        if (at == hp->experts_used)
            continue;
        n += n < hp->experts_used;
        memmove(&chosen[at + 1], &chosen[at], (n - 1 - at) * sizeof *chosen);
        chosen[at] = (int32_t)i;
    }
    for (size_t k = 0; k < n; k++)
        sum += p[chosen[k]];
    for (size_t k = 0; k < n; k++)
        weight[k] = p[chosen[k]] / sum * scale[chosen[k]];
}

/* order = the choices sorted by expert; those of one expert stay in the order of the tokens. */
static void group(struct expert_rows *e, const struct hparams *hp, size_t n)
{
    size_t choices = n * hp->experts_used;

    memset(e->begin, 0, (hp->experts + 1) * sizeof *e->begin);
    for (size_t i = 0; i < choices; i++)
        e->begin[e->chosen[i] + 1]++;
    for (size_t i = 0; i < hp->experts; i++)
        e->begin[i + 1] += e->begin[i];
    for (size_t i = 0; i < choices; i++)
        e->order[e->begin[e->chosen[i]]++] = (uint32_t)i;
    /* Each begin has moved on to the next one's place. */
    memmove(e->begin + 1, e->begin, hp->experts * sizeof *e->begin);
    e->begin[0] = 0;
}

static bool choose(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;
    struct expert_rows *e = &f->experts;
    size_t used = hp->experts_used, begin = f->cursor.at;
    size_t rows = forward_tile(f, f->n - begin, 30 * (double)hp->experts, 1);

    ops_softmax(e->probability + begin * hp->experts, rows, hp->experts);
    for (size_t r = begin; r < begin + rows; r++)
        choose_row(e->chosen + r * used, e->weight + r * used, e->probability + r * hp->experts,
                   layer->scale, hp);
    f->cursor.at += rows;
    if (f->cursor.at < f->n)
        return false;
    group(e, hp, f->n);
    forward_note(f, "router", e->probability, f->n, hp->experts);
    forward_note(f, "expert_weights", e->weight, f->n, used);
    if (f->watch) {
        for (size_t i = 0; i < f->n * used; i++) /* not in use yet */
            e->in[i] = (float)e->chosen[i];
        forward_note(f, "experts", e->in, f->n, used);
    }
    return true;
}

static bool norm(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;

    ops_rmsnorm(f->model->ops, f->experts.x, f->x, layer->norm, f->n, hp->width, hp->eps);
    memset(f->experts.sum, 0, f->n * hp->width * sizeof *f->experts.sum);
    return true;
}

/* The rows of the tokens that chose the current expert, close together. */
static bool gather(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    struct expert_rows *e = &f->experts;
    size_t begin = e->begin[f->cursor.expert], n = e->begin[f->cursor.expert + 1] - begin;

    for (size_t i = 0; i < n; i++)
        memcpy(e->in + i * hp->width, e->x + e->order[begin + i] / hp->experts_used * hp->width,
               hp->width * sizeof *e->in);
    activations_set(f->act, e->in, n, hp->width);
    return true;
}

/* `rows` output rows of the current expert, the first of them `first`. */
static struct tensor_view part_of(const struct forward *f, const struct tensor_view *w,
                                  size_t first, size_t rows)
{
    return decoder_rows(w, f->cursor.expert * w->dims[1] + first, rows);
}

static bool gated(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;
    size_t ff = hp->expert_ff;
    struct tensor_view gate = part_of(f, layer->gate_up, 0, ff);
    struct tensor_view up = part_of(f, layer->gate_up, ff, ff);

    return forward_gated(f, f->experts.gated, &gate, &up, layer->down);
}

static bool down(struct forward *f)
{
    size_t width = f->model->hp.width;
    struct tensor_view w = part_of(f, f->model->layer[f->cursor.layer].experts.down, 0, width);

    return forward_product(f, f->experts.out, width, &w, f->inner);
}

/* Each token gets what the expert says, by its weight. */
static bool scatter(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    struct expert_rows *e = &f->experts;
    size_t begin = e->begin[f->cursor.expert], n = e->begin[f->cursor.expert + 1] - begin;

    for (size_t i = 0; i < n; i++) {
        size_t choice = e->order[begin + i];
        float *sum = e->sum + choice / hp->experts_used * hp->width;
        const float *out = e->out + i * hp->width;
        for (size_t j = 0; j < hp->width; j++)
            sum[j] += e->weight[choice] * out[j];
    }
    return true;
}

static bool join(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;
    const struct ops *ops = f->model->ops;

    ops_rmsnorm(ops, f->branch, f->branch, layer->post_mlp_norm, f->n, hp->width, hp->eps);
    ops_add_norm(ops, f->branch, f->experts.sum, layer->post_norm, f->n, hp->width, hp->eps, 1);
    return true;
}

enum part { LOOK, ROUTER, CHOOSE, NORM, GATHER, GATED, DOWN, SCATTER, JOIN, PARTS };

static bool tile(struct forward *f)
{
    const struct hparams *hp = &f->model->hp;
    const struct layer_experts *layer = &f->model->layer[f->cursor.layer].experts;
    struct expert_rows *e = &f->experts;

    switch ((enum part)f->cursor.part) {
    case LOOK:
        return look(f);
    case ROUTER:
        return forward_product(f, e->probability, hp->experts, layer->router, f->act);
    case CHOOSE:
        return choose(f);
    case NORM:
        return norm(f);
    case GATHER:
        return gather(f);
    case GATED:
        return gated(f);
    case DOWN:
        return down(f);
    case SCATTER:
        return scatter(f);
    case JOIN:
        return join(f);
    case PARTS:
        break;
    }
    assert(f->cursor.part < PARTS);
    return true;
}

/* The next expert that somebody chose, from `expert` on; hp->experts when there is none. */
static size_t next_chosen(const struct forward *f, size_t expert)
{
    const size_t *begin = f->experts.begin;

    while (expert < f->model->hp.experts && begin[expert] == begin[expert + 1])
        expert++;
    return expert;
}

bool experts_tile(struct forward *f)
{
    struct cursor *c = &f->cursor;

    if (!tile(f))
        return false;
    c->at = 0;
    c->part++;
    if (c->part == GATHER || c->part == JOIN) {
        c->expert = next_chosen(f, c->part == GATHER ? 0 : c->expert + 1);
        c->part = c->expert < f->model->hp.experts ? GATHER : JOIN;
    }
    return c->part == PARTS;
}
