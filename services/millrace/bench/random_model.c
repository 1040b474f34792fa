#include "services/millrace/bench/random_model.h"
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "engine/text/tokenizer.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Shape of the 12B (spec model.md section 1.1). */
#define WIDTH 3840
#define FF 15360
#define HEADS 16
#define VOCABULARY 262144
#define PERIOD 6
#define HEAD_SLIDING 256
#define HEAD_FULL 512
#define KV_SLIDING 8
#define KV_FULL 1
#define WINDOW 1024
#define CONTEXT 262144
#define TURNING 64 /* pairs of a full layer's head that rotate */

#define ALIGNMENT 32
#define NAME_MAX_BYTES 64
#define LAYERS_MAX 96
#define TENSORS_MAX (LAYERS_MAX * 14 + 3)
#define PIECE_BLOCKS 4096 /* blocks that are made at a time */

/* Value types of GGUF metadata. */
enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

struct tensor {
    char name[NAME_MAX_BYTES];
    enum dtype type;
    size_t in, out; /* out 0: a vector */
    float mean;     /* of a vector */
};

struct writer {
    FILE *file;
    struct buffer head;
    struct tensor tensor[TENSORS_MAX];
    size_t n_tensors;
    uint64_t n_keys, random, done_bytes, all_bytes;
    int sys; /* errno of the write that failed */
};

/* ------------------------------------------------------------------ metadata */

static void put(struct writer *w, const void *data, size_t size)
{
    buffer_append(&w->head, data, size);
}

static void put_u32(struct writer *w, uint32_t x)
{
    put(w, &x, sizeof x);
}

static void put_u64(struct writer *w, uint64_t x)
{
    put(w, &x, sizeof x);
}

static void put_text(struct writer *w, const char *text)
{
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

static void key(struct writer *w, const char *name, uint32_t type)
{
    w->n_keys++;
    put_text(w, name);
    put_u32(w, type);
}

static void key_u32(struct writer *w, const char *name, uint32_t value)
{
    key(w, name, GGUF_U32);
    put_u32(w, value);
}

static void key_f32(struct writer *w, const char *name, float value)
{
    key(w, name, GGUF_F32);
    put(w, &value, sizeof value);
}

static void key_text(struct writer *w, const char *name, const char *value)
{
    key(w, name, GGUF_STRING);
    put_text(w, value);
}

static void key_array(struct writer *w, const char *name, uint32_t type, uint64_t n)
{
    key(w, name, GGUF_ARRAY);
    put_u32(w, type);
    put_u64(w, n);
}

static bool is_full(size_t layer)
{
    return (layer + 1) % PERIOD == 0;
}

static void put_shape(struct writer *w, size_t layers)
{
    key_text(w, "general.architecture", "gemma4");
    key_text(w, "general.name", "random weights of the 12B's shape");
    key_u32(w, "gemma4.block_count", (uint32_t)layers);
    key_u32(w, "gemma4.context_length", CONTEXT);
    key_u32(w, "gemma4.embedding_length", WIDTH);
    key_u32(w, "gemma4.feed_forward_length", FF);
    key_u32(w, "gemma4.attention.head_count", HEADS);
    key_array(w, "gemma4.attention.head_count_kv", GGUF_I32, layers);
    for (size_t i = 0; i < layers; i++)
        put_u32(w, is_full(i) ? KV_FULL : KV_SLIDING);
    key_u32(w, "gemma4.attention.key_length", HEAD_FULL);
    key_u32(w, "gemma4.attention.value_length", HEAD_FULL);
    key_u32(w, "gemma4.attention.key_length_swa", HEAD_SLIDING);
    key_u32(w, "gemma4.attention.value_length_swa", HEAD_SLIDING);
    key_f32(w, "gemma4.attention.layer_norm_rms_epsilon", 1e-6f);
    key_u32(w, "gemma4.attention.sliding_window", WINDOW);
    key_array(w, "gemma4.attention.sliding_window_pattern", GGUF_BOOL, layers);
    for (size_t i = 0; i < layers; i++)
        buffer_append_byte(&w->head, !is_full(i));
    key_u32(w, "gemma4.attention.shared_kv_layers", 0);
    key_u32(w, "gemma4.embedding_length_per_layer_input", 0);
    key_f32(w, "gemma4.rope.freq_base", 1e6f);
    key_f32(w, "gemma4.rope.freq_base_swa", 1e4f);
    key_u32(w, "gemma4.rope.dimension_count", HEAD_FULL);
    key_u32(w, "gemma4.rope.dimension_count_swa", HEAD_SLIDING);
    key_f32(w, "gemma4.final_logit_softcapping", 30.0f);
}

/* The control tokens by their names, all bytes, and words that mean nothing. */
static void put_vocabulary(struct writer *w)
{
    enum { CONTROL = 3, NORMAL = 1, BYTE = 6, BYTES_END = SPECIAL_COUNT + 256 };
    char piece[24];

    key_text(w, "tokenizer.ggml.model", "gemma4");
    key_array(w, "tokenizer.ggml.tokens", GGUF_STRING, VOCABULARY);
    for (int i = 0; i < VOCABULARY; i++) {
        if (i < SPECIAL_COUNT)
            (void)snprintf(piece, sizeof piece, "%s", tokenizer_special_name((enum special)i));
        else if (i < BYTES_END)
            (void)snprintf(piece, sizeof piece, "<0x%02X>", (unsigned)(i - SPECIAL_COUNT));
        else
            (void)snprintf(piece, sizeof piece, "w%d", i);
        put_text(w, piece);
    }
    key_array(w, "tokenizer.ggml.token_type", GGUF_I32, VOCABULARY);
    for (int i = 0; i < VOCABULARY; i++)
        put_u32(w, i < SPECIAL_COUNT ? CONTROL : i < BYTES_END ? BYTE : NORMAL);
    key_array(w, "tokenizer.ggml.merges", GGUF_STRING, 0);
    /* Nothing that ends an answer is ever chosen: what is measured would end with it. */
    key_array(w, "tokenizer.ggml.suppress_tokens", GGUF_I32, SPECIAL_COUNT);
    for (uint32_t i = 0; i < SPECIAL_COUNT; i++)
        put_u32(w, i);
}

/* ------------------------------------------------------------------ tensors */

static struct tensor *add(struct writer *w, enum dtype type, size_t in, size_t out)
{
    assert(w->n_tensors < TENSORS_MAX);
    struct tensor *t = &w->tensor[w->n_tensors++];
    *t = (struct tensor){.type = type, .in = in, .out = out};
    return t;
}

static void name_of(struct tensor *t, size_t layer, const char *part)
{
    (void)snprintf(t->name, sizeof t->name, "blk.%zu.%s.weight", layer, part);
}

static void add_layer(struct writer *w, size_t i, enum dtype type)
{
    size_t d = is_full(i) ? HEAD_FULL : HEAD_SLIDING;
    size_t kv = is_full(i) ? KV_FULL : KV_SLIDING;
    const struct {
        const char *name;
        size_t in, out;
        float mean;
    } parts[] = {
        {"attn_norm", WIDTH, 0, 1},
        {"attn_q", WIDTH, HEADS * d, 0},
        {"attn_k", WIDTH, kv * d, 0},
        {"attn_v", WIDTH, is_full(i) ? 0 : kv * d, 0},
        {"attn_output", HEADS * d, WIDTH, 0},
        {"attn_q_norm", d, 0, sqrtf(2 / sqrtf((float)d))},
        {"attn_k_norm", d, 0, sqrtf(2 / sqrtf((float)d))},
        {"post_attention_norm", WIDTH, 0, 1},
        {"ffn_norm", WIDTH, 0, 1},
        {"ffn_gate", WIDTH, FF, 0},
        {"ffn_up", WIDTH, FF, 0},
        {"ffn_down", FF, WIDTH, 0},
        {"post_ffw_norm", WIDTH, 0, 1},
        {"layer_output_scale", 1, 0, 1},
    };

    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        bool vector = parts[k].mean > 0;
        if (!vector && parts[k].out == 0)
            continue; /* a full layer has no attn_v */
        struct tensor *t = add(w, vector ? DTYPE_F32 : type, parts[k].in, parts[k].out);
        name_of(t, i, parts[k].name);
        t->mean = parts[k].mean;
    }
}

static size_t tensor_bytes(const struct tensor *t)
{
    const struct quant_row *row = quant_find(t->type);
    return t->in * (t->out ? t->out : 1) / row->block_values * row->block_bytes;
}

static size_t aligned(size_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_tensors(struct writer *w)
{
    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct tensor *t = &w->tensor[i];
        put_text(w, t->name);
        put_u32(w, t->out ? 2 : 1);
        put_u64(w, t->in);
        if (t->out)
            put_u64(w, t->out);
        put_u32(w, (uint32_t)t->type);
        put_u64(w, w->all_bytes);
        w->all_bytes += aligned(tensor_bytes(t));
    }
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016. */
static uint64_t next(struct writer *w)
{
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return w->random * UINT64_C(0x2545F4914F6CDD1D);
}

/* Random blocks whose values have about the deviation 1 / sqrt(in). */
static void fill_blocks(struct writer *w, uint8_t *out, const struct quant_row *row, size_t n,
                        size_t in)
{
    static const struct {
        enum dtype type;
        float deviation; /* of a value whose scale is 1 */
        size_t scale_at; /* of the half float in a block */
    } kinds[] = {{DTYPE_Q4_0, 4.6f, 0},
                 {DTYPE_Q8_0, 74.0f, 0},
                 {DTYPE_Q4_K, 4.6f * 32, 0},
                 {DTYPE_Q6_K, 18.5f * 32, 208}};
    size_t k = 0;

    while (kinds[k].type != row->dtype)
        k++;
    uint16_t scale = quant_f32_to_f16(1 / (kinds[k].deviation * sqrtf((float)in)));
    for (size_t i = 0; i < n * row->block_bytes; i += sizeof(uint64_t)) {
        uint64_t random = next(w);
        memcpy(out + i, &random, sizeof random);
    }
    for (size_t i = 0; i < n; i++, out += row->block_bytes) {
        if (row->dtype == DTYPE_Q6_K)
            memset(out + 192, 32, 16);
        memcpy(out + kinds[k].scale_at, &scale, sizeof scale);
    }
}

static void show(const struct writer *w)
{
    if (isatty(STDERR_FILENO))
        (void)fprintf(stderr, "\rmaking a random model: %.1f of %.1f GB ",
                      (double)w->done_bytes * 1e-9, (double)w->all_bytes * 1e-9);
}

static bool write_bytes(struct writer *w, const void *data, size_t size)
{
    if (fwrite(data, 1, size, w->file) == size)
        return true;
    w->sys = errno;
    return false;
}

static bool write_vector(struct writer *w, const struct tensor *t)
{
    float value[FF];
    size_t tail = aligned(t->in * sizeof *value) - t->in * sizeof *value;
    static const uint8_t zeros[ALIGNMENT];

    for (size_t i = 0; i < t->in; i++)
        value[i] = t->mean;
    if (strcmp(t->name, "rope_freqs.weight") == 0)
        for (size_t i = TURNING; i < t->in; i++)
            value[i] = 1e30f;
    return write_bytes(w, value, t->in * sizeof *value) && write_bytes(w, zeros, tail);
}

static bool write_matrix(struct writer *w, const struct tensor *t, uint8_t *piece)
{
    const struct quant_row *row = quant_find(t->type);
    size_t blocks = t->in * t->out / row->block_values;

    for (size_t at = 0; at < blocks; at += PIECE_BLOCKS) {
        size_t n = blocks - at < PIECE_BLOCKS ? blocks - at : PIECE_BLOCKS;
        fill_blocks(w, piece, row, n, t->in);
        if (!write_bytes(w, piece, n * row->block_bytes))
            return false;
    }
    return true; /* every matrix here is a multiple of the alignment */
}

static bool write_all(struct writer *w)
{
    uint8_t *piece = heap_array(uint8_t, (size_t)PIECE_BLOCKS * 256 + sizeof(uint64_t));
    bool ok = write_bytes(w, w->head.data, w->head.size);

    for (size_t i = 0; ok && i < w->n_tensors; i++) {
        const struct tensor *t = &w->tensor[i];
        show(w);
        ok = t->out ? write_matrix(w, t, piece) : write_vector(w, t);
        w->done_bytes += aligned(tensor_bytes(t));
    }
    if (isatty(STDERR_FILENO))
        (void)fputs("\r\033[K", stderr);
    heap_free(piece);
    return ok;
}

static void build_head(struct writer *w, size_t layers, enum dtype layer, enum dtype embedding)
{
    struct buffer body = {0};

    (void)snprintf(add(w, embedding, WIDTH, VOCABULARY)->name, NAME_MAX_BYTES, "token_embd.weight");
    struct tensor *t = add(w, DTYPE_F32, WIDTH, 0);
    (void)snprintf(t->name, sizeof t->name, "output_norm.weight");
    t->mean = 6;
    t = add(w, DTYPE_F32, HEAD_FULL / 2, 0);
    (void)snprintf(t->name, sizeof t->name, "rope_freqs.weight");
    t->mean = 1;
    for (size_t i = 0; i < layers; i++)
        add_layer(w, i, layer);
    put_shape(w, layers);
    put_vocabulary(w);
    put_tensors(w);
    body = w->head;
    w->head = (struct buffer){0};
    buffer_append_text(&w->head, "GGUF");
    put_u32(w, 3);
    put_u64(w, w->n_tensors);
    put_u64(w, w->n_keys);
    put(w, body.data, body.size);
    while (w->head.size % ALIGNMENT)
        buffer_append_byte(&w->head, 0);
    buffer_clear(&body);
}

bool random_model_write(const char *path, size_t layers, enum dtype layer, enum dtype embedding,
                        struct status *st)
{
    struct writer *w = heap_new(1, sizeof *w);
    bool ok;

    assert(layers > 0 && layers % PERIOD == 0 && layers <= LAYERS_MAX);
    w->random = UINT64_C(0x9E3779B97F4A7C15);
    build_head(w, layers, layer, embedding);
    w->file = fopen(path, "wb");
    ok = w->file && write_all(w);
    if (!w->file || (fclose(w->file) != 0 && ok)) {
        w->sys = errno;
        ok = false;
    }
    if (!ok)
        (void)status_fail_sys(st, w->sys, "write '%s'", path);
    buffer_clear(&w->head);
    heap_free(w);
    return ok;
}
