#include "engine/base/pool.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Workers spin this long for the next job before they sleep: jobs of one step follow each other
 * within microseconds, but a spinning pool would starve the gateway of a two-core box. */
#define SPIN_US 50
#define LINE 64 /* bytes of the cache */

struct worker {
    struct pool *pool;
    pthread_t thread;
    size_t index;
};

/* Pieces that are a thread's to do: begin in the upper half, end in the lower. */
struct share {
    _Atomic uint64_t pieces;
    char apart[LINE - sizeof(uint64_t)];
};

struct pool {
    size_t n_threads;
    struct worker *workers; /* [n_threads - 1] */
    struct share *shares;   /* [n_threads] */

    pool_work *work;
    void *context;
    size_t n, grain;
    bool in_order;   /* all take from the first share */
    atomic_uint job; /* counts jobs; a change is the starting signal */
    atomic_bool closing;
    _Atomic int64_t give_way_until_us; /* 0: no longer */
    /* What all write while they work has cache lines of its own: the rest is only read then. */
    char apart_running[LINE];
    atomic_size_t running; /* workers that have not finished the job */
    char apart_rest[LINE];

    pthread_mutex_t mutex; /* guards the two conditions only */
    pthread_cond_t wake;
    pthread_cond_t done;
};

static uint64_t pieces_of(uint64_t begin, uint64_t end)
{
    return begin << 32 | end;
}

/* The thread's next piece; false: it has none left. */
static bool take(struct share *own, size_t *out)
{
    uint64_t seen = atomic_load(&own->pieces);

    for (;;) {
        uint64_t begin = seen >> 32, end = seen & UINT32_MAX;
        if (begin >= end)
            return false;
        if (atomic_compare_exchange_weak(&own->pieces, &seen, pieces_of(begin + 1, end))) {
            *out = begin;
            return true;
        }
    }
}

/* The later half of what another one has left becomes the thread's own; false: there is none. */
static bool take_over(struct share *own, struct share *other)
{
    uint64_t seen = atomic_load(&other->pieces);

    for (;;) {
        uint64_t begin = seen >> 32, end = seen & UINT32_MAX, middle = begin + (end - begin) / 2;
        if (begin >= end)
            return false;
        if (atomic_compare_exchange_weak(&other->pieces, &seen, pieces_of(begin, middle))) {
            atomic_store(&own->pieces, pieces_of(middle, end));
            return true;
        }
    }
}

/* A thread that has just had its share does not come before us when it wakes, and the system looks
 * again at its next tick only, up to 4 ms later. */
static void give_way(struct pool *pool)
{
    int64_t until_us = atomic_load(&pool->give_way_until_us);

    if (until_us == 0) /* the usual case costs no look at the clock */
        return;
    if (clock_now_us() < until_us)
        (void)sched_yield();
    else
        (void)atomic_compare_exchange_strong(&pool->give_way_until_us, &until_us, 0);
}

/* Each thread goes through a range of its own: two that take pieces in turn from one range would
 * each fetch memory ahead that the other one reads. */
static void work_on(struct pool *pool, size_t thread)
{
    struct share *own = &pool->shares[pool->in_order ? 0 : thread];
    size_t piece, others = 1;

    while (others < pool->n_threads) {
        while (take(own, &piece)) {
            size_t begin = piece * pool->grain;
            size_t end = begin + pool->grain < pool->n ? begin + pool->grain : pool->n;
            pool->work(pool->context, begin, end, thread);
            give_way(pool);
        }
        if (pool->in_order) /* nobody has a share that could be taken over */
            return;
        for (others = 1; others < pool->n_threads; others++)
            if (take_over(own, &pool->shares[(thread + others) % pool->n_threads]))
                break;
    }
}

static void share_out(struct pool *pool)
{
    size_t pieces = (pool->n + pool->grain - 1) / pool->grain;

    assert(pieces <= UINT32_MAX);
    size_t shares = pool->in_order ? 1 : pool->n_threads;
    for (size_t i = 0; i < pool->n_threads; i++)
        atomic_store(&pool->shares[i].pieces,
                     i < shares ? pieces_of(pieces * i / shares, pieces * (i + 1) / shares) : 0);
}

static void wait_for_job(struct pool *pool, unsigned seen)
{
    int64_t until = clock_now_us() + SPIN_US;

    while (clock_now_us() < until) {
        if (atomic_load(&pool->job) != seen)
            return;
        give_way(pool);
    }
    (void)pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->job) == seen)
        (void)pthread_cond_wait(&pool->wake, &pool->mutex);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    unsigned seen = 0;

    for (;;) {
        wait_for_job(pool, seen);
        seen++;
        if (atomic_load(&pool->closing))
            return NULL;
        work_on(pool, worker->index);
        if (atomic_fetch_sub(&pool->running, 1) == 1) {
            (void)pthread_mutex_lock(&pool->mutex);
            (void)pthread_cond_signal(&pool->done);
            (void)pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void start_job(struct pool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->job, 1);
    (void)pthread_cond_broadcast(&pool->wake);
    (void)pthread_mutex_unlock(&pool->mutex);
}

struct pool *pool_new(size_t n_threads)
{
    assert(n_threads >= 1);
    struct pool *pool = heap_new(1, sizeof *pool);
    pool->n_threads = n_threads;
    pool->workers = heap_array(struct worker, n_threads - 1);
    pool->shares = heap_array(struct share, n_threads);
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->wake, NULL);
    (void)pthread_cond_init(&pool->done, NULL);
    for (size_t i = 0; i + 1 < n_threads; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i + 1};
        int failed = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        assert(!failed);
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->closing, true);
    start_job(pool);
    for (size_t i = 0; i + 1 < pool->n_threads; i++)
        (void)pthread_join(pool->workers[i].thread, NULL);
    (void)pthread_mutex_destroy(&pool->mutex);
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_cond_destroy(&pool->done);
    heap_free(pool->workers);
    heap_free(pool->shares);
    heap_free(pool);
}

void pool_give_way(struct pool *pool, int64_t us)
{
    if (pool)
        atomic_store(&pool->give_way_until_us, clock_now_us() + us);
}

size_t pool_threads(const struct pool *pool)
{
    return pool ? pool->n_threads : 1;
}

static void wait_for_workers(struct pool *pool)
{
    int64_t until = clock_now_us() + SPIN_US;

    while (clock_now_us() < until) {
        if (atomic_load(&pool->running) == 0)
            return;
        give_way(pool);
    }
    (void)pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->running) != 0)
        (void)pthread_cond_wait(&pool->done, &pool->mutex);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void run(struct pool *pool, size_t n, size_t grain, bool in_order, pool_work *work,
                void *context)
{
    assert(grain > 0);
    if (n == 0)
        return;
    if (!pool || pool->n_threads == 1 || n <= grain) {
        for (size_t begin = 0; begin < n; begin += grain) {
            work(context, begin, begin + grain < n ? begin + grain : n, 0);
            if (pool)
                give_way(pool);
        }
        return;
    }
    pool->work = work;
    pool->context = context;
    pool->n = n;
    pool->grain = grain;
    pool->in_order = in_order;
    share_out(pool);
    atomic_store(&pool->running, pool->n_threads - 1);
    start_job(pool);
    work_on(pool, 0);
    wait_for_workers(pool);
}

void pool_run(struct pool *pool, size_t n, size_t grain, pool_work *work, void *context)
{
    run(pool, n, grain, false, work, context);
}

void pool_run_in_order(struct pool *pool, size_t n, size_t grain, pool_work *work, void *context)
{
    run(pool, n, grain, true, work, context);
}
