/* release.h - large memory is given back slice by slice: unmapping 24 MB at once takes 3 ms. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define RELEASE_SLICE_BYTES ((size_t)1 << 20)

struct blob;

/* A blob of bytes that came from heap.h. The memory is the blob's now. */
struct blob *release_blob_take(void *data, size_t size);

/* Give one slice back; true while there is more. Called by the loop, once a turn. */
bool release_step(void);
