#include "services/millrace/bench/machine.h"
#include "engine/base/clock.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/kernels/probe.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define READ_BYTES ((size_t)512 << 20) /* of each thread: far beyond any cache */
#define READ_PIECE ((size_t)4 << 20)
#define PRODUCTS ((size_t)2000 * 1000 * 1000) /* of each thread */
#define TIMES 3                               /* of which the best counts: a limit is a limit */
#define THREADS_MAX 256

struct probing {
    const struct probe *probe;
    const uint8_t *data;
    size_t done[THREADS_MAX]; /* by thread */
    volatile uint64_t sink;   /* so that nothing is left out */
};

static void read_piece(void *context, size_t begin, size_t end, size_t thread)
{
    struct probing *p = context;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        p->sink += p->probe->read(p->data + i * READ_PIECE, READ_PIECE);
}

static void multiply_int8(void *context, size_t begin, size_t end, size_t thread)
{
    struct probing *p = context;
    int32_t sum = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        p->done[i] = p->probe->int8(PRODUCTS, &sum);
        p->sink += (uint64_t)sum;
    }
}

static void multiply_float32(void *context, size_t begin, size_t end, size_t thread)
{
    struct probing *p = context;
    float sum = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        p->done[i] = p->probe->float32(PRODUCTS / 4, &sum);
        p->sink += sum > 0;
    }
}

static double best_s(struct pool *pool, size_t n, pool_work *work, struct probing *p)
{
    double best = 1e9;

    for (int i = 0; i < TIMES; i++) {
        int64_t begun_us = clock_now_us();
        pool_run(pool, n, 1, work, p);
        double took = (double)(clock_now_us() - begun_us) * 1e-6;
        best = took < best ? took : best;
    }
    return best;
}

void machine_measure(struct machine *out, size_t threads)
{
    struct probing p = {.probe = probe_find()};
    struct pool *pool = pool_new(threads);
    uint8_t *data = pages_new(READ_BYTES); /* huge pages, as the weights lie in */

    assert(data); /* 512 MB of address space */
    memset(data, 1, READ_BYTES);
    p.data = data;
    out->bandwidth_bytes_per_s =
        (double)READ_BYTES / best_s(pool, READ_BYTES / READ_PIECE, read_piece, &p);
    pages_free(data, READ_BYTES);
    double s = best_s(pool, threads, multiply_int8, &p);
    out->int8_products_per_s = (double)(threads * p.done[0]) / s;
    s = best_s(pool, threads, multiply_float32, &p);
    out->float_products_per_s = (double)(threads * p.done[0]) / s;
    pool_free(pool);
}

const char *machine_cpu(void)
{
    static char name[128] = "unknown CPU";
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            (void)snprintf(name, sizeof name, "%.100s", strchr(line, ':') + 2);
            name[strcspn(name, "\n")] = 0;
            break;
        }
    if (file)
        (void)fclose(file);
    return name;
}
