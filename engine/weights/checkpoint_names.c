/* checkpoint_names.c - the tensors of a checkpoint under the names, shapes and types of GGUF. */
#include "engine/base/heap.h"
#include "engine/weights/checkpoint.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

struct row {
    const char *from, *to;
    bool f32; /* a matrix that is never of another type */
    enum layout_change change;
};

/* Said first, as often as they apply: a model with media and one without differ by them. */
static const char *const prefixes[] = {"model.", "language_model."};

/* Newer classes keep the picture's part elsewhere. */
static const struct {
    const char *from, *to;
} spellings[] = {
    {"embed_vision.patch_", "vision_embedder.patch_"},
    {"embed_vision.pos_", "vision_embedder.pos_"},
    {"embed_vision.multimodal_embedder.", "embed_vision."},
    {"embed_audio.multimodal_embedder.", "embed_audio."},
};

/* clang-format off */
static const struct row rows[] = {
    {"embed_tokens.weight", "token_embd.weight", 0, 0},
    {"norm.weight", "output_norm.weight", 0, 0},
    {"lm_head.weight", "output.weight", 0, 0},
    {"pre_projection.weight", "nextn.pre_projection.weight", 0, 0},
    {"post_projection.weight", "nextn.post_projection.weight", 0, 0},
    {"vision_embedder.patch_ln1.weight", "v.patch_norm.1.weight", 0, LAYOUT_PATCH},
    {"vision_embedder.patch_ln1.bias", "v.patch_norm.1.bias", 0, LAYOUT_PATCH},
    {"vision_embedder.patch_dense.weight", "v.patch_embd.weight", 0, LAYOUT_PATCH},
    {"vision_embedder.patch_dense.bias", "v.patch_embd.bias", 0, 0},
    {"vision_embedder.patch_ln2.weight", "v.patch_norm.2.weight", 0, 0},
    {"vision_embedder.patch_ln2.bias", "v.patch_norm.2.bias", 0, 0},
    {"vision_embedder.pos_embedding", "v.position_embd.weight", 0, LAYOUT_AXES},
    {"vision_embedder.pos_norm.weight", "v.patch_norm.3.weight", 0, 0},
    {"vision_embedder.pos_norm.bias", "v.patch_norm.3.bias", 0, 0},
    {"embed_vision.embedding_projection.weight", "mm.input_projection.weight", 0, 0},
    {"embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", 0, 0},
};

/* Behind "layers.N." and "blk.N.". */
static const struct row layer_rows[] = {
    {"input_layernorm.weight", "attn_norm.weight", 0, 0},
    {"self_attn.q_proj.weight", "attn_q.weight", 0, 0},
    {"self_attn.k_proj.weight", "attn_k.weight", 0, 0},
    {"self_attn.v_proj.weight", "attn_v.weight", 0, 0},
    {"self_attn.o_proj.weight", "attn_output.weight", 0, 0},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", 0, 0},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", 0, 0},
    {"post_attention_layernorm.weight", "post_attention_norm.weight", 0, 0},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight", 0, 0},
    {"mlp.gate_proj.weight", "ffn_gate.weight", 0, 0},
    {"mlp.up_proj.weight", "ffn_up.weight", 0, 0},
    {"mlp.down_proj.weight", "ffn_down.weight", 0, 0},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", 0, 0},
    {"layer_scalar", "layer_output_scale.weight", 0, 0},
    {"router.proj.weight", "ffn_gate_inp.weight", true, 0},
    {"router.scale", "ffn_gate_inp.scale", 0, 0},
    {"router.per_expert_scale", "ffn_down_exps.scale", 0, 0},
    {"experts.gate_up_proj", "ffn_gate_up_exps.weight", 0, 0},
    {"experts.down_proj", "ffn_down_exps.weight", 0, 0},
    {"post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", 0, 0},
    {"pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", 0, 0},
    {"post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", 0, 0},
};
/* clang-format on */

static bool skip_prefix(const char **text, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*text, prefix, n) != 0)
        return false;
    *text += n;
    return true;
}

static const struct row *find_row(const struct row *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].from, name) == 0)
            return &table[i];
    return NULL;
}

/* "layers.12.rest" -> 12 and "rest". */
static bool skip_layer(const char **name, unsigned *out_layer)
{
    const char *at = *name;
    if (!skip_prefix(&at, "layers.") || *at < '0' || *at > '9')
        return false;
    for (*out_layer = 0; *at >= '0' && *at <= '9'; at++) {
        *out_layer = *out_layer * 10 + (unsigned)(*at - '0');
        if (*out_layer >= CHECKPOINT_LAYERS_MAX)
            return false;
    }
    if (*at != '.')
        return false;
    *name = at + 1;
    return true;
}

/* The row of that name, and in `to` what the tensor is called from now on; NULL: no tensor of ours,
 * it keeps its name. */
static const struct row *translate(const char *name, char *to, size_t size)
{
    char other[WEIGHTS_NAME_BYTES_MAX + 64];
    unsigned layer;

    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0];)
        i = skip_prefix(&name, prefixes[i]) ? 0 : i + 1;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        if (skip_prefix(&name, spellings[i].from)) {
            (void)snprintf(other, sizeof other, "%s%s", spellings[i].to, name);
            name = other;
            break;
        }
    if (skip_layer(&name, &layer)) {
        const struct row *row = find_row(layer_rows, sizeof layer_rows / sizeof *layer_rows, name);
        if (row)
            (void)snprintf(to, size, "blk.%u.%s", layer, row->to);
        return row;
    }
    const struct row *row = find_row(rows, sizeof rows / sizeof *rows, name);
    if (row)
        (void)snprintf(to, size, "%s", row->to);
    return row;
}

/* Rows of three channels of a square tile. */
static bool check_patch(const struct tensor_view *t, struct status *st)
{
    size_t pixels = t->dims[0] / 3;
    size_t side = (size_t)sqrt((double)pixels);
    if (t->dims[0] % 3 != 0 || side * side != pixels)
        return status_fail(st, STATUS_CORRUPT,
                           "tensor '%s': rows of %zu values are no square tile of 3 channels",
                           t->name, t->dims[0]);
    return true;
}

static bool set_layout(struct weights *w, size_t index, const struct row *row, struct status *st)
{
    struct tensor_view *t = &w->tensors[index];
    struct layout *layout = &w->layouts[index];
    bool widen = (t->n_dims == 1 || row->f32) && t->type->dtype != DTYPE_F32;

    if (!t->type->to_f32)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor '%s': type %s holds no weights", t->name,
                           t->type->name);
    if (row->change == LAYOUT_PATCH && !check_patch(t, st))
        return false;
    if (row->change == LAYOUT_AXES && t->n_dims != 3)
        return status_fail(st, STATUS_CORRUPT, "tensor '%s': %zu axes, expected 3", t->name,
                           t->n_dims);
    if (!widen && row->change == LAYOUT_SAME)
        return true;
    *layout = (struct layout){.source = t->data, .type = t->type, .change = row->change};
    t->data = NULL;
    if (widen) {
        t->size_bytes = t->size_bytes / t->type->block_bytes * sizeof(float);
        t->type = quant_find(DTYPE_F32);
    }
    if (row->change == LAYOUT_AXES) { /* [positions][axes][width] is lent as [axes][positions] */
        size_t axes = t->dims[1];
        t->dims[1] = t->dims[2];
        t->dims[2] = axes;
    }
    return true;
}

bool checkpoint_names(struct weights *w, struct status *st)
{
    char to[WEIGHTS_NAME_BYTES_MAX];

    w->layouts = heap_array(struct layout, w->n_tensors);
    for (size_t i = 0; i < w->n_tensors; i++) {
        struct tensor_view *t = &w->tensors[i];
        const struct row *row = translate(t->name, to, sizeof to);
        if (!row)
            continue;
        if (!set_layout(w, i, row, st))
            return false;
        heap_free((char *)(uintptr_t)t->name);
        t->name = heap_text(to, strlen(to));
    }
    return true;
}
