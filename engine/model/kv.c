#include "engine/base/heap.h"
#include "engine/model/kv_private.h"
#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

size_t kv_pages_of(size_t tokens)
{
    return tokens / KV_PAGE_TOKENS + (tokens % KV_PAGE_TOKENS != 0);
}

size_t kv_first_seen(const struct kv *kv, enum kv_kind kind, size_t position)
{
    size_t window = kv->hp->window;

    return kind == KV_SLIDING && position >= window ? (position + 1 - window) / KV_PAGE_TOKENS : 0;
}

static enum kv_kind kind_of(const struct kv *kv, size_t layer)
{
    return kv->hp->layer[layer].sliding ? KV_SLIDING : KV_FULL;
}

static const struct {
    const char *name;
    enum dtype type;
} types[] = {{"f16", DTYPE_F16}, {"q8", DTYPE_I8}, {"f32", DTYPE_F32}};

bool kv_type_read(enum dtype *out, const char *name, bool exact, struct status *st)
{
    if (name[0] == 0)
        name = exact ? "f32" : "f16";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) {
            *out = types[i].type;
            return true;
        }
    return status_fail(st, STATUS_INVALID, "kv type '%.20s': f16, q8 or f32 is wanted", name);
}

const char *kv_type_name(enum dtype type)
{
    size_t i = 0;
    while (types[i].type != type)
        i++;
    return types[i].name;
}

struct kv *kv_new(const struct hparams *hp, enum dtype type, size_t budget_bytes)
{
    struct kv *kv = heap_new(1, sizeof *kv);

    kv->hp = hp;
    kv->type = type;
    kv->budget_bytes = budget_bytes;
    for (size_t i = 0; i < hp->layers; i++) {
        struct page_pool *pool = &kv->pool[kind_of(kv, i)];
        size_t bytes = hp->layer[i].kv_heads * attend_head_bytes(type, hp->layer[i].head_dim);
        kv->keys_at[i] = pool->page_bytes;
        kv->values_at[i] = pool->page_bytes + bytes;
        pool->page_bytes += 2 * bytes;
    }
    return kv;
}

static void page_drop(struct page_pool *pool)
{
    struct kv_page *page = pool->free;

    assert(page);
    pool->free = page->next_free;
    pool->there--;
    kv_pages_give(&pool->memory, page, pool->page_bytes);
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        assert(kv->pool[kind].used == 0);
        while (kv->pool[kind].free)
            page_drop(&kv->pool[kind]);
        kv_pages_clear(&kv->pool[kind].memory, kv->pool[kind].page_bytes);
    }
    heap_free(kv);
}

enum dtype kv_type(const struct kv *kv)
{
    return kv->type;
}

size_t kv_page_bytes(const struct kv *kv, enum kv_kind kind)
{
    return kv->pool[kind].page_bytes;
}

size_t kv_token_bytes(const struct kv *kv, enum kv_kind kind)
{
    return kv->pool[kind].page_bytes / KV_PAGE_TOKENS;
}

size_t kv_held_bytes(const struct kv *kv, enum kv_kind kind, size_t tokens)
{
    size_t held = kind == KV_SLIDING && tokens > kv->hp->window ? kv->hp->window : tokens;

    return held * kv_token_bytes(kv, kind);
}

size_t kv_pages_used(const struct kv *kv, enum kv_kind kind)
{
    return kv->pool[kind].used;
}

static size_t bytes_reserved(const struct kv *kv)
{
    size_t bytes = 0;

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        bytes += (kv->pool[kind].reserved + kv->pool[kind].kept) * kv->pool[kind].page_bytes;
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
    size_t all = kv_pages_of(tokens_max);
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

bool kv_fits(const struct kv *kv, size_t tokens_max)
{
    return kv_line_bytes(kv, tokens_max) <= kv->budget_bytes - kv_reserved_bytes(kv);
}

bool kv_could(const struct kv *kv, size_t tokens_max)
{
    size_t lines = 0;

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        lines += kv->pool[kind].reserved * kv->pool[kind].page_bytes;
    return kv_line_bytes(kv, tokens_max) <= kv->budget_bytes - (lines - kv->extra_bytes);
}

void kv_fill(struct kv *kv, enum kv_kind kind)
{
    struct page_pool *pool = &kv->pool[kind];
    struct page_pool *other = &kv->pool[KV_KINDS - 1 - kind];
    size_t limit = kv->budget_bytes + kv->extra_bytes;

    while (pool->there < pool->reserved + pool->kept) {
        struct kv_page *page;
        while (pool->there * pool->page_bytes + other->there * other->page_bytes +
                   pool->page_bytes >
               limit)
            page_drop(other);
        page = kv_pages_take(&pool->memory, pool->page_bytes);
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
    kv_fill(kv, KV_SLIDING);
}

/* The budget has become smaller: unused pages go until it is kept. */
void kv_narrow(struct kv *kv, size_t rows)
{
    struct page_pool *pool = &kv->pool[KV_SLIDING];
    size_t pages = extra_pages(kv, rows);

    kv->extra_bytes -= pages * pool->page_bytes;
    pool->reserved -= pages;
    while (pool->there > pool->reserved + pool->kept && pool->free)
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
    line->n_pages = kv_pages_of(tokens_max);
    line->keys = heap_array(const void *, layers * line->n_pages);
    line->values = heap_array(const void *, layers * line->n_pages);
    line_pages(kv, tokens_max, line->reserved);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        line->pages[kind] = heap_array(struct kv_page *, line->n_pages);
        kv->pool[kind].reserved += line->reserved[kind];
    }
    for (size_t kind = 0; kind < KV_KINDS; kind++)
        kv_fill(kv, (enum kv_kind)kind);
    *out = line;
    return true;
}

void kv_line_enter(struct kv_line *line, enum kv_kind kind, size_t number, const uint8_t *data)
{
    struct kv *kv = line->kv;

    for (size_t i = 0; i < kv->hp->layers; i++) {
        if (kind_of(kv, i) != kind)
            continue;
        line->keys[i * line->n_pages + number] = data ? data + kv->keys_at[i] : NULL;
        line->values[i * line->n_pages + number] = data ? data + kv->values_at[i] : NULL;
    }
}

static struct kv_page *page_take(struct page_pool *pool)
{
    struct kv_page *page = pool->free;

    assert(page);
    pool->free = page->next_free;
    pool->used++;
    page->holders = 1;
    return page;
}

void kv_page_unkeep(struct page_pool *pool, struct kv_page *page)
{
    pool->kept -= page->kept;
    page->kept = false;
}

void kv_page_let_go(struct page_pool *pool, struct kv_page *page)
{
    if (--page->holders > 0)
        return;
    kv_page_unkeep(pool, page);
    page->next_free = pool->free;
    pool->free = page;
    pool->used--;
}

static void page_release(struct kv_line *line, enum kv_kind kind, size_t number)
{
    struct kv_page *page = line->pages[kind][number];

    line->pages[kind][number] = NULL;
    kv_line_enter(line, kind, number, NULL);
    kv_page_let_go(&line->kv->pool[kind], page);
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

/* What others look at is not written: the line goes on in a copy. */
static void page_own(struct kv_line *line, enum kv_kind kind, size_t number)
{
    struct page_pool *pool = &line->kv->pool[kind];
    struct kv_page *shared = line->pages[kind][number], *page = page_take(pool);

    memcpy(page->data, shared->data, pool->page_bytes);
    kv_page_let_go(pool, shared);
    line->pages[kind][number] = page;
    kv_line_enter(line, kind, number, page->data);
}

void kv_line_extend(struct kv_line *line, size_t begin, size_t end)
{
    size_t number = begin / KV_PAGE_TOKENS;

    assert(begin <= end);
    assert(kv_pages_of(end) <= line->n_pages);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        struct page_pool *pool = &line->kv->pool[kind];
        if (begin < end && number < line->end[kind] && line->pages[kind][number]->holders > 1)
            page_own(line, (enum kv_kind)kind, number);
        for (; pool->page_bytes && line->end[kind] < kv_pages_of(end); line->end[kind]++) {
            struct kv_page *page = page_take(pool);
            line->pages[kind][line->end[kind]] = page;
            kv_line_enter(line, (enum kv_kind)kind, line->end[kind], page->data);
        }
    }
}

struct attend_place kv_line_place(const struct kv_line *line, size_t layer, size_t position)
{
    const struct kv *kv = line->kv;
    uint8_t *data = line->pages[kind_of(kv, layer)][position / KV_PAGE_TOKENS]->data;

    return (struct attend_place){.keys = data + kv->keys_at[layer],
                                 .values = data + kv->values_at[layer],
                                 .at = position % KV_PAGE_TOKENS};
}

struct attend_shape kv_shape(const struct kv *kv, size_t layer)
{
    return (struct attend_shape){.heads = kv->hp->heads,
                                 .kv_heads = kv->hp->layer[layer].kv_heads,
                                 .head_dim = kv->hp->layer[layer].head_dim,
                                 .type = kv->type};
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
    size_t seen = kv_first_seen(line->kv, KV_SLIDING, oldest);

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        while (line->end[kind] > kv_pages_of(length) && line->end[kind] > line->first[kind])
            page_release(line, (enum kv_kind)kind, --line->end[kind]);
    while (line->first[KV_SLIDING] < seen && line->first[KV_SLIDING] < line->end[KV_SLIDING])
        page_release(line, KV_SLIDING, line->first[KV_SLIDING]++);
}
