#include "engine/model/kv_pages.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"

#define ALIGN_BYTES 64
/* Address space only: a slab takes memory where its pages are written. */
#define SLAB_BYTES ((size_t)64 << 20)
/* Smaller ones, those of small models, are taken from the heap one by one: a huge page of the
 * system would hold more than such a model needs. */
#define PAGE_BYTES_MIN ((size_t)256 << 10)

struct kv_slab {
    struct kv_slab *next;
    uint8_t *data;
    struct kv_page *pages; /* [slab_pages] */
};

static size_t slab_pages(size_t size_bytes)
{
    return size_bytes < SLAB_BYTES ? SLAB_BYTES / size_bytes : 1;
}

/* A slab whose pages are all given; none when there is no address space. */
static void add_slab(struct kv_pages *pages, size_t size_bytes)
{
    size_t n = slab_pages(size_bytes);
    uint8_t *data = pages_new(n * size_bytes);

    if (!data)
        return;
    struct kv_slab *slab = heap_new(1, sizeof *slab);
    *slab = (struct kv_slab){pages->slabs, data, heap_array(struct kv_page, n)};
    pages->slabs = slab;
    for (size_t i = n; i-- > 0;) { /* the first is taken first */
        slab->pages[i] = (struct kv_page){.data = data + i * size_bytes, .next_free = pages->given};
        pages->given = &slab->pages[i];
    }
}

static struct kv_page *heap_page(size_t size_bytes)
{
    struct kv_page *page = heap_new(1, sizeof *page);

    page->block = heap_new(size_bytes + ALIGN_BYTES, 1);
    page->data = (uint8_t *)page->block + ALIGN_BYTES - (uintptr_t)page->block % ALIGN_BYTES;
    return page;
}

struct kv_page *kv_pages_take(struct kv_pages *pages, size_t size_bytes)
{
    if (!pages->given && size_bytes >= PAGE_BYTES_MIN)
        add_slab(pages, size_bytes);
    struct kv_page *page = pages->given;
    if (!page)
        return heap_page(size_bytes);
    pages->given = page->next_free;
    return page;
}

void kv_pages_give(struct kv_pages *pages, struct kv_page *page, size_t size_bytes)
{
    if (page->block) {
        heap_free(page->block);
        heap_free(page);
        return;
    }
    pages_give_back(page->data, size_bytes);
    page->next_free = pages->given;
    pages->given = page;
}

void kv_pages_clear(struct kv_pages *pages, size_t size_bytes)
{
    while (pages->slabs) {
        struct kv_slab *slab = pages->slabs;
        pages->slabs = slab->next;
        pages_free(slab->data, slab_pages(size_bytes) * size_bytes);
        heap_free(slab->pages);
        heap_free(slab);
    }
    pages->given = NULL;
}
