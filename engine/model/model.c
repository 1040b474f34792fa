#include "engine/model/model.h"
#include "engine/base/heap.h"
#include "engine/model/decoder.h"
#include "engine/model/kv.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Counts changes of the decoder's own arithmetic (the order of its sums is the kernels'). */
#define DECODER_NUMERICS 1
#define NOISE_PIECES 64

static const struct architecture *const architectures[] = {
    &gemma4_architecture,
};

static const struct architecture *find_architecture(const struct weights *w, struct status *st)
{
    struct span name = {0};

    if (!weights_string(w, "general.architecture", &name, st))
        return NULL;
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++)
        if (span_is(name, architectures[i]->name))
            return architectures[i];
    (void)status_fail(st, STATUS_UNSUPPORTED, "general.architecture: '%.*s' is not supported",
                      (int)(name.size < 64 ? name.size : 64), (const char *)name.data);
    return NULL;
}

static bool borrow_matrices(const struct model *m, const char *name, const size_t *dims,
                            size_t n_dims, const struct tensor_view **view, struct status *st)
{
    const struct tensor_view *found = NULL;

    if (!weights_borrow(m->weights, name, dims, n_dims, &found, st))
        return false;
    if (!found->type->to_f32)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor '%s': type %s holds no weights", name,
                           found->type->name);
    *view = found;
    return true;
}

bool decoder_borrow(const struct model *m, const char *name, size_t in, size_t out,
                    const struct tensor_view **view, struct status *st)
{
    return borrow_matrices(m, name, (size_t[]){in, out}, 2, view, st);
}

bool decoder_borrow_slabs(const struct model *m, const char *name, const size_t dims[3],
                          const struct tensor_view **view, struct status *st)
{
    return borrow_matrices(m, name, dims, 3, view, st);
}

struct tensor_view decoder_rows(const struct tensor_view *w, size_t first, size_t n)
{
    struct tensor_view rows = *w;
    size_t row_bytes = w->dims[0] / w->type->block_values * w->type->block_bytes;

    assert(first + n <= w->dims[1] * w->dims[2]);
    rows.data = (const uint8_t *)w->data + first * row_bytes;
    rows.n_dims = 2;
    rows.dims[1] = n;
    rows.dims[2] = 1;
    rows.size_bytes = n * row_bytes;
    return rows;
}

static bool check_heads(const struct hparams *hp, struct status *st)
{
    for (size_t i = 0; i < hp->layers; i++)
        if (hp->layer[i].head_dim % 8 != 0 || hp->layer[i].head_dim > ATTEND_HEAD_DIM_MAX)
            return status_fail(st, STATUS_UNSUPPORTED,
                               "layer %zu: a head size of %zu is no multiple of 8 up to %d", i,
                               hp->layer[i].head_dim, ATTEND_HEAD_DIM_MAX);
    return true;
}

static bool check_options(const struct hparams *hp, const struct model_options *o,
                          struct status *st)
{
    if (o->context_max < 1 || o->context_max > hp->context)
        return status_fail(st, STATUS_LIMIT, "context: %zu tokens, the model was made for %zu",
                           o->context_max, hp->context);
    return true;
}

/* Divisors below 1 would turn faster than once per position, and make angles that the rotation is
 * not made for. NULL when the file has none. */
static bool read_divisors(const struct model *m, size_t n, const float **out, struct status *st)
{
    const char *name = "rope_freqs.weight";

    *out = NULL;
    if (n == 0 || !weights_find(m->weights, name))
        return true;
    if (!weights_borrow_f32(m->weights, name, n, out, st))
        return false;
    for (size_t j = 0; j < n; j++)
        if (!((*out)[j] >= 1 && isfinite((*out)[j])))
            return status_fail(st, STATUS_CORRUPT, "tensor '%s': element %zu is %g, expected >= 1",
                               name, j, (double)(*out)[j]);
    return true;
}

static bool make_frequencies(struct model *m, struct status *st)
{
    const struct hparams *hp = &m->hp;
    const float *divisors = NULL;

    for (size_t i = 0; i < hp->layers; i++)
        m->half[hp->layer[i].sliding] = hp->layer[i].head_dim / 2;
    if (!read_divisors(m, m->half[0], &divisors, st))
        return false;
    for (size_t kind = 0; kind < 2; kind++) {
        m->frequencies[kind] = heap_array(float, m->half[kind]);
        if (m->half[kind] > 0)
            ops_rope_frequencies(m->frequencies[kind], 2 * m->half[kind],
                                 kind ? hp->theta_sliding : hp->theta_full, kind ? NULL : divisors);
    }
    return true;
}

bool decoder_borrow_all(struct model *m, struct status *st)
{
    const struct hparams *hp = &m->hp;

    m->layer = heap_array(struct layer, hp->layers);
    if (!decoder_borrow(m, "token_embd.weight", hp->width, hp->vocabulary, &m->embedding, st) ||
        !weights_borrow_f32(m->weights, "output_norm.weight", hp->width, &m->norm, st))
        return false;
    for (size_t i = 0; i < hp->layers; i++)
        if (!m->architecture->borrow(m, i, st))
            return false;
    return make_frequencies(m, st);
}

bool decoder_lay_out(struct model *m, void (*progress)(void *context, size_t done, size_t all),
                     void *progress_context, struct status *st)
{
    size_t n = weights_tensors(m->weights);
    const struct tensor_view **all = heap_array(const struct tensor_view *, n);
    const struct ops_tensors tensors = {.from = m->weights, .views = all, .n = n};
    struct status why = {0};

    for (size_t i = 0; i < n; i++)
        all[i] = weights_at(m->weights, i);
    bool laid_out = ops_lay_out(m->ops, &tensors, progress, progress_context, &why);
    heap_free((void *)all);
    m->memory_short = !laid_out && why.code == STATUS_LIMIT;
    if (!laid_out && !m->memory_short)
        *st = why;
    return laid_out || m->memory_short;
}

bool model_open(struct model **out, const struct weights *w, struct pool *pool,
                const struct model_options *options, struct status *st)
{
    struct model *m = heap_new(1, sizeof *m);
    const char *kv_type = options->kv_type ? options->kv_type : "";
    enum dtype kv;

    m->weights = w;
    m->architecture = find_architecture(w, st);
    if (!m->architecture || !kv_type_read(&kv, kv_type, options->exact, st) ||
        !hparams_read(&m->hp, w, m->architecture->name, st) || !check_heads(&m->hp, st) ||
        !check_options(&m->hp, options, st) || !decoder_borrow_all(m, st))
        goto fail;
    m->embedding_scale = sqrtf((float)m->hp.width);
    m->context_max = options->context_max;
    m->ops = ops_new(pool, options->exact ? PRECISION_EXACT : PRECISION_FAST);
    if (!options->as_stored &&
        !decoder_lay_out(m, options->progress, options->progress_context, st))
        goto fail;
    m->kv = kv_new(&m->hp, kv, options->kv_bytes);
    (void)snprintf(m->numerics, sizeof m->numerics, "decoder %d, %s, kv %s", DECODER_NUMERICS,
                   ops_name(m->ops), kv_type_name(kv));
    *out = m;
    return true;
fail:
    model_close(m);
    return false;
}

void decoder_clear(struct model *m)
{
    for (size_t kind = 0; kind < 2; kind++)
        heap_free(m->frequencies[kind]);
    heap_free(m->layer);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    kv_free(m->kv);
    if (m->ops)
        ops_free(m->ops);
    decoder_clear(m);
    heap_free(m);
}

const struct hparams *model_hparams(const struct model *m)
{
    return &m->hp;
}

const char *model_numerics(const struct model *m)
{
    return m->numerics;
}

bool model_memory_short(const struct model *m)
{
    return m->memory_short;
}

size_t model_laid_out_bytes(const struct model *m)
{
    return ops_laid_out_bytes(m->ops);
}

const struct kv *model_kv(const struct model *m)
{
    return m->kv;
}

size_t model_sequence_bytes(const struct model *m, size_t tokens_max)
{
    return kv_line_bytes(m->kv, tokens_max);
}

bool model_fits(const struct model *m, size_t tokens_max)
{
    return kv_fits(m->kv, tokens_max);
}

bool model_could(const struct model *m, size_t tokens_max)
{
    return kv_could(m->kv, tokens_max);
}

bool sequence_new(struct sequence **out, struct model *m, size_t tokens_max, struct status *st)
{
    struct kv_line *line = NULL;
    struct sequence *s;

    assert(tokens_max >= 1);
    if (tokens_max > m->context_max)
        return status_fail(st, STATUS_LIMIT, "%zu tokens, the context holds %zu", tokens_max,
                           m->context_max);
    if (!kv_line_new(&line, m->kv, tokens_max, st))
        return false;
    s = heap_new(1, sizeof *s);
    *s = (struct sequence){.model = m, .line = line, .tokens_max = tokens_max, .mark = SIZE_MAX};
    *out = s;
    return true;
}

void sequence_free(struct sequence *s)
{
    if (!s)
        return;
    assert(!s->in);
    kv_line_free(s->line);
    heap_free(s);
}

size_t sequence_length(const struct sequence *s)
{
    return s->length;
}

/* Noise of the size of normed keys, another piece of it at each position. */
static void make_noise(float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(i * 7919 % 2039) / 1020.0f - 1.0f;
}

static void pretend_position(struct sequence *s, size_t position, size_t length, const float *noise)
{
    const struct hparams *hp = &s->model->hp;

    for (size_t i = 0; i < hp->layers; i++)
        if (!hp->layer[i].sliding || position + hp->window >= length) {
            struct attend_shape shape = kv_shape(s->model->kv, i);
            struct attend_place place = kv_line_place(s->line, i, position);
            ops_store(s->model->ops, &shape, &place, 1, noise + position % NOISE_PIECES,
                      noise + (position + i) % NOISE_PIECES);
        }
}

void sequence_pretend(struct sequence *s, size_t length)
{
    const struct hparams *hp = &s->model->hp;
    size_t most = 0;

    assert(s->length == 0 && length < s->tokens_max);
    for (size_t i = 0; i < hp->layers; i++)
        if (hp->layer[i].kv_heads * hp->layer[i].head_dim > most)
            most = hp->layer[i].kv_heads * hp->layer[i].head_dim;
    float *noise = heap_array(float, most + NOISE_PIECES);
    make_noise(noise, most + NOISE_PIECES);
    while (s->length < length) {
        size_t end = s->length + KV_PAGE_TOKENS < length ? s->length + KV_PAGE_TOKENS : length;
        kv_line_extend(s->line, s->length, end);
        for (size_t at = s->length; at < end; at++)
            pretend_position(s, at, length, noise);
        s->length = s->length_min = end;
        kv_line_trim(s->line, end, end);
    }
    heap_free(noise);
}

void sequence_take_back(struct sequence *s, size_t length)
{
    assert(!s->in);
    assert(length >= s->length_min && length <= s->length);
    s->length = s->length_min = length;
    kv_line_trim(s->line, length, length < s->mark ? length : s->mark);
}

void sequence_mark(struct sequence *s, size_t position)
{
    assert(!s->in);
    assert(position >= s->length);
    s->mark = position;
}

void sequence_unmark(struct sequence *s)
{
    assert(!s->in);
    s->mark = SIZE_MAX;
    kv_line_trim(s->line, s->length, s->length_min);
}

size_t sequence_snapshot_need(const struct sequence *s, size_t length)
{
    return kv_snapshot_need(s->line, length);
}

bool sequence_snapshot(struct kv_snapshot **out, struct sequence *s, size_t length,
                       struct status *st)
{
    assert(!s->in);
    assert(length >= 1);
    assert(length <= s->length);
    return kv_snapshot_new(out, s->line, length, st);
}

void sequence_share(struct sequence *s, const struct kv_snapshot *snapshot)
{
    assert(!s->in);
    assert(s->length == 0);
    assert(kv_snapshot_length(snapshot) < s->tokens_max);
    kv_line_share(s->line, snapshot);
    s->length = s->length_min = kv_snapshot_length(snapshot);
}
