/* arena.h - bump memory of a fixed size, reset as a whole, never freed piece by piece. */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define ARENA_ALIGN 64 /* bytes; every piece starts on a cache line */

struct arena {
    uint8_t *base;
    size_t size_bytes;
    size_t used_bytes;
    size_t used_bytes_max; /* the most that was ever used */
};

void arena_init(struct arena *arena, size_t size_bytes);
void arena_clear(struct arena *arena);

/* All pieces are gone; their memory is marked for AddressSanitizer. */
void arena_reset(struct arena *arena);

/* A piece of n * size bytes, not zeroed, valid until reset; NULL when the arena is full. */
void *arena_try(struct arena *arena, size_t n, size_t size);

/* As arena_try for callers that sized the arena themselves: full is our bug, and asserts. */
void *arena_alloc(struct arena *arena, size_t n, size_t size);

#define arena_array(arena, type, n) ((type *)arena_alloc((arena), (n), sizeof(type)))
