/* forward.c - a pass through the layers as a cursor: begin, advance tile by tile, finish. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/model/decoder.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define TILE_US 10000
/* Multiplications in a microsecond, before anything was measured: slow, so that first tiles are
 * small. */
#define COST_PER_US_FIRST 1000.0
/* Times below this say more about the clock than about the work. */
#define MEASURE_US_MIN 100
#define HEAD_TILE 4096 /* output rows of the head at once, at most */

double forward_tile_cost(const struct forward *f)
{
    return f->cost_per_us * TILE_US;
}

size_t forward_tile(struct forward *f, size_t left, double unit_cost, size_t least)
{
    double units = forward_tile_cost(f) / unit_cost;
    size_t n = units < (double)left ? (size_t)units : left;

    n = n < least ? least : n - n % least;
    n = n < left ? n : left;
    f->tile_cost += (double)n * unit_cost;
    return n;
}

bool forward_product(struct forward *f, float *out, size_t stride, const struct tensor_view *w,
                     struct activations *x)
{
    size_t left = w->dims[1] - f->cursor.at;
    double unit = (double)(activations_rows(x) * w->dims[0]);
    size_t rows = forward_tile(f, left, unit, 128);

    ops_matmul(f->model->ops, out, stride, w, f->cursor.at, f->cursor.at + rows, x);
    f->cursor.at += rows;
    return f->cursor.at == w->dims[1];
}

bool forward_gated(struct forward *f, float *made, const struct tensor_view *gate,
                   const struct tensor_view *up, const struct tensor_view *next)
{
    size_t n = activations_rows(f->act), begin = f->cursor.at, left = gate->dims[1] - begin;
    double unit = 2 * (double)(n * gate->dims[0]);
    size_t rows = forward_tile(f, left, unit, OPS_GATED_MULTIPLE);

    if (begin == 0)
        ops_gated_begin(f->model->ops, f->inner, made, n, next);
    ops_gated(f->model->ops, f->inner, gate, up, begin, begin + rows, f->act);
    f->cursor.at += rows;
    return f->cursor.at == gate->dims[1];
}

void forward_trace(struct forward *f, forward_watch *watch, void *context)
{
    f->watch = watch;
    f->watch_context = context;
}

void forward_note(const struct forward *f, const char *name, const float *values, size_t n,
                  size_t width)
{
    if (f->watch)
        f->watch(f->watch_context, f->head ? 0 : f->cursor.layer, name, values, n, width);
}

/* Sizes in floats per row of the parts of the arena. */
struct row_sizes {
    size_t width, q, kv, ff;
    size_t middle; /* q, k, v and heads, or the gated, or the experts': one of them at a time */
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct row_sizes sizes_of(const struct hparams *hp)
{
    struct row_sizes s = {.width = hp->width, .ff = hp->ff};

    for (size_t i = 0; i < hp->layers; i++) {
        size_t q = hp->heads * hp->layer[i].head_dim;
        size_t kv = hp->layer[i].kv_heads * hp->layer[i].head_dim;
        s.q = larger(s.q, q);
        s.kv = larger(s.kv, kv);
    }
    s.middle = larger(larger(2 * s.q + 2 * s.kv, s.ff), experts_floats(hp));
    return s;
}

static size_t head_tile(const struct model *m)
{
    return m->hp.vocabulary < HEAD_TILE ? m->hp.vocabulary : HEAD_TILE;
}

struct forward *forward_new(struct model *m, size_t rows_max)
{
    struct forward *f = heap_new(1, sizeof *f);
    struct row_sizes s = sizes_of(&m->hp);
    size_t row = 2 * s.width + s.middle + 2 * m->half[0] + 2 * m->half[1] + head_tile(m);
    size_t seen = s.q + 2 * m->hp.heads;

    assert(rows_max >= 1);
    f->model = m;
    f->rows_max = rows_max;
    f->cost_per_us = COST_PER_US_FIRST;
    f->inputs = heap_array(struct model_input, rows_max);
    f->positions = heap_array(int32_t, rows_max);
    f->queries = heap_array(struct attend_query, rows_max);
    f->places = heap_array(struct attend_place, rows_max);
    f->block_end = heap_array(size_t, rows_max);
    arena_init(&f->arena, (rows_max * row + seen + (size_t)16 * ARENA_ALIGN) * sizeof(float));
    f->act = activations_new(rows_max, s.width);
    f->inner = activations_new(rows_max, larger(s.q, larger(s.ff, m->hp.expert_ff)));
    experts_init(&f->experts, &m->hp, rows_max);
    kv_widen(m->kv, rows_max);
    return f;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    forward_abandon(f);
    kv_narrow(f->model->kv, f->rows_max);
    activations_free(f->act);
    activations_free(f->inner);
    experts_clear(&f->experts);
    arena_clear(&f->arena);
    heap_free(f->inputs);
    heap_free(f->positions);
    heap_free(f->queries);
    heap_free(f->places);
    heap_free(f->block_end);
    heap_free(f);
}

/* ---- begin */

/* Whether row r goes on with the sequence of the row before it. */
static bool goes_on(const struct forward *f, size_t r)
{
    return r > 0 && f->inputs[r].sequence == f->inputs[r - 1].sequence;
}

/* Room for positions before `end`; what was kept to be taken back goes. */
static void make_room(struct sequence *s, size_t end)
{
    s->length_min = s->length;
    kv_line_trim(s->line, s->length, s->length);
    kv_line_extend(s->line, s->length, end);
}

static void take_inputs(struct forward *f, const struct model_input *inputs, size_t n)
{
    f->n = n;
    f->n_logits = 0;
    memcpy(f->inputs, inputs, n * sizeof *inputs);
    for (size_t r = 0; r < n; r++) {
        struct sequence *s = inputs[r].sequence;
        size_t position = goes_on(f, r) ? (size_t)f->positions[r - 1] + 1 : s->length;
        assert(goes_on(f, r) ? s->in == f : s->in == NULL);
        assert(position < s->tokens_max);
        assert(inputs[r].logits || !inputs[r].hidden);
        assert(inputs[r].soft ||
               (inputs[r].id >= 0 && (size_t)inputs[r].id < f->model->hp.vocabulary));
        s->in = f;
        f->positions[r] = (int32_t)position;
        f->n_logits += inputs[r].logits != NULL;
    }
    for (size_t r = n; r-- > 0;) {
        bool same = r + 1 < n && goes_on(f, r + 1) && inputs[r].block == inputs[r + 1].block;
        size_t end = same ? f->block_end[r + 1] : (size_t)f->positions[r] + 1;
        f->block_end[r] = inputs[r].block >= 0 ? end : 0;
        if (r + 1 < n && goes_on(f, r + 1))
            continue;
        make_room(inputs[r].sequence, (size_t)f->positions[r] + 1);
    }
}

static void lay_out(struct forward *f)
{
    const struct model *m = f->model;
    struct row_sizes s = sizes_of(&m->hp);
    struct arena *arena = &f->arena;
    size_t n = f->n;
    float *middle;

    arena_reset(arena);
    f->x = arena_array(arena, float, n *s.width);
    f->branch = arena_array(arena, float, n *s.width);
    middle = arena_array(arena, float, n *s.middle);
    f->q = middle;
    f->heads = f->q + n * s.q;
    f->k = f->heads + n * s.q;
    f->v = f->k + n * s.kv;
    f->gated = middle;
    experts_lay_out(&f->experts, &m->hp, middle, n);
    for (size_t kind = 0; kind < 2; kind++) {
        f->cos[kind] = arena_array(arena, float, n * m->half[kind]);
        f->sin[kind] = arena_array(arena, float, n * m->half[kind]);
    }
    f->seen.values = arena_array(arena, float, s.q);
    f->seen.largest = arena_array(arena, float, m->hp.heads);
    f->seen.sum = arena_array(arena, float, m->hp.heads);
    f->logits = arena_array(arena, float, f->n_logits *head_tile(m));
}

/* x = the scaled row of the embedding table, or the soft vector as it is. */
static void embed(struct forward *f)
{
    const struct model *m = f->model;
    size_t width = m->hp.width;

    for (size_t r = 0; r < f->n; r++) {
        float *x = f->x + r * width;
        if (f->inputs[r].soft) {
            memcpy(x, f->inputs[r].soft, width * sizeof *x);
            continue;
        }
        ops_row(x, m->embedding, (size_t)f->inputs[r].id);
        for (size_t j = 0; j < width; j++)
            x[j] *= m->embedding_scale;
    }
}

void forward_begin(struct forward *f, const struct model_input *inputs, size_t n)
{
    const struct model *m = f->model;

    assert(!f->active);
    assert(n >= 1 && n <= f->rows_max);
    take_inputs(f, inputs, n);
    lay_out(f);
    embed(f);
    for (size_t kind = 0; kind < 2; kind++)
        if (m->half[kind] > 0)
            ops_rope_angles(f->cos[kind], f->sin[kind], f->positions, n, m->frequencies[kind],
                            m->half[kind]);
    f->cursor = (struct cursor){0};
    f->head = false;
    f->active = true;
    forward_note(f, "embedding", f->x, n, m->hp.width);
}

/* ---- the head */

/* branch = the normed residual stream of the rows whose logits are wanted, close together. */
static void head_begin(struct forward *f)
{
    const struct model *m = f->model;
    size_t width = m->hp.width, k = 0;

    for (size_t r = 0; r < f->n; r++)
        if (f->inputs[r].logits)
            memcpy(f->branch + k++ * width, f->x + r * width, width * sizeof *f->x);
    ops_rmsnorm(m->ops, f->branch, f->branch, m->norm, k, width, m->hp.eps);
    k = 0;
    for (size_t r = 0; r < f->n; r++) {
        if (f->inputs[r].hidden)
            memcpy(f->inputs[r].hidden, f->branch + k * width, width * sizeof *f->x);
        k += f->inputs[r].logits != NULL;
    }
    activations_set(f->act, f->branch, k, width);
    f->head = true;
    f->cursor.at = 0;
    forward_note(f, "hidden", f->branch, k, width);
}

/* Logits of the next few ids of the vocabulary; true when all are there. */
static bool head_advance(struct forward *f)
{
    const struct model *m = f->model;
    const struct hparams *hp = &m->hp;
    size_t begin = f->cursor.at, k = 0;
    size_t left = hp->vocabulary - begin;
    size_t n =
        forward_tile(f, left < HEAD_TILE ? left : HEAD_TILE, (double)(f->n_logits * hp->width), 64);

    /* The tile as a matrix of its own, so that a tile's logits lie close together. */
    struct tensor_view part = decoder_rows(m->embedding, begin, n);
    ops_matmul(m->ops, f->logits, n, &part, 0, n, f->act);
    if (hp->soft_cap > 0)
        ops_softcap(m->ops, f->logits, f->n_logits * n, hp->soft_cap);
    for (size_t r = 0; r < f->n; r++)
        if (f->inputs[r].logits)
            memcpy(f->inputs[r].logits + begin, f->logits + k++ * n, n * sizeof(float));
    f->cursor.at += n;
    return f->cursor.at == hp->vocabulary;
}

static void suppress(const struct forward *f)
{
    const struct hparams *hp = &f->model->hp;

    for (size_t r = 0; r < f->n; r++)
        for (size_t i = 0; f->inputs[r].logits && i < hp->n_suppressed; i++)
            f->inputs[r].logits[hp->suppressed[i]] = -INFINITY;
}

/* ---- advance */

/* Row r is read. Rows behind the first one that gives logits may be taken back: they can be drafts
 * that the logits do not agree with. */
static void count(struct forward *f, size_t r)
{
    struct sequence *s = f->inputs[r].sequence;
    bool first = r == 0 || !goes_on(f, r) || !f->inputs[r - 1].logits;

    s->length = (size_t)f->positions[r] + 1;
    if (first || s->length_min + SEQUENCE_BACK_MAX < s->length)
        s->length_min = first ? s->length : s->length - SEQUENCE_BACK_MAX;
}

/* Leave the sequences; with `read`, they have grown by their rows. */
static void leave(struct forward *f, bool read)
{
    for (size_t r = 0; r < f->n; r++) {
        f->inputs[r].sequence->in = NULL;
        if (read)
            count(f, r);
    }
    for (size_t r = 0; r < f->n; r++) {
        struct sequence *s = f->inputs[r].sequence;
        size_t oldest = read ? s->length_min : s->length;
        if (r + 1 == f->n || !goes_on(f, r + 1))
            kv_line_trim(s->line, s->length, oldest < s->mark ? oldest : s->mark);
    }
    f->active = false;
}

/* One tile; true when the pass is done. */
static bool tile(struct forward *f)
{
    if (f->head) {
        if (!head_advance(f))
            return false;
        suppress(f);
        return true;
    }
    if (!f->model->architecture->advance(f))
        return false;
    f->cursor = (struct cursor){.layer = f->cursor.layer + 1};
    if (f->cursor.layer < f->model->hp.layers)
        return false;
    if (f->n_logits == 0)
        return true;
    head_begin(f);
    return false;
}

/* A tile that was slower than expected makes the next ones smaller at once, a faster one makes them
 * larger little by little. */
static void measure(struct forward *f, int64_t elapsed_us)
{
    double rate;

    if (f->tile_cost <= 0 || elapsed_us < MEASURE_US_MIN)
        return;
    rate = f->tile_cost / (double)elapsed_us;
    f->cost_per_us = rate < f->cost_per_us ? rate : 0.75 * f->cost_per_us + 0.25 * rate;
}

bool forward_advance(struct forward *f, int64_t budget_us)
{
    int64_t begin = clock_now_us(), before = begin, now;

    assert(f->active);
    do {
        f->tile_cost = 0;
        if (tile(f)) {
            leave(f, true);
            return true;
        }
        now = clock_now_us();
        measure(f, now - before);
        before = now;
    } while (now - begin < budget_us);
    return false;
}

void forward_abandon(struct forward *f)
{
    if (f->active)
        leave(f, false);
}
