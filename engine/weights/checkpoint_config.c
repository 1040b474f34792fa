/* checkpoint_config.c - config.json and generation_config.json as keys of GGUF; reads the files of
 * a checkpoint folder. */
#include "engine/base/heap.h"
#include "engine/weights/checkpoint.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES_MAX 256 /* of a field: names with dots between */
#define WORD_BYTES_MAX 64
#define TURNS_NEVER 1e30f /* divisor of the rotation; what converters write */

/* What a field's value must be. */
enum kind { WHOLE, REAL, FLAG, WORD };

enum field {
    MODEL_TYPE,
    LAYERS,
    CONTEXT,
    WIDTH,
    FF,
    HEADS,
    KV_HEADS,
    KV_HEADS_FULL,
    HEAD_DIM,
    HEAD_DIM_FULL,
    WINDOW,
    EPSILON,
    SOFT_CAP,
    SHARED,
    PER_LAYER,
    EXPERTS_ON,
    EXPERTS,
    EXPERTS_USED,
    EXPERT_FF,
    WIDTH_OUT,
    ORDERED,
    ACTIVATION,
    BIAS,
    DOUBLE_WIDE,
    THETA_FULL,
    TYPE_FULL,
    FACTOR_FULL,
    THETA_SLIDING,
    TYPE_SLIDING,
    PATCH,
    MERGE,
    FIELDS
};

/* `key`: of GGUF, behind the architecture and a dot; NULL: used or checked below. Fields of the
 * text model stand in text_config, in a checkpoint without media at the top. */
static const struct {
    const char *name;
    enum kind kind;
    bool required;
    const char *key;
} fields[FIELDS] = {
    [MODEL_TYPE] = {"model_type", WORD, true, NULL},
    [LAYERS] = {"num_hidden_layers", WHOLE, true, "block_count"},
    [CONTEXT] = {"max_position_embeddings", WHOLE, true, "context_length"},
    [WIDTH] = {"hidden_size", WHOLE, true, "embedding_length"},
    [FF] = {"intermediate_size", WHOLE, true, "feed_forward_length"},
    [HEADS] = {"num_attention_heads", WHOLE, true, "attention.head_count"},
    [KV_HEADS] = {"num_key_value_heads", WHOLE, true, NULL},
    [KV_HEADS_FULL] = {"num_global_key_value_heads", WHOLE, false, NULL},
    [HEAD_DIM] = {"head_dim", WHOLE, true, NULL},
    [HEAD_DIM_FULL] = {"global_head_dim", WHOLE, false, NULL},
    [WINDOW] = {"sliding_window", WHOLE, false, "attention.sliding_window"},
    [EPSILON] = {"rms_norm_eps", REAL, true, "attention.layer_norm_rms_epsilon"},
    [SOFT_CAP] = {"final_logit_softcapping", REAL, false, "final_logit_softcapping"},
    [SHARED] = {"num_kv_shared_layers", WHOLE, false, "attention.shared_kv_layers"},
    [PER_LAYER] = {"hidden_size_per_layer_input", WHOLE, false, "embedding_length_per_layer_input"},
    [EXPERTS_ON] = {"enable_moe_block", FLAG, false, NULL},
    [EXPERTS] = {"num_experts", WHOLE, false, NULL},
    [EXPERTS_USED] = {"top_k_experts", WHOLE, false, NULL},
    [EXPERT_FF] = {"moe_intermediate_size", WHOLE, false, NULL},
    [WIDTH_OUT] = {"backbone_hidden_size", WHOLE, false, "embedding_length_out"},
    [ORDERED] = {"use_ordered_embeddings", FLAG, false, NULL},
    [ACTIVATION] = {"hidden_activation", WORD, false, NULL},
    [BIAS] = {"attention_bias", FLAG, false, NULL},
    [DOUBLE_WIDE] = {"use_double_wide_mlp", FLAG, false, NULL},
    [THETA_FULL] = {"rope_parameters.full_attention.rope_theta", REAL, true, "rope.freq_base"},
    [TYPE_FULL] = {"rope_parameters.full_attention.rope_type", WORD, false, NULL},
    [FACTOR_FULL] = {"rope_parameters.full_attention.partial_rotary_factor", REAL, false, NULL},
    [THETA_SLIDING] = {"rope_parameters.sliding_attention.rope_theta", REAL, false,
                       "rope.freq_base_swa"},
    [TYPE_SLIDING] = {"rope_parameters.sliding_attention.rope_type", WORD, false, NULL},
    [PATCH] = {"vision_config.patch_size", WHOLE, false, NULL},
    [MERGE] = {"vision_config.pooling_kernel_size", WHOLE, false, NULL},
};

/* model_type of a file and what GGUF calls it; another one is passed on as it is, and refused by
 * whoever cannot run it. */
static const struct {
    const char *type, *architecture;
} architectures[] = {
    {"gemma4_unified", "gemma4"},
    {"gemma4_unified_text", "gemma4"},
    {"gemma4", "gemma4"},
    {"gemma4_text", "gemma4"},
    {"gemma4_unified_assistant", "gemma4-assistant"},
    {"gemma4_assistant", "gemma4-assistant"},
};

struct value {
    bool set, first; /* first: stood where it goes before the other place */
    uint64_t whole;  /* of a flag: 1 is true */
    double real;
    char word[WORD_BYTES_MAX];
};

struct config {
    struct weights *w;
    struct value values[FIELDS];
    bool sliding[CHECKPOINT_LAYERS_MAX];
    size_t n_layer_types;
    struct buffer path, text;
    struct status *st;
};

/* ---- reading ---- */

static bool wrong(struct config *c, enum field field, const char *wanted)
{
    return status_fail(c->st, STATUS_CORRUPT, "%s: %s is wanted", fields[field].name, wanted);
}

static bool read_real(struct span number, double *out)
{
    char text[WORD_BYTES_MAX];
    if (number.size >= sizeof text)
        return false;
    memcpy(text, number.data, number.size);
    text[number.size] = 0;
    *out = strtod(text, NULL); /* no program of ours leaves the C locale */
    return isfinite(*out);
}

static bool read_word(struct config *c, struct json_scan *json, enum field field,
                      struct value *value)
{
    buffer_reset(&c->text);
    if (json_scan_peek(json) != '"')
        return wrong(c, field, "a word");
    if (!json_scan_string(json, &c->text, c->st))
        return false;
    if (c->text.size >= sizeof value->word ||
        (c->text.size && memchr(c->text.data, 0, c->text.size)))
        return wrong(c, field, "a shorter word");
    if (c->text.size)
        memcpy(value->word, c->text.data, c->text.size);
    value->word[c->text.size] = 0;
    return true;
}

static bool read_field(struct config *c, struct json_scan *json, enum field field, bool nested)
{
    /* of the model's type the top counts, of all others text_config */
    struct value value = {.set = true, .first = nested == (field != MODEL_TYPE)};
    struct span number;
    int first = json_scan_peek(json);

    if (first == 'n' || (c->values[field].first && !value.first))
        return json_scan_skip(json, c->st);
    switch (fields[field].kind) {
    case WORD:
        if (!read_word(c, json, field, &value))
            return false;
        break;
    case FLAG:
        if (first != 't' && first != 'f')
            return wrong(c, field, "true or false");
        value.whole = first == 't';
        if (!json_scan_word(json, first == 't' ? "true" : "false", c->st))
            return false;
        break;
    default:
        if (!json_scan_number(json, &number, c->st))
            return wrong(c, field, "a number");
        if (fields[field].kind == WHOLE ? !span_number(number, 0, UINT32_MAX, &value.whole)
                                        : !read_real(number, &value.real))
            return wrong(c, field, fields[field].kind == WHOLE ? "a whole number" : "a number");
    }
    c->values[field] = value;
    return true;
}

static bool read_layer_types(struct config *c, struct json_scan *json)
{
    struct json_walk walk = {0};

    c->n_layer_types = 0;
    while (json_scan_next(json, '[', &walk, c->st)) {
        buffer_reset(&c->text);
        if (!json_scan_string(json, &c->text, c->st))
            return status_wrap(c->st, "layer_types");
        bool sliding = span_is(buffer_span(&c->text), "sliding_attention");
        if (!sliding && !span_is(buffer_span(&c->text), "full_attention"))
            return status_fail(c->st, STATUS_UNSUPPORTED, "layer_types[%zu]: '%.*s' is not known",
                               c->n_layer_types, (int)(c->text.size < 40 ? c->text.size : 40),
                               (const char *)c->text.data);
        if (c->n_layer_types == CHECKPOINT_LAYERS_MAX)
            return status_fail(c->st, STATUS_LIMIT, "layer_types: more than %d",
                               CHECKPOINT_LAYERS_MAX);
        c->sliding[c->n_layer_types++] = sliding;
    }
    return walk.ended || status_wrap(c->st, "layer_types");
}

/* The fields of an object whose path is in c->path, and of those in it. */
static bool read_object(struct config *c, struct json_scan *json)
{
    static const char text_config[] = "text_config.";
    const size_t outer = c->path.size;
    struct json_walk walk = {0};

    while (json_scan_member(json, &walk, &c->text, c->st)) {
        c->path.size = outer;
        buffer_append(&c->path, c->text.data, c->text.size);
        struct span path = buffer_span(&c->path);
        bool nested = path.size > sizeof text_config &&
                      memcmp(path.data, text_config, sizeof text_config - 1) == 0;
        if (nested)
            path = span_of(path.data + sizeof text_config - 1, path.size - sizeof text_config + 1);
        size_t field = 0;
        while (field < FIELDS && !span_is(path, fields[field].name))
            field++;
        bool ok;
        if (field < FIELDS) {
            ok = read_field(c, json, (enum field)field, nested);
        } else if (span_is(path, "layer_types") && json_scan_peek(json) == '[') {
            ok = read_layer_types(c, json);
        } else if (json_scan_peek(json) == '{' && c->path.size < PATH_BYTES_MAX) {
            buffer_append_byte(&c->path, '.');
            ok = read_object(c, json);
        } else {
            ok = json_scan_skip(json, c->st);
        }
        if (!ok)
            return false;
    }
    return walk.ended;
}

/* ---- checking ---- */

static bool check(struct config *c)
{
    const struct value *v = c->values;

    for (size_t i = 0; i < FIELDS; i++)
        if (fields[i].required && !v[i].set)
            return status_fail(c->st, STATUS_CORRUPT, "%s is missing", fields[i].name);
    if (v[LAYERS].whole == 0 || v[LAYERS].whole != c->n_layer_types)
        return status_fail(c->st, STATUS_CORRUPT, "layer_types: %zu of them for %llu layers",
                           c->n_layer_types, (unsigned long long)v[LAYERS].whole);
    if (v[ACTIVATION].set && strcmp(v[ACTIVATION].word, "gelu_pytorch_tanh") != 0)
        return status_fail(c->st, STATUS_UNSUPPORTED, "hidden_activation: '%s' is not supported",
                           v[ACTIVATION].word);
    static const enum field never[] = {BIAS, DOUBLE_WIDE, ORDERED};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (v[never[i]].whole)
            return status_fail(c->st, STATUS_UNSUPPORTED, "%s: is not supported",
                               fields[never[i]].name);
    if (v[TYPE_SLIDING].set && strcmp(v[TYPE_SLIDING].word, "default") != 0)
        return status_fail(c->st, STATUS_UNSUPPORTED, "%s: '%s' is not supported",
                           fields[TYPE_SLIDING].name, v[TYPE_SLIDING].word);
    bool proportional = v[TYPE_FULL].set && strcmp(v[TYPE_FULL].word, "proportional") == 0;
    if (v[TYPE_FULL].set && !proportional && strcmp(v[TYPE_FULL].word, "default") != 0)
        return status_fail(c->st, STATUS_UNSUPPORTED, "%s: '%s' is not supported",
                           fields[TYPE_FULL].name, v[TYPE_FULL].word);
    if (v[FACTOR_FULL].set && (v[FACTOR_FULL].real < 0 || v[FACTOR_FULL].real > 1))
        return wrong(c, FACTOR_FULL, "a number from 0 to 1");
    if (v[FACTOR_FULL].set && v[FACTOR_FULL].real < 1 && !proportional)
        return status_fail(c->st, STATUS_UNSUPPORTED, "%s: only with rope_type 'proportional'",
                           fields[FACTOR_FULL].name);
    return true;
}

/* ---- giving ---- */

static void give_u32(struct config *c, const char *architecture, const char *name, uint64_t value)
{
    char key[WEIGHTS_NAME_BYTES_MAX];
    uint32_t number = (uint32_t)value;
    (void)snprintf(key, sizeof key, "%s.%s", architecture, name);
    weights_add_key(c->w, key, VALUE_U32, &number, sizeof number);
}

static void give_fields(struct config *c, const char *architecture)
{
    char key[WEIGHTS_NAME_BYTES_MAX];

    for (size_t i = 0; i < FIELDS; i++) {
        const struct value *v = &c->values[i];
        if (!v->set || !fields[i].key)
            continue;
        (void)snprintf(key, sizeof key, "%s.%s", architecture, fields[i].key);
        if (fields[i].kind == WHOLE)
            give_u32(c, architecture, fields[i].key, v->whole);
        else
            weights_add_key(c->w, key, VALUE_F64, &v->real, sizeof v->real);
    }
}

static void give_attention(struct config *c, const char *architecture)
{
    const struct value *v = c->values;
    uint64_t full = v[v[HEAD_DIM_FULL].set ? HEAD_DIM_FULL : HEAD_DIM].whole;
    uint64_t kv_full = v[v[KV_HEADS_FULL].set ? KV_HEADS_FULL : KV_HEADS].whole;
    uint32_t kv_heads[CHECKPOINT_LAYERS_MAX];
    uint8_t sliding[CHECKPOINT_LAYERS_MAX];
    size_t n = c->n_layer_types;
    char key[WEIGHTS_NAME_BYTES_MAX];

    for (size_t i = 0; i < n; i++) {
        sliding[i] = c->sliding[i];
        kv_heads[i] = (uint32_t)(c->sliding[i] ? v[KV_HEADS].whole : kv_full);
    }
    (void)snprintf(key, sizeof key, "%s.attention.head_count_kv", architecture);
    weights_add_array(c->w, key, VALUE_U32, n, kv_heads, n * sizeof *kv_heads);
    (void)snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", architecture);
    weights_add_array(c->w, key, VALUE_BOOL, n, sliding, n);
    give_u32(c, architecture, "attention.key_length", full);
    give_u32(c, architecture, "attention.value_length", full);
    give_u32(c, architecture, "attention.key_length_swa", v[HEAD_DIM].whole);
    give_u32(c, architecture, "attention.value_length_swa", v[HEAD_DIM].whole);
    if (v[EXPERTS_ON].whole) {
        give_u32(c, architecture, "expert_count", v[EXPERTS].whole);
        give_u32(c, architecture, "expert_used_count", v[EXPERTS_USED].whole);
        give_u32(c, architecture, "expert_feed_forward_length", v[EXPERT_FF].whole);
    }
}

static const struct tensor_view *find(const struct weights *w, const char *name)
{
    for (size_t i = 0; i < w->n_tensors; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return &w->tensors[i];
    return NULL;
}

static void give_media(struct config *c)
{
    if (!find(c->w, "v.patch_embd.weight"))
        return;
    weights_add_string(c->w, "clip.vision.projector_type", span_text("gemma4uv"));
    weights_add_string(c->w, "clip.audio.projector_type", span_text("gemma4ua"));
    give_u32(c, "clip.vision", "patch_size", c->values[PATCH].whole);
    give_u32(c, "clip.vision", "projector.scale_factor", c->values[MERGE].whole);
}

/* The proportional rule: of the pairs of a full layer's head the first factor * n turn, the others
 * never do (spec model.md section 3.2). GGUF has it as a tensor of divisors. */
static bool give_divisors(struct config *c)
{
    const struct value *v = c->values;
    struct weights *w = c->w;
    size_t n = v[v[HEAD_DIM_FULL].set ? HEAD_DIM_FULL : HEAD_DIM].whole / 2;

    if (!v[FACTOR_FULL].set || v[FACTOR_FULL].real >= 1 || find(w, "rope_freqs.weight"))
        return true;
    if (n == 0 || n > 1 << 16 || w->n_tensors == WEIGHTS_TENSORS_MAX)
        return status_fail(c->st, STATUS_CORRUPT, "head_dim: %zu pairs", n);
    float *divisors = weights_own(w, n * sizeof *divisors);
    size_t turning = (size_t)(v[FACTOR_FULL].real * (double)n);
    for (size_t i = 0; i < n; i++)
        divisors[i] = i < turning ? 1.0F : TURNS_NEVER;
    size_t at = w->n_tensors++;
    w->tensors = heap_resize(w->tensors, w->n_tensors, sizeof *w->tensors);
    w->layouts = heap_resize(w->layouts, w->n_tensors, sizeof *w->layouts);
    w->layouts[at] = (struct layout){0};
    w->tensors[at] = (struct tensor_view){.name = heap_text("rope_freqs.weight", 17),
                                          .type = quant_find(DTYPE_F32),
                                          .n_dims = 1,
                                          .dims = {n, 1, 1, 1},
                                          .data = divisors,
                                          .size_bytes = n * sizeof *divisors};
    return true;
}

static bool give(struct config *c)
{
    const char *architecture = c->values[MODEL_TYPE].word;

    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (strcmp(c->values[MODEL_TYPE].word, architectures[i].type) == 0)
            architecture = architectures[i].architecture;
    weights_add_string(c->w, "general.architecture", span_text(architecture));
    weights_add_string(c->w, "general.name", span_text(c->values[MODEL_TYPE].word));
    give_fields(c, architecture);
    give_attention(c, architecture);
    give_media(c);
    return give_divisors(c);
}

bool checkpoint_config(struct weights *w, struct span text, struct status *st)
{
    struct config *c = heap_new(1, sizeof *c);
    struct json_scan json = {.text = text};

    c->w = w;
    c->st = st;
    bool ok = read_object(c, &json) && json_scan_end(&json, st) && check(c) && give(c);
    buffer_clear(&c->path);
    buffer_clear(&c->text);
    heap_free(c);
    return ok;
}
