#include "engine/base/arena.h"
#include "engine/base/heap.h"
#include <assert.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(address, size) ASAN_POISON_MEMORY_REGION((address), (size))
#define UNPOISON(address, size) ASAN_UNPOISON_MEMORY_REGION((address), (size))
#else
#define POISON(address, size) ((void)(address), (void)(size))
#define UNPOISON(address, size) ((void)(address), (void)(size))
#endif

void arena_init(struct arena *arena, size_t size_bytes)
{
    *arena =
        (struct arena){.base = heap_new(size_bytes + ARENA_ALIGN, 1), .size_bytes = size_bytes};
    POISON(arena->base, size_bytes + ARENA_ALIGN);
}

void arena_clear(struct arena *arena)
{
    if (arena->base)
        UNPOISON(arena->base, arena->size_bytes + ARENA_ALIGN);
    heap_free(arena->base);
    *arena = (struct arena){0};
}

void arena_reset(struct arena *arena)
{
    arena->used_bytes = 0;
    if (arena->base)
        POISON(arena->base, arena->size_bytes + ARENA_ALIGN);
}

void *arena_try(struct arena *arena, size_t n, size_t size)
{
    uintptr_t base = (uintptr_t)arena->base;
    uintptr_t at = (base + arena->used_bytes + ARENA_ALIGN - 1) & ~(uintptr_t)(ARENA_ALIGN - 1);
    size_t begin = (size_t)(at - base);

    if (size != 0 && n > SIZE_MAX / size)
        return NULL;
    if (begin > arena->size_bytes || n * size > arena->size_bytes - begin)
        return NULL;
    arena->used_bytes = begin + n * size;
    if (arena->used_bytes > arena->used_bytes_max)
        arena->used_bytes_max = arena->used_bytes;
    UNPOISON(arena->base + begin, n * size);
    return arena->base + begin;
}

void *arena_alloc(struct arena *arena, size_t n, size_t size)
{
    void *piece = arena_try(arena, n, size);
    assert(piece);
    return piece;
}
