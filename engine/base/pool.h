/* pool.h - worker threads: split a range, wait for all of it. Our only threads live here. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct pool;

/* n_threads >= 1 counts the calling thread: 1 makes no thread at all. */
struct pool *pool_new(size_t n_threads);
void pool_free(struct pool *pool);
size_t pool_threads(const struct pool *pool);

/* Call work(context, begin, end, thread) until [0, n) is covered, in pieces of at most `grain`
 * of which each thread goes through a range of its own, and then through half of what another has
 * left; returns when all are done. thread < n_threads tells which scratch memory to use. What a
 * piece computes must not depend on where pieces are cut. pool may be NULL: then the caller does
 * everything. Not reentrant. */
typedef void pool_work(void *context, size_t begin, size_t end, size_t thread);
void pool_run(struct pool *pool, size_t n, size_t grain, pool_work *work, void *context);
/* The same, but the threads take the pieces in order, one after the other: for a file, which is
 * read best from begin to end. */
void pool_run_in_order(struct pool *pool, size_t n, size_t grain, pool_work *work, void *context);

/* For that long from now the threads of the pool offer their core to others between two pieces of
 * work, and while they wait for each other: somebody has just been given something to do who wants
 * little of a core, but at once. pool may be NULL. */
void pool_give_way(struct pool *pool, int64_t us);
