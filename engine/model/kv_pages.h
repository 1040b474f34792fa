/* kv_pages.h - the memory of pages of keys and values: many in one large mapping, so that they lie
 * in huge pages of the system, where a thread reads 31 GB/s instead of 25. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_page {
    uint8_t *data;    /* aligned to 64 bytes */
    void *block;      /* what heap_free wants; NULL: data lies in a slab */
    size_t holders;   /* lines and snapshots that look at it; 0: in a free list */
    size_t snapshots; /* of these */
    bool kept;        /* counted in page_pool.kept */
    struct kv_page *next_free;
};

struct kv_slab; /* a mapping */

/* Zeroed is empty. A page that was given is taken again first; until then it has no memory. */
struct kv_pages {
    struct kv_slab *slabs;
    struct kv_page *given;
};

/* A page of size_bytes, the same in all calls. Takes heap memory; the page's own when it is
 * written, up to 2 MiB more than there are pages taken. Never returns NULL. */
struct kv_page *kv_pages_take(struct kv_pages *pages, size_t size_bytes);
void kv_pages_give(struct kv_pages *pages, struct kv_page *page, size_t size_bytes);
/* All pages have been given. */
void kv_pages_clear(struct kv_pages *pages, size_t size_bytes);
