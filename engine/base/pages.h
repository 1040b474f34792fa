/* pages.h - large memory from the operating system, in huge pages where it has them. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Zeroed, aligned to 2 MiB; NULL when the address space has no room. Pages take memory when they
 * are first written. */
void *pages_new(size_t size_bytes);
void pages_free(void *pages, size_t size_bytes); /* NULL does nothing */

/* What processes could still get without swapping; 0 when nobody says. */
uint64_t pages_available_bytes(void);
