#include "gateway/release.h"
#include "engine/base/heap.h"
#include "proto/msg.h"
#include <stdatomic.h>

struct block {
    struct block *next;
    void *data;
    size_t size;
};

/* What nobody uses any more. ZeroMQ's thread may push; only the loop takes, and all at once, so
 * that no block can come back under a pop. */
static _Atomic(struct block *) dropped;
static struct block *waiting;

static void drop(void *context)
{
    struct block *block = context;

    if (block->size <= RELEASE_SLICE_BYTES) {
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

    *block = (struct block){.data = data, .size = size};
    return blob_wrap(data, size, drop, block);
}

bool release_step(void)
{
    if (!waiting)
        waiting = atomic_exchange(&dropped, NULL);
    if (!waiting)
        return false;
    struct block *block = waiting;
    if (block->size > RELEASE_SLICE_BYTES) {
        /* Shrinking a block of its own mapping unmaps its end and copies nothing. */
        block->size -= RELEASE_SLICE_BYTES;
        block->data = heap_resize(block->data, block->size, 1);
        return true;
    }
    waiting = block->next;
    heap_free(block->data);
    heap_free(block);
    return true;
}
