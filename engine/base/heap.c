#include "engine/base/heap.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local const char *guard;

static _Noreturn void die(const char *why, size_t n, size_t size)
{
    (void)fprintf(stderr, "heap: %s (%zu elements of %zu bytes%s%s)\n", why, n, size,
                  guard ? ", guard " : "", guard ? guard : "");
    abort();
}

static void check(size_t n, size_t size)
{
    if (guard)
        die("allocation where none is allowed", n, size);
    if (size != 0 && n > PTRDIFF_MAX / size)
        die("size overflows", n, size);
}

void *heap_new(size_t n, size_t size)
{
    check(n, size);
    void *block = calloc(n ? n : 1, size ? size : 1);
    if (!block)
        die("out of memory", n, size);
    return block;
}

void *heap_resize(void *block, size_t n, size_t size)
{
    check(n, size);
    size_t bytes = n * size;
    void *moved = realloc(block, bytes ? bytes : 1);
    if (!moved)
        die("out of memory", n, size);
    return moved;
}

void heap_free(void *block)
{
    free(block);
}

char *heap_text(const char *text, size_t n)
{
    char *copy = heap_new(n + 1, 1);
    if (n)
        memcpy(copy, text, n);
    return copy;
}

void heap_guard_on(const char *name)
{
    guard = name;
}

void heap_guard_off(void)
{
    guard = NULL;
}
