#include "engine/model/hparams.h"
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "engine/weights/weights.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX 96
#define VOCABULARY_MAX 4194304

/* What the readers below share: the file and the prefix of its keys. */
struct reader {
    const struct weights *w;
    const char *arch;
    char key[KEY_MAX];
};

static const char *key_of(struct reader *r, const char *name)
{
    (void)snprintf(r->key, sizeof r->key, "%s.%s", r->arch, name);
    return r->key;
}

/* A whole number within [low, high]. */
static bool read_size(struct reader *r, const char *name, size_t low, size_t high, size_t *out,
                      struct status *st)
{
    uint64_t value = 0;

    if (!weights_u64(r->w, key_of(r, name), &value, st))
        return false;
    if (value < low || value > high)
        return status_fail(st, STATUS_CORRUPT, "%s: %" PRIu64 " is not within [%zu, %zu]", r->key,
                           value, low, high);
    *out = (size_t)value;
    return true;
}

static bool read_float(struct reader *r, const char *name, double low, double high, float *out,
                       struct status *st)
{
    double value = 0;

    if (!weights_f64(r->w, key_of(r, name), &value, st))
        return false;
    if (!(value >= low && value <= high))
        return status_fail(st, STATUS_CORRUPT, "%s: %g is not within [%g, %g]", r->key, value, low,
                           high);
    *out = (float)value;
    return true;
}

/* One number per layer: a scalar stands for all of them. */
static bool read_per_layer(struct reader *r, const char *name, size_t layers, int64_t low,
                           int64_t high, int64_t *out, struct status *st)
{
    const char *key = key_of(r, name);

    if (!weights_is_array(r->w, key)) {
        size_t value = 0;
        if (!read_size(r, name, (size_t)low, (size_t)high, &value, st))
            return false;
        for (size_t i = 0; i < layers; i++)
            out[i] = (int64_t)value;
        return true;
    }
    if (weights_array_length(r->w, key) != layers)
        return status_fail(st, STATUS_CORRUPT, "%s: %zu elements for %zu layers", key,
                           weights_array_length(r->w, key), layers);
    if (!weights_array_i64(r->w, key, layers, out, st))
        return false;
    for (size_t i = 0; i < layers; i++)
        if (out[i] < low || out[i] > high)
            return status_fail(st, STATUS_CORRUPT,
                               "%s[%zu]: %" PRId64 " is not within [%" PRId64 ", %" PRId64 "]", key,
                               i, out[i], low, high);
    return true;
}

/* One number that a file may also give per layer, all of them equal. */
static bool read_equal(struct reader *r, const char *name, size_t layers, size_t high, size_t *out,
                       struct status *st)
{
    int64_t value[HPARAMS_LAYERS_MAX] = {0};

    if (!read_per_layer(r, name, layers, 1, (int64_t)high, value, st))
        return false;
    for (size_t i = 1; i < layers; i++)
        if (value[i] != value[0])
            return status_fail(st, STATUS_UNSUPPORTED,
                               "%s.%s: layers of different width (%" PRId64 ", %" PRId64
                               ") are not built in",
                               r->arch, name, value[0], value[i]);
    *out = (size_t)value[0];
    return true;
}

/* The key must be missing or zero: `what` is something this program does not do. */
static bool refuse(struct reader *r, const char *name, const char *what, struct status *st)
{
    const char *key = key_of(r, name);
    uint64_t value = 0;

    if (!weights_has(r->w, key))
        return true;
    if (weights_is_array(r->w, key))
        return status_fail(st, STATUS_UNSUPPORTED, "%s: %s are not built in", key, what);
    if (!weights_u64(r->w, key, &value, st))
        return false;
    if (value != 0)
        return status_fail(st, STATUS_UNSUPPORTED, "%s is %" PRIu64 ": %s are not built in", key,
                           value, what);
    return true;
}

/* A drafter has no keys and values of its own: it shares those of the model it drafts for. */
static bool read_drafter(struct reader *r, struct hparams *hp, struct status *st)
{
    const char *shared = "attention.shared_kv_layers";
    size_t layers = 0;

    hp->width_out = 0;
    if (strcmp(r->arch, HPARAMS_DRAFTER) != 0)
        return refuse(r, shared, "layers that share keys and values, as in E2B and E4B,", st);
    if (!read_size(r, "embedding_length_out", 1, HPARAMS_WIDTH_MAX, &hp->width_out, st))
        return false;
    return !weights_has(r->w, key_of(r, shared)) ||
           read_size(r, shared, hp->layers, hp->layers, &layers, st);
}

static bool refuse_variants(struct reader *r, struct status *st)
{
    return refuse(r, "embedding_length_per_layer_input", "the per-layer embeddings of E2B and E4B",
                  st);
}

/* Which layers slide: a flag per layer, or (older files) the period of the full ones. */
static bool read_pattern(struct reader *r, struct hparams *hp, struct status *st)
{
    const char *name = "attention.sliding_window_pattern";
    int64_t flags[HPARAMS_LAYERS_MAX] = {0};
    bool sliding = false;

    if (weights_is_array(r->w, key_of(r, name))) {
        if (!read_per_layer(r, name, hp->layers, 0, 1, flags, st))
            return false;
    } else {
        size_t period = 0;
        if (!read_size(r, name, 1, HPARAMS_LAYERS_MAX, &period, st))
            return false;
        for (size_t i = 0; i < hp->layers; i++)
            flags[i] = (i + 1) % period != 0;
    }
    for (size_t i = 0; i < hp->layers; i++) {
        hp->layer[i].sliding = flags[i] != 0;
        sliding = sliding || hp->layer[i].sliding;
    }
    hp->window = 0;
    return !sliding ||
           read_size(r, "attention.sliding_window", 1, HPARAMS_CONTEXT_MAX, &hp->window, st);
}

/* key_length and value_length must agree: values may be made from keys. */
static bool read_head_dim(struct reader *r, const char *key_name, const char *value_name,
                          size_t *out, struct status *st)
{
    size_t value_dim = 0;

    if (!read_size(r, key_name, 2, HPARAMS_WIDTH_MAX, out, st))
        return false;
    if (*out % 2 != 0)
        return status_fail(st, STATUS_CORRUPT, "%s.%s: %zu is odd", r->arch, key_name, *out);
    if (!weights_has(r->w, key_of(r, value_name)))
        return true;
    if (!read_size(r, value_name, 2, HPARAMS_WIDTH_MAX, &value_dim, st))
        return false;
    if (value_dim != *out)
        return status_fail(st, STATUS_UNSUPPORTED, "%s.%s: %zu differs from %s, %zu", r->arch,
                           value_name, value_dim, key_name, *out);
    return true;
}

static bool read_layers(struct reader *r, struct hparams *hp, struct status *st)
{
    int64_t kv_heads[HPARAMS_LAYERS_MAX] = {0};
    size_t dim_full = 0, dim_sliding = 0;
    char name[KEY_MAX];

    if (!read_per_layer(r, "attention.head_count_kv", hp->layers, 1, HPARAMS_HEADS_MAX, kv_heads,
                        st) ||
        !read_head_dim(r, "attention.key_length", "attention.value_length", &dim_full, st) ||
        !read_pattern(r, hp, st))
        return false;
    dim_sliding = dim_full;
    if (hp->window > 0 && !read_head_dim(r, "attention.key_length_swa",
                                         "attention.value_length_swa", &dim_sliding, st))
        return false;
    for (size_t i = 0; i < hp->layers; i++) {
        struct hparams_layer *layer = &hp->layer[i];
        layer->kv_heads = (size_t)kv_heads[i];
        layer->head_dim = layer->sliding ? dim_sliding : dim_full;
        if (hp->heads % layer->kv_heads != 0)
            return status_fail(st, STATUS_CORRUPT,
                               "%s.attention.head_count_kv[%zu]: %zu does not divide %zu heads",
                               hp->arch, i, layer->kv_heads, hp->heads);
        (void)snprintf(name, sizeof name, "blk.%zu.attn_v.weight", i);
        layer->value_own = weights_find(r->w, name) != NULL;
        (void)snprintf(name, sizeof name, "blk.%zu.ffn_gate_inp.weight", i);
        if (hp->experts == 0 && weights_find(r->w, name))
            return status_fail(st, STATUS_CORRUPT, "'%s' is there, but no %s.expert_count", name,
                               hp->arch);
    }
    return true;
}

static bool read_experts(struct reader *r, struct hparams *hp, struct status *st)
{
    uint64_t count = 0;

    if (hp->width_out > 0)
        return refuse(r, "expert_count", "experts of a drafter", st);
    if (weights_has(r->w, key_of(r, "expert_count")) && !weights_u64(r->w, r->key, &count, st))
        return false;
    if (count > HPARAMS_EXPERTS_MAX)
        return status_fail(st, STATUS_CORRUPT, "%s: %" PRIu64 " is not within [0, %d]", r->key,
                           count, HPARAMS_EXPERTS_MAX);
    hp->experts = (size_t)count;
    return count == 0 ||
           (read_equal(r, "expert_used_count", hp->layers, hp->experts, &hp->experts_used, st) &&
            read_equal(r, "expert_feed_forward_length", hp->layers, HPARAMS_FF_MAX, &hp->expert_ff,
                       st));
}

static void suppress(struct hparams *hp, int32_t id)
{
    size_t at = 0;

    while (at < hp->n_suppressed && hp->suppressed[at] < id)
        at++;
    if (at < hp->n_suppressed && hp->suppressed[at] == id)
        return;
    memmove(&hp->suppressed[at + 1], &hp->suppressed[at],
            (hp->n_suppressed - at) * sizeof hp->suppressed[0]);
    hp->suppressed[at] = id;
    hp->n_suppressed++;
}

/* Files made before June 2026 have no list: the two rows that were overwritten with media vectors
 * at conversion are then found by name (spec model.md section 1.3). 26B-A4B and 31B have no list
 * and whole rows: there the two are never right as a next token, so nothing is lost. */
static bool suppress_by_name(struct reader *r, struct hparams *hp, struct status *st)
{
    const char *key = "tokenizer.ggml.tokens";
    size_t n = weights_array_length(r->w, key);
    struct span *tokens;
    bool ok;

    if (n == 0)
        return true;
    if (n > hp->vocabulary)
        return status_fail(st, STATUS_CORRUPT, "%s: %zu names for %zu embeddings", key, n,
                           hp->vocabulary);
    tokens = heap_array(struct span, n);
    ok = weights_array_strings(r->w, key, n, tokens, st);
    for (size_t i = 0; ok && i < n && hp->n_suppressed < HPARAMS_SUPPRESSED_MAX; i++)
        if (span_is(tokens[i], "<audio|>") || span_is(tokens[i], "<image|>"))
            suppress(hp, (int32_t)i);
    heap_free(tokens);
    return ok;
}

static bool read_suppressed(struct reader *r, struct hparams *hp, struct status *st)
{
    const char *key = "tokenizer.ggml.suppress_tokens";
    int64_t ids[HPARAMS_SUPPRESSED_MAX];
    size_t n = weights_array_length(r->w, key);

    hp->n_suppressed = 0;
    if (!weights_has(r->w, key))
        return suppress_by_name(r, hp, st);
    if (!weights_is_array(r->w, key) || n > HPARAMS_SUPPRESSED_MAX)
        return status_fail(st, STATUS_CORRUPT, "%s: not an array of at most %d ids", key,
                           HPARAMS_SUPPRESSED_MAX);
    if (n > 0 && !weights_array_i64(r->w, key, n, ids, st))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint64_t)ids[i] >= hp->vocabulary)
            return status_fail(st, STATUS_CORRUPT,
                               "%s[%zu]: %" PRId64 " is outside a vocabulary of %zu", key, i,
                               ids[i], hp->vocabulary);
        suppress(hp, (int32_t)ids[i]);
    }
    return true;
}

/* The embedding table says how large the vocabulary is; there is no key for it. */
static bool read_vocabulary(struct reader *r, struct hparams *hp, struct status *st)
{
    const struct tensor_view *embedding = weights_find(r->w, "token_embd.weight");

    if (!embedding)
        return status_fail(st, STATUS_CORRUPT, "tensor 'token_embd.weight' is missing");
    if (embedding->n_dims != 2 || embedding->dims[0] != hp->width || embedding->dims[1] < 1 ||
        embedding->dims[1] > VOCABULARY_MAX)
        return status_fail(st, STATUS_CORRUPT,
                           "tensor 'token_embd.weight': [%zu, %zu], expected [%zu, 1 to %d]",
                           embedding->dims[0], embedding->dims[1], hp->width, VOCABULARY_MAX);
    hp->vocabulary = embedding->dims[1];
    if (weights_find(r->w, "output.weight"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "tensor 'output.weight': a head of its own is not supported");
    return true;
}

static bool read_all(struct reader *r, struct hparams *hp, struct status *st)
{
    hp->soft_cap = 0;
    if (weights_has(r->w, key_of(r, "final_logit_softcapping")) &&
        !read_float(r, "final_logit_softcapping", 0, 1e6, &hp->soft_cap, st))
        return false;
    return refuse_variants(r, st) &&
           read_size(r, "block_count", 1, HPARAMS_LAYERS_MAX, &hp->layers, st) &&
           read_drafter(r, hp, st) &&
           read_size(r, "embedding_length", 1, HPARAMS_WIDTH_MAX, &hp->width, st) &&
           read_size(r, "context_length", 1, HPARAMS_CONTEXT_MAX, &hp->context, st) &&
           read_size(r, "attention.head_count", 1, HPARAMS_HEADS_MAX, &hp->heads, st) &&
           read_float(r, "attention.layer_norm_rms_epsilon", 1e-12, 1, &hp->eps, st) &&
           read_float(r, "rope.freq_base", 1, 1e12, &hp->theta_full, st) &&
           read_equal(r, "feed_forward_length", hp->layers, HPARAMS_FF_MAX, &hp->ff, st) &&
           read_experts(r, hp, st) && read_layers(r, hp, st) &&
           (hp->window == 0 ||
            read_float(r, "rope.freq_base_swa", 1, 1e12, &hp->theta_sliding, st)) &&
           read_vocabulary(r, hp, st) && read_suppressed(r, hp, st);
}

bool hparams_read(struct hparams *out, const struct weights *w, const char *arch, struct status *st)
{
    struct reader r = {.w = w, .arch = arch};
    struct hparams hp = {0};

    (void)snprintf(hp.arch, sizeof hp.arch, "%s", arch);
    if (!read_all(&r, &hp, st))
        return false;
    *out = hp;
    return true;
}
