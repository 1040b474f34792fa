/* Attention at the shapes of the 12B: attend_bench [threads] [avx2]. Not run by ctest.
 *
 * For a token at some depth: the time of all its 48 layers, against two limits measured in between:
 * bytes of keys and values by the bandwidth of a read with all threads, and multiplications by the
 * peak of the kind that the kernel set uses. Then a prefill, against the second limit. The fastest
 * of some runs is taken; with one thread, processor time: a busy machine disturbs both less. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/kernels/attend.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/probe.h"
#include "engine/ops/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEADS ((size_t)16)
#define SLIDING_LAYERS 40
#define FULL_LAYERS 8
#define WINDOW ((size_t)1024)
/* Far more than any cache. Pages lie in huge pages of the system, as engine/model/kv_pages.c has
 * them, and the limit is measured there. */
#define FULL_BYTES ((size_t)600 << 20)
#define SLIDING_BYTES ((size_t)400 << 20)
#define RUNS 5
#define READ_BYTES ((size_t)256 << 20)

static bool lone; /* one thread */

static int64_t now_us(void)
{
    return lone ? (int64_t)clock() * 1000000 / CLOCKS_PER_SEC : clock_now_us();
}

/* ---- limits ---- */

/* 8-bit keys and values are multiplied by 16-bit numbers: half as many at once as bytes. */
static bool whole;

struct probing {
    const struct probe *probe;
    const uint8_t *data;
    volatile float sink[64];
    size_t products; /* of a task */
};

#define PRODUCTS ((size_t)1 << 25)

static void products_part(void *context, size_t begin, size_t end, size_t thread)
{
    struct probing *p = context;
    for (size_t i = begin; i < end; i++) {
        float sum = 0;
        int32_t whole_sum = 0;
        p->products = whole ? p->probe->int8(PRODUCTS * 2, &whole_sum) / 2
                            : p->probe->float32(PRODUCTS, &sum);
        p->sink[thread % 64] = sum + (float)whole_sum;
    }
}

static void read_part(void *context, size_t begin, size_t end, size_t thread)
{
    struct probing *p = context;
    p->sink[thread % 64] = (float)p->probe->read(p->data + begin, end - begin);
}

struct limits {
    double bytes_per_s, products_per_s;
};

/* Both grow to the best that was seen. */
static void measure_limits(struct limits *l, struct pool *pool, const uint8_t *memory)
{
    struct probing p = {.probe = probe_find(), .data = memory};
    size_t tasks = 4 * pool_threads(pool);
    int64_t start = now_us();
    pool_run(pool, tasks, 1, products_part, &p);
    double rate = (double)(tasks * p.products) / (double)(now_us() - start) * 1e6;
    l->products_per_s = rate > l->products_per_s ? rate : l->products_per_s;
    start = now_us();
    pool_run(pool, READ_BYTES, READ_BYTES / 16, read_part, &p);
    rate = (double)READ_BYTES / (double)(now_us() - start) * 1e6;
    l->bytes_per_s = rate > l->bytes_per_s ? rate : l->bytes_per_s;
}

/* ---- attention ---- */

struct bench {
    struct pool *pool;
    struct ops *ops;
    enum dtype type;
    uint8_t *full, *sliding; /* [FULL_BYTES], [SLIDING_BYTES] */
    const void **keys, **values;
    float *q, *out;
    struct attend_query *queries;
    struct limits limits;
};

#define QUERIES ((size_t)128)
#define KEYS_MAX ((size_t)262144)

static size_t page_bytes(const struct bench *b, const struct attend_shape *shape)
{
    return shape->kv_heads * attend_head_bytes(b->type, shape->head_dim);
}

/* Time of `layers` layers for n queries that end at `end`, in seconds. */
static double time_layers(struct bench *b, size_t kv_heads, size_t head_dim, size_t layers,
                          size_t n, size_t end)
{
    struct attend_shape shape = {
        .heads = HEADS, .kv_heads = kv_heads, .head_dim = head_dim, .type = b->type};
    size_t bytes = page_bytes(b, &shape), pages = (end + 63) / 64;
    size_t window = kv_heads > 1 ? WINDOW : end, first_page = (end - window) / 64 * (kv_heads > 1);
    size_t memory_bytes = kv_heads > 1 ? SLIDING_BYTES : FULL_BYTES;
    size_t there = memory_bytes / (2 * bytes * (pages - first_page));
    int64_t start = now_us();

    for (size_t layer = 0; layer < layers; layer++) {
        uint8_t *at = (kv_heads > 1 ? b->sliding : b->full) +
                      layer % there * 2 * bytes * (pages - first_page);
        for (size_t p = first_page; p < pages; p++, at += 2 * bytes) {
            b->keys[p] = at;
            b->values[p] = at + bytes;
        }
        for (size_t i = 0; i < n; i++) {
            size_t last = end - n + i + 1;
            b->queries[i] = (struct attend_query){.q = b->q + i * HEADS * head_dim,
                                                  .out = b->out + i * HEADS * head_dim,
                                                  .keys = b->keys,
                                                  .values = b->values,
                                                  .first = kv_heads > 1 ? first_page * 64 : 0,
                                                  .end = last};
        }
        ops_attend(b->ops, &shape, b->queries, n);
    }
    return (double)(now_us() - start) * 1e-6;
}

static double least(double a, double b)
{
    return a > 0 && a < b ? a : b;
}

static void bench_decode(struct bench *b, size_t depth)
{
    double sliding = 0, full = 0;
    double bytes_sliding =
        2.0 * 8 * (double)attend_head_bytes(b->type, 256) / 64 * SLIDING_LAYERS * (double)WINDOW;
    double bytes_full =
        2.0 * (double)attend_head_bytes(b->type, 512) / 64 * FULL_LAYERS * (double)depth;
    double products_sliding = 2.0 * HEADS * 256 * SLIDING_LAYERS * (double)WINDOW;
    double products_full = 2.0 * HEADS * 512 * FULL_LAYERS * (double)depth;

    for (size_t i = 0; i < RUNS; i++) {
        measure_limits(&b->limits, b->pool, b->sliding);
        sliding = least(sliding, time_layers(b, 8, 256, SLIDING_LAYERS, 1, depth));
        full = least(full, time_layers(b, 1, 512, FULL_LAYERS, 1, depth));
    }
    double memory = (bytes_sliding + bytes_full) / b->limits.bytes_per_s;
    double arithmetic = (products_sliding + products_full) / b->limits.products_per_s;
    double limit = memory > arithmetic ? memory : arithmetic;
    printf("token at %6zu: sliding %6.2f ms, full %7.2f ms; bytes alone %6.2f ms, products alone "
           "%7.2f ms; %.2f of the limit\n",
           depth, sliding * 1e3, full * 1e3, memory * 1e3, arithmetic * 1e3,
           (sliding + full) / limit);
}

static void bench_prefill(struct bench *b, size_t depth)
{
    double sliding = 0, full = 0;
    for (size_t i = 0; i < RUNS; i++) {
        measure_limits(&b->limits, b->pool, b->sliding);
        sliding = least(sliding, time_layers(b, 8, 256, 1, QUERIES, depth));
        full = least(full, time_layers(b, 1, 512, 1, QUERIES, depth));
    }
    double limit_sliding = 2.0 * HEADS * 256 * WINDOW * QUERIES / b->limits.products_per_s;
    double limit_full =
        2.0 * HEADS * 512 * ((double)depth - QUERIES / 2.0) * QUERIES / b->limits.products_per_s;
    printf("%zu tokens to %6zu: a sliding layer %6.2f ms, %.2f of the limit; a full layer %7.2f "
           "ms, %.2f\n",
           QUERIES, depth, sliding * 1e3, sliding / limit_sliding, full * 1e3, full / limit_full);
}

int main(int argc, char **argv)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_I8, DTYPE_F32};
    struct bench b = {.pool = pool_new(argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 1)};

    lone = pool_threads(b.pool) == 1;
    if (argc > 2 && strcmp(argv[2], "avx2") == 0)
        cpu_set_mask(CPU_AVX2);
    b.ops = ops_new(b.pool, PRECISION_FAST);
    b.full = pages_new(FULL_BYTES);
    b.sliding = pages_new(SLIDING_BYTES);
    if (!b.full || !b.sliding)
        return 1;
    memset(b.full, 0x2a, FULL_BYTES);
    memset(b.sliding, 0x2a, SLIDING_BYTES);
    b.keys = heap_array(const void *, KEYS_MAX / 64);
    b.values = heap_array(const void *, KEYS_MAX / 64);
    b.q = heap_array(float, QUERIES *HEADS * 512);
    b.out = heap_array(float, QUERIES *HEADS * 512);
    b.queries = heap_array(struct attend_query, QUERIES);
    for (size_t i = 0; i < QUERIES * HEADS * 512; i++)
        b.q[i] = (float)(i * 7919 % 2048) / 1024.0f - 1.0f;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        b.type = types[t];
        whole = b.type == DTYPE_I8;
        b.limits = (struct limits){0};
        printf("%s, kv %s, %zu threads\n", ops_name(b.ops), quant_find(b.type)->name,
               pool_threads(b.pool));
        bench_decode(&b, 8192);
        bench_decode(&b, 32768);
        if (b.type != DTYPE_F32) {
            bench_decode(&b, 131072);
            bench_decode(&b, KEYS_MAX);
        }
        bench_prefill(&b, 8192);
        printf("read %.1f GB/s, %.1f G products/s\n", b.limits.bytes_per_s * 1e-9,
               b.limits.products_per_s * 1e-9);
    }
    pages_free(b.full, FULL_BYTES);
    pages_free(b.sliding, SLIDING_BYTES);
    heap_free((void *)b.keys);
    heap_free((void *)b.values);
    heap_free(b.q);
    heap_free(b.out);
    heap_free(b.queries);
    ops_free(b.ops);
    pool_free(b.pool);
    return 0;
}
