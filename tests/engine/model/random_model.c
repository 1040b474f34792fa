#include "tests/engine/model/random_model.h"
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LAYERS 2
#define HEADS 4
#define WINDOW 48
#define EXPERTS 6
#define EXPERTS_USED 2
#define ALIGN 32
#define ARCH "gemma4."

/* GGUF's numbers of the kinds of values. */
enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_STRING = 8, KIND_ARRAY = 9 };

/* Where a block keeps its half-float scale and its offset (-1: none), and offset / scale for a mean
 * of about zero. */
static const struct {
    enum dtype type;
    int scale, offset;
    float ratio;
} blocks[] = {
    {DTYPE_Q4_0, 0, -1, 0},   {DTYPE_Q4_1, 0, 2, -7.5F}, {DTYPE_Q5_0, 0, -1, 0},
    {DTYPE_Q5_1, 0, 2, -15},  {DTYPE_Q8_0, 0, -1, 0},    {DTYPE_Q2_K, 80, 82, 1.5F},
    {DTYPE_Q3_K, 108, -1, 0}, {DTYPE_Q4_K, 0, 2, 7.5F},  {DTYPE_Q5_K, 0, 2, 15.5F},
    {DTYPE_Q6_K, 208, -1, 0}, {DTYPE_IQ4_NL, 0, -1, 0},  {DTYPE_IQ4_XS, 0, -1, 0},
};

struct maker {
    const struct random_model *shape;
    const struct quant_row *type;
    size_t width, ff, expert_ff;
    size_t head_dim[2], kv_heads[2]; /* full, sliding */
    uint32_t random;
    float unit; /* root mean square of a block of scale 1 */
    uint64_t n_keys, n_tensors;
    struct buffer keys, infos, data;
};

/* Within [-1, 1]. */
static float noise(struct maker *m)
{
    return (float)(next_random(&m->random) % 20001) / 10000.0F - 1.0F;
}

/* ---- GGUF */

static void put(struct buffer *b, uint64_t value, size_t bytes)
{
    buffer_append(b, &value, bytes); /* little-endian */
}

static void put_text(struct buffer *b, const char *text)
{
    put(b, strlen(text), 8);
    buffer_append_text(b, text);
}

static void key(struct maker *m, const char *name, uint32_t kind)
{
    put_text(&m->keys, name);
    put(&m->keys, kind, 4);
    m->n_keys++;
}

static void key_u32(struct maker *m, const char *name, size_t value)
{
    key(m, name, KIND_U32);
    put(&m->keys, value, 4);
}

static void key_f32(struct maker *m, const char *name, float value)
{
    key(m, name, KIND_F32);
    buffer_append(&m->keys, &value, sizeof value);
}

/* Layer 1 is the full one. */
static void key_layers(struct maker *m, const char *name, uint32_t sliding, uint32_t full)
{
    key(m, name, KIND_ARRAY);
    put(&m->keys, KIND_I32, 4);
    put(&m->keys, LAYERS, 8);
    for (size_t i = 0; i < LAYERS; i++)
        put(&m->keys, i == 1 ? full : sliding, 4);
}

/* Announces a tensor; its bytes are appended to `data` next. */
static void tensor(struct maker *m, const char *name, enum dtype type, const size_t *dims,
                   size_t n_dims)
{
    while (m->data.size % ALIGN)
        buffer_append_byte(&m->data, 0);
    put_text(&m->infos, name);
    put(&m->infos, n_dims, 4);
    for (size_t i = 0; i < n_dims; i++)
        put(&m->infos, dims[i], 8);
    put(&m->infos, type, 4);
    put(&m->infos, m->data.size, 8);
    m->n_tensors++;
}

/* ---- values */

static void put_half(uint8_t *at, float value)
{
    uint16_t half = quant_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
}

/* A block of random bytes whose scale is about `scale`. */
static void make_block(struct maker *m, uint8_t *out, float scale)
{
    size_t row = 0;

    for (size_t i = 0; i < m->type->block_bytes; i++)
        out[i] = (uint8_t)next_random(&m->random);
    if (m->type->dtype == DTYPE_MXFP4) {
        out[0] = (uint8_t)(128 + (int)lroundf(log2f(scale)));
        return;
    }
    while (blocks[row].type != m->type->dtype)
        row++;
    put_half(out + blocks[row].scale, scale);
    if (blocks[row].offset >= 0)
        put_half(out + blocks[row].offset, scale * blocks[row].ratio);
}

static void measure_unit(struct maker *m)
{
    uint8_t block[256];
    float values[256];
    double sum = 0;
    size_t n = m->type->block_values;

    for (size_t i = 0; i < 64; i++) {
        make_block(m, block, 1);
        m->type->to_f32(values, block, n);
        for (size_t k = 0; k < n; k++)
            sum += (double)values[k] * (double)values[k];
    }
    m->unit = (float)sqrt(sum / (64.0 * (double)n));
}

/* Products of unit vectors are of unit size. */
static void matrix(struct maker *m, const char *name, size_t in, size_t out, size_t slabs)
{
    float scale = 1 / sqrtf((float)in);
    size_t n = in * out * slabs / m->type->block_values;
    uint8_t block[256];

    tensor(m, name, m->type->dtype, (size_t[]){in, out, slabs}, slabs > 1 ? 3 : 2);
    for (size_t i = 0; i < n; i++) {
        if (m->type->block_values == 1) {
            float value = 1.7F * scale * noise(m);
            m->type->from_f32(block, &value, 1);
        } else {
            make_block(m, block, scale / m->unit * (1 + 0.3F * noise(m)));
        }
        buffer_append(&m->data, block, m->type->block_bytes);
    }
}

/* float32 values of about `mean`. */
static void vector(struct maker *m, const char *name, size_t n, float mean)
{
    tensor(m, name, DTYPE_F32, &n, 1);
    for (size_t i = 0; i < n; i++) {
        float value = mean * (1 + 0.2F * noise(m));
        buffer_append(&m->data, &value, sizeof value);
    }
}

static void router(struct maker *m, const char *name)
{
    tensor(m, name, DTYPE_F32, (size_t[]){m->width, EXPERTS}, 2);
    for (size_t i = 0; i < m->width * EXPERTS; i++) {
        float value = m->shape->router_ties ? 0 : noise(m);
        buffer_append(&m->data, &value, sizeof value);
    }
}

/* A fourth of the pairs turns. */
static void divisors(struct maker *m)
{
    size_t n = m->head_dim[0] / 2;

    tensor(m, "rope_freqs.weight", DTYPE_F32, &n, 1);
    for (size_t i = 0; i < n; i++) {
        float value = i < n / 4 ? 1.0F : 1e30F;
        buffer_append(&m->data, &value, sizeof value);
    }
}

/* ---- the model */

static void keys(struct maker *m)
{
    key(m, "general.architecture", KIND_STRING);
    put_text(&m->keys, "gemma4");
    key_u32(m, ARCH "block_count", LAYERS);
    key_u32(m, ARCH "context_length", 8192);
    key_u32(m, ARCH "embedding_length", m->width);
    key_u32(m, ARCH "feed_forward_length", m->ff);
    key_u32(m, ARCH "attention.head_count", HEADS);
    key_layers(m, ARCH "attention.head_count_kv", (uint32_t)m->kv_heads[1],
               (uint32_t)m->kv_heads[0]);
    key_u32(m, ARCH "attention.key_length", m->head_dim[0]);
    key_u32(m, ARCH "attention.key_length_swa", m->head_dim[1]);
    key_f32(m, ARCH "attention.layer_norm_rms_epsilon", 1e-6F);
    key_u32(m, ARCH "attention.sliding_window", WINDOW);
    key_layers(m, ARCH "attention.sliding_window_pattern", 1, 0);
    key_f32(m, ARCH "rope.freq_base", 1e6F);
    key_f32(m, ARCH "rope.freq_base_swa", 1e4F);
    key_f32(m, ARCH "final_logit_softcapping", 30);
    if (m->shape->experts) {
        key_u32(m, ARCH "expert_count", EXPERTS);
        key_u32(m, ARCH "expert_used_count", EXPERTS_USED);
        key_u32(m, ARCH "expert_feed_forward_length", m->expert_ff);
    }
}

static void layer(struct maker *m, size_t i)
{
    size_t kind = i != 1, d = m->head_dim[kind], kv = m->kv_heads[kind] * d, width = m->width;
    char name[64];
#define NAME(part) ((void)snprintf(name, sizeof name, "blk.%zu." part, i), name)

    vector(m, NAME("attn_norm.weight"), width, 1);
    matrix(m, NAME("attn_q.weight"), width, HEADS * d, 1);
    matrix(m, NAME("attn_k.weight"), width, kv, 1);
    if (kind == 1)
        matrix(m, NAME("attn_v.weight"), width, kv, 1);
    matrix(m, NAME("attn_output.weight"), HEADS * d, width, 1);
    vector(m, NAME("attn_q_norm.weight"), d, sqrtf(2 / sqrtf((float)d)));
    vector(m, NAME("attn_k_norm.weight"), d, sqrtf(2 / sqrtf((float)d)));
    vector(m, NAME("post_attention_norm.weight"), width, 2);
    vector(m, NAME("ffn_norm.weight"), width, 1);
    matrix(m, NAME("ffn_gate.weight"), width, m->ff, 1);
    matrix(m, NAME("ffn_up.weight"), width, m->ff, 1);
    matrix(m, NAME("ffn_down.weight"), m->ff, width, 1);
    vector(m, NAME("post_ffw_norm.weight"), width, 2);
    vector(m, NAME("layer_output_scale.weight"), 1, 1);
    if (!m->shape->experts)
        return;
    router(m, NAME("ffn_gate_inp.weight"));
    vector(m, NAME("ffn_gate_inp.scale"), width, 2);
    matrix(m, NAME("ffn_gate_up_exps.weight"), width, 2 * m->expert_ff, EXPERTS);
    matrix(m, NAME("ffn_down_exps.weight"), m->expert_ff, width, EXPERTS);
    vector(m, NAME("ffn_down_exps.scale"), EXPERTS, 1);
    vector(m, NAME("pre_ffw_norm_2.weight"), width, 1);
    vector(m, NAME("post_ffw_norm_1.weight"), width, 1);
    vector(m, NAME("post_ffw_norm_2.weight"), width, 2);
#undef NAME
}

static void write_file(struct maker *m, char *path)
{
    struct buffer head = {0};
    int fd;

    buffer_append_text(&head, "GGUF");
    put(&head, 3, 4);
    put(&head, m->n_tensors, 8);
    put(&head, m->n_keys, 8);
    buffer_append(&head, m->keys.data, m->keys.size);
    buffer_append(&head, m->infos.data, m->infos.size);
    while (head.size % ALIGN)
        buffer_append_byte(&head, 0);
    buffer_append(&head, m->data.data, m->data.size);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head.data, head.size), head.size);
    (void)close(fd);
    buffer_clear(&head);
}

void random_model_write(char out[RANDOM_MODEL_PATH], const struct random_model *shape)
{
    struct maker m = {.shape = shape, .type = quant_find(shape->type), .random = shape->seed};
    bool large = m.type->block_values == 256;

    m.width = large ? 256 : 128;
    m.ff = large ? 256 : 160; /* an odd number of blocks of 32 */
    m.expert_ff = large ? 256 : 96;
    m.kv_heads[0] = 1;
    m.kv_heads[1] = 2;
    m.head_dim[0] = large ? 128 : 64;
    m.head_dim[1] = large ? 64 : 32;
    if (m.type->block_values > 1)
        measure_unit(&m);
    keys(&m);
    matrix(&m, "token_embd.weight", m.width, RANDOM_MODEL_VOCABULARY, 1);
    vector(&m, "output_norm.weight", m.width, 6);
    divisors(&m);
    for (size_t i = 0; i < LAYERS; i++)
        layer(&m, i);
    (void)snprintf(out, RANDOM_MODEL_PATH, "/tmp/millrace-random-XXXXXX");
    write_file(&m, out);
    buffer_clear(&m.keys);
    buffer_clear(&m.infos);
    buffer_clear(&m.data);
}
