#include "services/millrace/bench/machine.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/kernels/probe.h"
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define READ_BYTES ((size_t)512 << 20) /* far beyond any cache */
#define READ_PIECE ((size_t)4 << 20)
#define READ_TIMES 4
#define PRODUCTS ((size_t)2000 * 1000 * 1000) /* of each thread */
#define PRODUCTS_TIMES 3
#define FLOAT_SHARE 4 /* float32 products are fewer at once */
#define THREADS_MAX 256

struct machine {
    const struct probe *probe;
    struct pool *pool;
    size_t threads;
    uint8_t *data;            /* [READ_BYTES] */
    size_t done[THREADS_MAX]; /* by piece of work */
    volatile uint64_t sink;   /* so that nothing is left out */
};

struct machine *machine_new(size_t threads)
{
    struct machine *m = heap_new(1, sizeof *m);

    assert(threads <= THREADS_MAX);
    *m = (struct machine){.probe = probe_find(),
                          .pool = pool_new(threads),
                          .threads = threads,
                          .data = pages_new(READ_BYTES)}; /* huge pages, as weights lie in */
    assert(m->data);                                      /* 512 MB of address space */
    memset(m->data, 1, READ_BYTES);
    return m;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    pages_free(m->data, READ_BYTES);
    pool_free(m->pool);
    heap_free(m);
}

static void read_piece(void *context, size_t begin, size_t end, size_t thread)
{
    struct machine *m = context;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        m->sink += m->probe->read(m->data + i * READ_PIECE, READ_PIECE);
}

static void multiply_int8(void *context, size_t begin, size_t end, size_t thread)
{
    struct machine *m = context;
    int32_t sum = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        m->done[i] = m->probe->int8(PRODUCTS, &sum);
        m->sink += (uint64_t)sum;
    }
}

static void multiply_float32(void *context, size_t begin, size_t end, size_t thread)
{
    struct machine *m = context;
    float sum = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        m->done[i] = m->probe->float32(PRODUCTS / FLOAT_SHARE, &sum);
        m->sink += sum > 0;
    }
}

static double mean_s(struct machine *m, size_t times, size_t n, pool_work *work)
{
    int64_t begun_us = clock_now_us();

    for (size_t i = 0; i < times; i++)
        pool_run(m->pool, n, 1, work, m);
    return (double)(clock_now_us() - begun_us) * 1e-6 / (double)times;
}

double machine_bytes_per_s(struct machine *m)
{
    return (double)READ_BYTES / mean_s(m, READ_TIMES, READ_BYTES / READ_PIECE, read_piece);
}

static double products_per_s(struct machine *m, pool_work *work)
{
    double s = mean_s(m, PRODUCTS_TIMES, m->threads, work);
    return (double)(m->threads * m->done[0]) / s;
}

double machine_int8_products_per_s(struct machine *m)
{
    return products_per_s(m, multiply_int8);
}

double machine_float_products_per_s(struct machine *m)
{
    return products_per_s(m, multiply_float32);
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
