#include "gateway/release.h"
#include "engine/base/heap.h"
#include "proto/msg.h"
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct block {
    struct block *next;
    void *data;
    size_t left; /* bytes, from the start, that still have pages */
};

/* What nobody uses any more. ZeroMQ's thread may push; only the loop takes, and all at once, so
 * that no block can come back under a pop. */
static _Atomic(struct block *) dropped;
static struct block *waiting;

static void drop(void *context)
{
    struct block *block = context;

    if (block->left <= RELEASE_SLICE_BYTES) {
        heap_free(block->data);
        heap_free(block);
        return;
    }
    block->next = atomic_load(&dropped);
    while (!atomic_compare_exchange_weak(&dropped, &block->next, block))
        ;
}

struct blob *release_blob_take(void *data, size_t size)
{
    struct block *block = heap_array(struct block, 1);

    *block = (struct block){.data = data, .left = size};
    return blob_wrap(data, size, drop, block);
}

bool release_step(void)
{
    if (!waiting)
        waiting = atomic_exchange(&dropped, NULL);
    if (!waiting)
        return false;
    struct block *block = waiting;
    if (block->left > RELEASE_SLICE_BYTES) {
        /* The pages go, the addresses stay: what is freed in the end is nearly empty. */
        block->left -= RELEASE_SLICE_BYTES;
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t from = ((uintptr_t)block->data + block->left + page - 1) / page * page;
        (void)madvise((void *)from, RELEASE_SLICE_BYTES - page, MADV_DONTNEED);
        return true;
    }
    waiting = block->next;
    heap_free(block->data);
    heap_free(block);
    return true;
}
