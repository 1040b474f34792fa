/* Speed of the verbs at the shapes of the 12B: kernels_bench [threads [storage type]]. Not
 * run by ctest. The
 * fastest of some runs is shown; with one thread, processor time is measured: a busy machine
 * disturbs both less than an average of elapsed times. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/kernels/kernels.h"
#include "engine/ops/ops.h"
#include "engine/weights/weights.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NARROW ((size_t)3840)
#define WIDE ((size_t)15360)
#define BYTES ((size_t)256 << 20) /* of weights that are gone through: far more than any cache */
#define ENOUGH_US 300000

static bool lone; /* one thread */

static int64_t now_us(void)
{
    return lone ? (int64_t)clock() * 1000000 / CLOCKS_PER_SEC : clock_now_us();
}

static float *floats(size_t n)
{
    float *x = heap_array(float, n);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i * 7919) % 2048) / 1024.0f - 1.0f;
    return x;
}

/* A matrix of WIDE rows of NARROW values, or the other way about. */
static void bench_matmul(struct pool *pool, enum precision precision, enum dtype dtype, size_t rows,
                         size_t width, bool laid_out)
{
    size_t n_out = NARROW * WIDE / width;
    const struct quant_row *type = quant_find(dtype);
    size_t row_bytes = width / type->block_values * type->block_bytes;
    size_t size = row_bytes * n_out, copies = BYTES / size + 1, runs = 0;
    uint8_t *data = heap_array(uint8_t, copies * size);
    float *x = floats(rows * width), *out = floats(rows * n_out);
    struct ops *ops = ops_new(pool, precision);
    struct activations *a = activations_new(rows, width);

    memset(data, 0x2a, copies * size); /* small halves, as scales; what else, does not matter */
    activations_set(a, x, rows, width);
    struct tensor_view all = {.type = type,
                              .n_dims = 2,
                              .dims = {width, copies * n_out, 1, 1},
                              .data = data,
                              .size_bytes = copies * size};
    const struct tensor_view *views[] = {&all};
    struct status st = {0};
    laid_out = laid_out &&
               ops_lay_out(ops, &(struct ops_tensors){.views = views, .n = 1}, NULL, NULL, &st);
    int64_t begin = clock_now_us(), best = INT64_MAX;
    while (runs < 3 || clock_now_us() - begin < ENOUGH_US) {
        struct tensor_view w = {.type = type,
                                .n_dims = 2,
                                .dims = {width, n_out, 1, 1},
                                .data = data + runs % copies * size,
                                .size_bytes = size};
        int64_t start = now_us();
        ops_matmul(ops, out, n_out, &w, 0, n_out, a);
        int64_t took = now_us() - start;
        best = took < best ? took : best;
        runs++;
    }
    double seconds = (double)best * 1e-6;
    printf("matmul %-6s %-10s %-8s width %5zu, rows %3zu: %8.2f ms, %6.2f GB/s of weights, %7.2f G "
           "products/s\n",
           type->name, ops_name(ops), laid_out ? "panels" : "stored", width, rows, seconds * 1e3,
           (double)size / seconds * 1e-9, (double)(rows * n_out * width) / seconds * 1e-9);
    heap_free(data);
    heap_free(x);
    heap_free(out);
    activations_free(a);
    ops_free(ops);
}

static void bench_attend(struct pool *pool, size_t kv_heads, size_t head_dim, size_t n, size_t keys)
{
    struct attend_shape shape = {
        .heads = 16, .kv_heads = kv_heads, .head_dim = head_dim, .type = DTYPE_F16};
    size_t pages = keys / ATTEND_PAGE_KEYS + 1,
           page_bytes = kv_heads * ATTEND_PAGE_KEYS * head_dim * 2;
    uint8_t *memory = heap_array(uint8_t, 2 * pages * page_bytes);
    const void **k = heap_array(const void *, pages), **v = heap_array(const void *, pages);
    struct attend_query *queries = heap_array(struct attend_query, n);
    float *x = floats(n * 16 * head_dim), *out = floats(n * 16 * head_dim);
    struct ops *ops = ops_new(pool, PRECISION_FAST);
    size_t runs = 0;

    for (size_t i = 0; i < 2 * pages * page_bytes; i++)
        memory[i] = (uint8_t)(i % 2 ? 0x2a : i);
    for (size_t p = 0; p < pages; p++) {
        k[p] = memory + p * page_bytes;
        v[p] = memory + (pages + p) * page_bytes;
    }
    for (size_t i = 0; i < n; i++)
        queries[i] = (struct attend_query){.q = x + i * 16 * head_dim,
                                           .out = out + i * 16 * head_dim,
                                           .keys = k,
                                           .values = v,
                                           .end = keys};
    int64_t begin = clock_now_us(), best = INT64_MAX;
    for (; runs < 3 || clock_now_us() - begin < ENOUGH_US; runs++) {
        int64_t start = now_us();
        ops_attend(ops, &shape, queries, n);
        int64_t took = now_us() - start;
        best = took < best ? took : best;
    }
    double seconds = (double)best * 1e-6;
    printf("attend kv heads %zu, head %zu, queries %3zu, keys %5zu: %8.2f ms, %7.2f G products/s\n",
           kv_heads, head_dim, n, keys, seconds * 1e3,
           (double)(n * 16 * head_dim * keys * 2) / seconds * 1e-9);
    heap_free(memory);
    heap_free((void *)k);
    heap_free((void *)v);
    heap_free(queries);
    heap_free(x);
    heap_free(out);
    ops_free(ops);
}

static void bench_type(struct pool *pool, enum dtype dtype)
{
    static const size_t rows[] = {1, 2, 4, 8, 16, 128, 512};
    bool panels = matmul_find(dtype, true) && matmul_find(dtype, true)->panels;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t laid_out = 0; laid_out <= panels; laid_out++)
            bench_matmul(pool, PRECISION_FAST, dtype, rows[r], NARROW, laid_out);
    bench_matmul(pool, PRECISION_FAST, dtype, 512, WIDE, panels);
}

int main(int argc, char **argv)
{
    static const enum dtype types[] = {DTYPE_Q4_0, DTYPE_Q6_K, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_BF16};
    struct pool *pool = pool_new(argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 1);
    lone = pool_threads(pool) == 1;

    for (size_t t = 0; t < sizeof types / sizeof *types && argc < 3; t++)
        bench_type(pool, types[t]);
    for (uint32_t i = 0; i < 64 && argc == 3; i++)
        if (quant_find(i) && quant_find(i)->to_f32 && strcmp(quant_find(i)->name, argv[2]) == 0)
            bench_type(pool, (enum dtype)i);
    if (argc == 3) {
        pool_free(pool);
        return 0;
    }
    bench_matmul(pool, PRECISION_EXACT, DTYPE_Q4_0, 1, NARROW, false);
    bench_matmul(pool, PRECISION_EXACT, DTYPE_Q4_0, 128, NARROW, false);
    bench_attend(pool, 8, 256, 1, 1024);
    bench_attend(pool, 1, 512, 1, 8192);
    bench_attend(pool, 8, 256, 64, 1024);
    bench_attend(pool, 1, 512, 64, 4096);
    pool_free(pool);
    return 0;
}
