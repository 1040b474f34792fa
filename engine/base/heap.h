/* heap.h - the only door to malloc, with a guard that forbids it. */
#pragma once
#include <stddef.h>

/* n elements of `size` bytes, zeroed. Never returns NULL: sizes are bounded before they come here,
 * so a failure is a bug or a machine without memory, and the process ends with a clear line.
 * n == 0 gives a pointer that may be freed. */
void *heap_new(size_t n, size_t size);

/* Change the number of elements; new ones are not zeroed. block may be NULL. Never returns NULL. */
void *heap_resize(void *block, size_t n, size_t size);

/* NULL does nothing. */
void heap_free(void *block);

/* n bytes of text copied and ended with a zero. */
char *heap_text(const char *text, size_t n);

#define heap_array(type, n) ((type *)heap_new((n), sizeof(type)))

/* Between guard_on and guard_off, an allocation in this thread aborts with the guard's name.
 * Guards do not nest. */
void heap_guard_on(const char *name);
void heap_guard_off(void);
