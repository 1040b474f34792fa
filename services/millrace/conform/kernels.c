/* Cases without a model: storage types, kernels, sizes and resampling of pictures. */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/ops/ops.h"
#include "engine/quant/quant.h"
#include "services/millrace/conform/conform.h"
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ dequant */

bool conform_is_dequant(const struct conform_case *c)
{
    return conform_has(c, "f32.bytes") || conform_has(c, "q4_0.bytes");
}

static const struct quant_row *row_named(const char *name)
{
    for (uint32_t i = 0; i < 64; i++) {
        const struct quant_row *row = quant_find(i);
        if (row && strcmp(row->name, name) == 0)
            return row;
    }
    return NULL;
}

static void dequant_one(struct conform_case *c, const char *type)
{
    char bytes_name[64];
    char values_name[64];
    size_t n;

    (void)snprintf(bytes_name, sizeof bytes_name, "%s.bytes", type);
    (void)snprintf(values_name, sizeof values_name, "%s.values", type);
    if (conform_skips(c->run, type)) { /* said by the user, so not counted as overlooked */
        (void)conform_tensor(c, bytes_name);
        (void)conform_tensor(c, values_name);
        return;
    }
    const uint8_t *bytes = conform_u8(c, bytes_name, &n);
    const struct quant_row *row = row_named(type);
    if (!row || !row->to_f32) {
        conform_fail(c, "storage type %s is not read here", type);
        return;
    }
    size_t values = n / row->block_bytes * row->block_values;
    float *got = heap_array(float, values);
    if (bytes)
        row->to_f32(got, bytes, values);
    conform_compare(c, values_name, got, values, 0);
    heap_free(got);
}

void conform_dequant(struct conform_case *c)
{
    for (size_t i = 0; i < weights_tensors(c->file); i++) {
        const char *name = weights_at(c->file, i)->name;
        size_t n = strlen(name);
        char type[32];
        if (n < 7 || n > 30 || strcmp(name + n - 6, ".bytes") != 0)
            continue;
        (void)snprintf(type, sizeof type, "%.*s", (int)(n - 6), name);
        dequant_one(c, type);
    }
}

/* ------------------------------------------------------------------ kernels */

bool conform_is_kernels(const struct conform_case *c)
{
    return conform_has(c, "rms.x");
}

static void norms(struct conform_case *c, const struct ops *ops)
{
    size_t n;
    size_t width;
    const float *x = conform_f32(c, "rms.x", &n);
    const float *weight = conform_f32(c, "rms.weight", &width);

    if (!x || !weight || n % width)
        return;
    float *out = heap_array(float, n);
    ops_rmsnorm(ops, out, x, weight, n / width, width, 1e-6F);
    conform_compare(c, "rms.out", out, n, c->tolerance);
    ops_rmsnorm(ops, out, x, NULL, n / width, width, 1e-6F);
    conform_compare(c, "rms.out_plain", out, n, c->tolerance);
    heap_free(out);
}

static void curves(struct conform_case *c, const struct ops *ops)
{
    size_t n;
    const float *x = conform_f32(c, "gelu.x", &n);
    float *out = heap_array(float, n);

    if (x) {
        ops_gelu_mul(ops, out, x, NULL, n);
        conform_compare(c, "gelu.out", out, n, c->tolerance);
    }
    x = conform_f32(c, "softcap.x", &n);
    out = heap_resize(out, n, sizeof *out);
    if (x) {
        memcpy(out, x, n * sizeof *x);
        ops_softcap(ops, out, n, 30);
        conform_compare(c, "softcap.out", out, n, c->tolerance);
    }
    heap_free(out);
}

/* The rotary embedding of one kind of layer: frequencies, angles, and the turned heads. */
static void turn(struct conform_case *c, const struct ops *ops, const char *kind, float theta)
{
    char name[5][48];
    static const char *const parts[] = {"freq", "cos", "sin", "x", "out"};
    size_t n_x;
    size_t n_freq;
    size_t rows;

    for (size_t i = 0; i < 5; i++)
        (void)snprintf(name[i], sizeof name[i], "rope.%s.%s", kind, parts[i]);
    const int32_t *positions = conform_i32(c, "rope.positions", &rows);
    const float *wanted = conform_f32(c, name[0], &n_freq);
    const float *x = conform_f32(c, name[3], &n_x);
    if (!positions || !wanted || !x)
        return;
    float *divisors = heap_array(float, n_freq);
    float *freq = heap_array(float, n_freq);
    float *cos = heap_array(float, rows *n_freq);
    float *sin = heap_array(float, rows *n_freq);
    float *out = heap_array(float, n_x);
    /* A full layer's file says by divisors which pairs turn: here those whose frequency is not 0.
     */
    for (size_t i = 0; i < n_freq; i++)
        divisors[i] = wanted[i] < 1e-20F ? 1e30F : 1;
    ops_rope_frequencies(freq, 2 * n_freq, theta, divisors);
    conform_compare(c, name[0], freq, n_freq, 0);
    ops_rope_angles(cos, sin, positions, rows, freq, n_freq);
    conform_compare(c, name[1], cos, rows * n_freq, c->tolerance);
    conform_compare(c, name[2], sin, rows * n_freq, c->tolerance);
    memcpy(out, x, n_x * sizeof *x);
    ops_rope(ops, out, cos, sin, rows, n_x / (rows * 2 * n_freq), n_freq);
    conform_compare(c, name[4], out, n_x, c->tolerance);
    heap_free(divisors);
    heap_free(freq);
    heap_free(cos);
    heap_free(sin);
    heap_free(out);
}

/* Keys or values [tokens][kv][d] into pages, as attend.h has them. */
static float *make_pages(const float *rows, size_t tokens, size_t kv, size_t d, bool value,
                         const void **pages)
{
    size_t n_pages = (tokens + ATTEND_PAGE_KEYS - 1) / ATTEND_PAGE_KEYS;
    size_t page = kv * ATTEND_PAGE_KEYS * d;
    float *all = heap_array(float, n_pages *page);

    for (size_t t = 0; t < tokens; t++)
        for (size_t n = 0; n < kv * d; n++) {
            size_t at = t % ATTEND_PAGE_KEYS, i = n % d;
            float *head = all + t / ATTEND_PAGE_KEYS * page + n / d * ATTEND_PAGE_KEYS * d;
            head[value ? attend_value_place(DTYPE_F32, d, at, i)
                       : attend_key_place(DTYPE_F32, at, i)] = rows[t * kv * d + n];
        }
    for (size_t p = 0; p < n_pages; p++)
        pages[p] = all + p * page;
    return all;
}

/* What query q may see, as the model's masks say: the first key and the end. */
static void range_of(size_t q, size_t old, const int32_t *block, size_t n, size_t window,
                     size_t *first, size_t *end)
{
    size_t position = old + q;

    *end = position + 1;
    *first = window && position + 1 > window ? position + 1 - window : 0;
    if (window && block[q] != -1)
        while (*end < old + n && block[*end - old] == block[q])
            (*end)++;
}

static void attend_kind(struct conform_case *c, const struct ops *ops, const char *kind,
                        size_t window)
{
    const struct tensor_view *shape_q = conform_tensor(c, "attention.q");
    const struct tensor_view *shape_k = conform_tensor(c, "attention.k");
    const struct tensor_view *shape_v = conform_tensor(c, "attention.v");
    size_t n_block;
    const int32_t *block = conform_i32(c, "attention.block", &n_block);
    char name[64];
    const void *keys[64];
    const void *values[64];

    if (!shape_q || !shape_k || !shape_v || !block)
        return;
    size_t d = shape_q->dims[0];
    size_t heads = shape_q->dims[1];
    size_t n = shape_q->dims[2];
    size_t kv = shape_k->dims[1];
    size_t tokens = shape_k->dims[2];
    if (n != n_block || n > 64 || tokens > sizeof keys / sizeof *keys * ATTEND_PAGE_KEYS) {
        conform_fail(c, "attention: too large a case");
        return;
    }
    struct attend_shape shape = {.heads = heads, .kv_heads = kv, .head_dim = d, .type = DTYPE_F32};
    struct attend_query queries[64];
    float *k = make_pages(shape_k->data, tokens, kv, d, false, keys);
    float *v = make_pages(shape_v->data, tokens, kv, d, true, values);
    float *out = heap_array(float, n *heads *d);
    uint8_t *mask = heap_new(n * tokens, 1);
    for (size_t q = 0; q < n; q++) {
        queries[q] = (struct attend_query){.q = (const float *)shape_q->data + q * heads * d,
                                           .out = out + q * heads * d,
                                           .keys = keys,
                                           .values = values};
        range_of(q, tokens - n, block, n, window, &queries[q].first, &queries[q].end);
        memset(mask + q * tokens + queries[q].first, 1, queries[q].end - queries[q].first);
    }
    ops_attend(ops, &shape, queries, n);
    (void)snprintf(name, sizeof name, "attention.%s.mask", kind);
    conform_compare_u8(c, name, mask, n * tokens, 0);
    (void)snprintf(name, sizeof name, "attention.%s.out", kind);
    conform_compare(c, name, out, n * heads * d, c->tolerance);
    heap_free(k);
    heap_free(v);
    heap_free(out);
    heap_free(mask);
}

void conform_kernels(struct conform_case *c)
{
    struct ops *ops = ops_new(NULL, PRECISION_EXACT);
    size_t n;

    norms(c, ops);
    curves(c, ops);
    turn(c, ops, "sliding", 1e4F);
    turn(c, ops, "full", 1e6F);
    const int32_t *window = conform_i32(c, "attention.window", &n);
    if (window && n == 1 && *window > 0) {
        attend_kind(c, ops, "sliding", (size_t)*window);
        attend_kind(c, ops, "full", 0);
    }
    ops_free(ops);
}

/* ------------------------------------------------------------------ pictures */

bool conform_is_sizes(const struct conform_case *c)
{
    return conform_has(c, "table");
}

/* Rows: height, width, budget, target height, target width, tokens; zeros: refused. */
void conform_sizes(struct conform_case *c)
{
    size_t n;
    const int32_t *table = conform_i32(c, "table", &n);
    int32_t *got = heap_array(int32_t, n);

    for (size_t i = 0; table && i + 6 <= n; i += 6) {
        size_t height = 0;
        size_t width = 0;
        struct status st = {0};
        if (!image_target_size((size_t)table[i], (size_t)table[i + 1], (size_t)table[i + 2], 48,
                               &height, &width, &st))
            height = width = 0;
        memcpy(got + i, table + i, 3 * sizeof *got);
        got[i + 3] = (int32_t)height;
        got[i + 4] = (int32_t)width;
        got[i + 5] = (int32_t)(height * width / 2304);
    }
    conform_compare_i32(c, "table", got, n);
    heap_free(got);
}

bool conform_is_resize(const struct conform_case *c)
{
    return conform_has(c, "0.rgb") && conform_has(c, "0.budget");
}

/* Channel-first patches to the order of safetensors, ((y * side + x) * 3 + c). */
static void to_hf_order(float *out, const float *in, size_t n, size_t side)
{
    size_t pixels = side * side;

    for (size_t p = 0; p < n; p++)
        for (size_t i = 0; i < pixels; i++)
            for (size_t channel = 0; channel < 3; channel++)
                out[p * 3 * pixels + i * 3 + channel] = in[p * 3 * pixels + channel * pixels + i];
}

static void resize_one(struct conform_case *c, int number)
{
    static const char *const parts[] = {"rgb",        "budget",       "resized",
                                        "patches_hf", "patches_gguf", "positions"};
    char name[6][32];
    size_t height = 0;
    size_t width = 0;
    size_t n;
    struct status st = {0};

    for (size_t i = 0; i < 6; i++)
        (void)snprintf(name[i], sizeof name[i], "%d.%s", number, parts[i]);
    const struct tensor_view *rgb = conform_tensor(c, name[0]);
    const int32_t *budget = conform_i32(c, name[1], &n);
    const struct tensor_view *patches = conform_tensor(c, name[4]);
    const struct tensor_view *resized = conform_tensor(c, name[2]);
    if (!rgb || !budget || !patches || !resized)
        return;
    size_t side = 1;
    while (3 * side * side < patches->dims[0])
        side++;
    if (!image_target_size(rgb->dims[2], rgb->dims[1], (size_t)*budget, side, &height, &width,
                           &st)) {
        conform_fail(c, "%s: %s", name[0], st.text);
        return;
    }
    size_t tokens = (height / side) * (width / side);
    uint8_t *small = heap_new(height * width * 3, 1);
    float *first = heap_array(float, tokens * 3 * side * side);
    float *hf = heap_array(float, tokens * 3 * side * side);
    int32_t *positions = heap_array(int32_t, tokens * 2);
    image_resize(small, height, width, rgb->data, rgb->dims[2], rgb->dims[1]);
    conform_compare_u8(c, name[2], small, height * width * 3, 1);
    /* The patches of the case are those of its own resized picture. */
    if (resized->size_bytes == height * width * 3)
        image_patches(first, resized->data, height, width, side);
    conform_compare(c, name[4], first, tokens * 3 * side * side, 1e-6);
    to_hf_order(hf, first, tokens, side);
    conform_compare(c, name[3], hf, tokens * 3 * side * side, 1e-6);
    for (size_t i = 0; i < tokens; i++) {
        positions[2 * i] = (int32_t)(i % (width / side));
        positions[2 * i + 1] = (int32_t)(i / (width / side));
    }
    conform_compare_i32(c, name[5], positions, tokens * 2);
    heap_free(small);
    heap_free(first);
    heap_free(hf);
    heap_free(positions);
}

void conform_resize(struct conform_case *c)
{
    char name[32];

    for (int i = 0;; i++) {
        (void)snprintf(name, sizeof name, "%d.rgb", i);
        if (!conform_has(c, name))
            return;
        resize_one(c, i);
    }
}
