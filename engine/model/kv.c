#include "engine/model/kv.h"
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#define PAGE_ALIGN 64

struct page {
    uint8_t *data;  /* aligned, within block */
    void *block;    /* what heap_free wants */
    size_t holders; /* lines (and one day snapshots) that look at it; 0: in the free list */
    struct page *next_free;
};

/* All pages of one kind. in use <= reserved <= there. */
struct page_pool {
    size_t page_bytes; /* 0: no such layer */
    size_t reserved, there, used;
    struct page *free; /* last in, first out: memory that was touched is used again first */
};

struct kv {
    const struct hparams *hp;
    const struct quant_row *type;
    size_t budget_bytes;
    size_t extra_bytes; /* allowed beyond the budget by kv_widen */
    struct page_pool pool[KV_KINDS];
    size_t keys_at[HPARAMS_LAYERS_MAX]; /* offset of a layer in its kind of page */
    size_t values_at[HPARAMS_LAYERS_MAX];
};

struct kv_line {
    struct kv *kv;
    size_t n_pages; /* of tokens_max positions */
    size_t reserved[KV_KINDS];
    size_t first[KV_KINDS];        /* pages before it have been let go */
    size_t end[KV_KINDS];          /* pages from here on are not there yet */
    struct page **pages[KV_KINDS]; /* [n_pages] */
    const void **keys;             /* [layers][n_pages] */
    const void **values;           /* [layers][n_pages] */
};

static size_t pages_of(size_t tokens)
{
    return tokens / KV_PAGE_TOKENS + (tokens % KV_PAGE_TOKENS != 0);
}

static enum kv_kind kind_of(const struct kv *kv, size_t layer)
{
    return kv->hp->layer[layer].sliding ? KV_SLIDING : KV_FULL;
}

struct kv *kv_new(const struct hparams *hp, enum dtype type, size_t budget_bytes)
{
    struct kv *kv = heap_new(1, sizeof *kv);

    kv->hp = hp;
    kv->type = quant_find((uint32_t)type);
    assert(kv->type && kv->type->from_f32 && kv->type->block_values == 1);
    kv->budget_bytes = budget_bytes;
    for (size_t i = 0; i < hp->layers; i++) {
        struct page_pool *pool = &kv->pool[kind_of(kv, i)];
        size_t bytes =
            hp->layer[i].kv_heads * KV_PAGE_TOKENS * hp->layer[i].head_dim * kv->type->block_bytes;
        kv->keys_at[i] = pool->page_bytes;
        kv->values_at[i] = pool->page_bytes + bytes;
        pool->page_bytes += 2 * bytes;
    }
    return kv;
}

static void page_drop(struct page_pool *pool)
{
    struct page *page = pool->free;

    assert(page);
    pool->free = page->next_free;
    pool->there--;
    heap_free(page->block);
    heap_free(page);
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        assert(kv->pool[kind].used == 0);
        while (kv->pool[kind].free)
            page_drop(&kv->pool[kind]);
    }
    heap_free(kv);
}

enum dtype kv_type(const struct kv *kv)
{
    return kv->type->dtype;
}

size_t kv_page_bytes(const struct kv *kv, enum kv_kind kind)
{
    return kv->pool[kind].page_bytes;
}

size_t kv_pages_used(const struct kv *kv, enum kv_kind kind)
{
    return kv->pool[kind].used;
}

static size_t bytes_reserved(const struct kv *kv)
{
    size_t bytes = 0;

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        bytes += kv->pool[kind].reserved * kv->pool[kind].page_bytes;
    return bytes;
}

size_t kv_reserved_bytes(const struct kv *kv)
{
    return bytes_reserved(kv) - kv->extra_bytes;
}

/* Pages that a line of tokens_max positions may hold at once. In sliding layers: those of the
 * window - 1 older positions and of 64 new ones, wherever they fall in their pages. */
static void line_pages(const struct kv *kv, size_t tokens_max, size_t out[KV_KINDS])
{
    size_t all = pages_of(tokens_max);
    size_t window = (kv->hp->window + KV_PAGE_TOKENS - 2) / KV_PAGE_TOKENS + 2;

    out[KV_FULL] = kv->pool[KV_FULL].page_bytes ? all : 0;
    out[KV_SLIDING] = kv->pool[KV_SLIDING].page_bytes ? (window < all ? window : all) : 0;
}

size_t kv_line_bytes(const struct kv *kv, size_t tokens_max)
{
    size_t pages[KV_KINDS];

    line_pages(kv, tokens_max, pages);
    return pages[KV_SLIDING] * kv->pool[KV_SLIDING].page_bytes +
           pages[KV_FULL] * kv->pool[KV_FULL].page_bytes;
}

/* Have as many pages there as are reserved. When the budget is full, unused pages of the other kind
 * make room: there are some, since the reservations fit. */
static void fill(struct kv *kv, enum kv_kind kind)
{
    struct page_pool *pool = &kv->pool[kind];
    struct page_pool *other = &kv->pool[KV_KINDS - 1 - kind];
    size_t limit = kv->budget_bytes + kv->extra_bytes;

    while (pool->there < pool->reserved) {
        struct page *page;
        while (pool->there * pool->page_bytes + other->there * other->page_bytes +
                   pool->page_bytes >
               limit)
            page_drop(other);
        page = heap_new(1, sizeof *page);
        page->block = heap_new(pool->page_bytes + PAGE_ALIGN, 1);
        page->data = (uint8_t *)page->block + PAGE_ALIGN - (uintptr_t)page->block % PAGE_ALIGN;
        page->next_free = pool->free;
        pool->free = page;
        pool->there++;
    }
}

static size_t extra_pages(const struct kv *kv, size_t rows)
{
    return kv->pool[KV_SLIDING].page_bytes ? rows / KV_PAGE_TOKENS : 0;
}

void kv_widen(struct kv *kv, size_t rows)
{
    size_t pages = extra_pages(kv, rows);

    kv->extra_bytes += pages * kv->pool[KV_SLIDING].page_bytes;
    kv->pool[KV_SLIDING].reserved += pages;
    fill(kv, KV_SLIDING);
}

/* The budget has become smaller: unused pages go until it is kept. */
void kv_narrow(struct kv *kv, size_t rows)
{
    struct page_pool *pool = &kv->pool[KV_SLIDING];
    size_t pages = extra_pages(kv, rows);

    kv->extra_bytes -= pages * pool->page_bytes;
    pool->reserved -= pages;
    while (pool->there > pool->reserved && pool->free)
        page_drop(pool);
}

bool kv_line_new(struct kv_line **out, struct kv *kv, size_t tokens_max, struct status *st)
{
    struct kv_line *line;
    size_t need = kv_line_bytes(kv, tokens_max), held = kv_reserved_bytes(kv);
    size_t layers = kv->hp->layers;

    if (need > kv->budget_bytes - held)
        return status_fail(st, STATUS_BUSY,
                           "keys and values of %zu tokens take %zu bytes, %zu of %zu are left",
                           tokens_max, need, kv->budget_bytes - held, kv->budget_bytes);
    line = heap_new(1, sizeof *line);
    line->kv = kv;
    line->n_pages = pages_of(tokens_max);
    line->keys = heap_array(const void *, layers * line->n_pages);
    line->values = heap_array(const void *, layers * line->n_pages);
    line_pages(kv, tokens_max, line->reserved);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        line->pages[kind] = heap_array(struct page *, line->n_pages);
        kv->pool[kind].reserved += line->reserved[kind];
    }
    for (size_t kind = 0; kind < KV_KINDS; kind++)
        fill(kv, (enum kv_kind)kind);
    *out = line;
    return true;
}

/* Enter (or, with data NULL, take out) a page in the tables of all layers of its kind. */
static void enter(struct kv_line *line, enum kv_kind kind, size_t number, const uint8_t *data)
{
    struct kv *kv = line->kv;

    for (size_t i = 0; i < kv->hp->layers; i++) {
        if (kind_of(kv, i) != kind)
            continue;
        line->keys[i * line->n_pages + number] = data ? data + kv->keys_at[i] : NULL;
        line->values[i * line->n_pages + number] = data ? data + kv->values_at[i] : NULL;
    }
}

static void page_release(struct kv_line *line, enum kv_kind kind, size_t number)
{
    struct page_pool *pool = &line->kv->pool[kind];
    struct page *page = line->pages[kind][number];

    line->pages[kind][number] = NULL;
    enter(line, kind, number, NULL);
    if (--page->holders > 0)
        return;
    page->next_free = pool->free;
    pool->free = page;
    pool->used--;
}

void kv_line_free(struct kv_line *line)
{
    if (!line)
        return;
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        for (size_t i = line->first[kind]; i < line->end[kind]; i++)
            page_release(line, (enum kv_kind)kind, i);
        line->kv->pool[kind].reserved -= line->reserved[kind];
        heap_free(line->pages[kind]);
    }
    heap_free(line->keys);
    heap_free(line->values);
    heap_free(line);
}

void kv_line_extend(struct kv_line *line, size_t end)
{
    assert(pages_of(end) <= line->n_pages);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        struct page_pool *pool = &line->kv->pool[kind];
        for (; pool->page_bytes && line->end[kind] < pages_of(end); line->end[kind]++) {
            struct page *page = pool->free;
            assert(page);
            pool->free = page->next_free;
            pool->used++;
            page->holders = 1;
            line->pages[kind][line->end[kind]] = page;
            enter(line, (enum kv_kind)kind, line->end[kind], page->data);
        }
    }
}

void kv_line_write(struct kv_line *line, size_t layer, size_t position, const float *key,
                   const float *value)
{
    struct kv *kv = line->kv;
    const struct hparams_layer *shape = &kv->hp->layer[layer];
    struct page *page = line->pages[kind_of(kv, layer)][position / KV_PAGE_TOKENS];
    size_t row_bytes = shape->head_dim * kv->type->block_bytes;

    for (size_t head = 0; head < shape->kv_heads; head++) {
        size_t at = (head * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS) * row_bytes;
        kv->type->from_f32(page->data + kv->keys_at[layer] + at, key + head * shape->head_dim,
                           shape->head_dim);
        kv->type->from_f32(page->data + kv->values_at[layer] + at, value + head * shape->head_dim,
                           shape->head_dim);
    }
}

const void *const *kv_line_keys(const struct kv_line *line, size_t layer)
{
    return line->keys + layer * line->n_pages;
}

const void *const *kv_line_values(const struct kv_line *line, size_t layer)
{
    return line->values + layer * line->n_pages;
}

void kv_line_trim(struct kv_line *line, size_t length, size_t oldest)
{
    size_t window = line->kv->hp->window;
    /* A query at `oldest` sees keys from oldest - window + 1 on. */
    size_t seen = oldest >= window ? (oldest + 1 - window) / KV_PAGE_TOKENS : 0;

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        while (line->end[kind] > pages_of(length) && line->end[kind] > line->first[kind])
            page_release(line, (enum kv_kind)kind, --line->end[kind]);
    while (line->first[KV_SLIDING] < seen && line->first[KV_SLIDING] < line->end[KV_SLIDING])
        page_release(line, KV_SLIDING, line->first[KV_SLIDING]++);
}
