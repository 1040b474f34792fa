#include "engine/model/kv.h"
#include "engine/base/heap.h"
#include "engine/kernels/kernels.h"
#include "engine/model/hparams.h"
#include "engine/model/kv_pages.h"
#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

/* All pages of one kind. used <= reserved + kept <= there, because a page in use is either kept, or
 * held by lines alone that have reserved room for it. Kept are pages of the sliding kind as long as
 * a snapshot holds them: the line that wrote them moves on and fills its reservation anew. Pages of
 * the full kind, once a snapshot has held them, until nobody does: lines hold them to their end, so
 * a line's reservation is smaller by those that are kept and that it will not write. */
struct page_pool {
    size_t page_bytes; /* 0: no such layer */
    size_t reserved, kept, there, used;
    struct kv_page *free; /* last in, first out: memory that was touched is used again first */
    struct kv_pages memory;
};

struct kv {
    const struct hparams *hp;
    enum dtype type;
    const struct kernel_set *set;
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
    size_t first[KV_KINDS];           /* pages before it have been let go */
    size_t end[KV_KINDS];             /* pages from here on are not there yet */
    struct kv_page **pages[KV_KINDS]; /* [n_pages] */
    const void **keys;                /* [layers][n_pages] */
    const void **values;              /* [layers][n_pages] */
};

struct kv_snapshot {
    struct kv *kv;
    size_t length;
    size_t first[KV_KINDS], end[KV_KINDS]; /* numbers of its pages */
    struct kv_page **pages[KV_KINDS];      /* [end - first] */
};

static size_t pages_of(size_t tokens)
{
    return tokens / KV_PAGE_TOKENS + (tokens % KV_PAGE_TOKENS != 0);
}

/* The first page of that kind that a query at `position` or later sees. */
static size_t first_seen(const struct kv *kv, enum kv_kind kind, size_t position)
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
    kv->set = kernels_find();
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

/* Have as many pages there as are reserved or kept. When the budget is full, unused pages of the
 * other kind make room: there are some, since the reservations fit. */
static void fill(struct kv *kv, enum kv_kind kind)
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
    fill(kv, KV_SLIDING);
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
    line->n_pages = pages_of(tokens_max);
    line->keys = heap_array(const void *, layers * line->n_pages);
    line->values = heap_array(const void *, layers * line->n_pages);
    line_pages(kv, tokens_max, line->reserved);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        line->pages[kind] = heap_array(struct kv_page *, line->n_pages);
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

static struct kv_page *page_take(struct page_pool *pool)
{
    struct kv_page *page = pool->free;

    assert(page);
    pool->free = page->next_free;
    pool->used++;
    page->holders = 1;
    return page;
}

static void page_unkeep(struct page_pool *pool, struct kv_page *page)
{
    pool->kept -= page->kept;
    page->kept = false;
}

static void page_let_go(struct page_pool *pool, struct kv_page *page)
{
    if (--page->holders > 0)
        return;
    page_unkeep(pool, page);
    page->next_free = pool->free;
    pool->free = page;
    pool->used--;
}

static void page_release(struct kv_line *line, enum kv_kind kind, size_t number)
{
    struct kv_page *page = line->pages[kind][number];

    line->pages[kind][number] = NULL;
    enter(line, kind, number, NULL);
    page_let_go(&line->kv->pool[kind], page);
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
    page_let_go(pool, shared);
    line->pages[kind][number] = page;
    enter(line, kind, number, page->data);
}

void kv_line_extend(struct kv_line *line, size_t begin, size_t end)
{
    size_t number = begin / KV_PAGE_TOKENS;

    assert(begin <= end);
    assert(pages_of(end) <= line->n_pages);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        struct page_pool *pool = &line->kv->pool[kind];
        if (begin < end && number < line->end[kind] && line->pages[kind][number]->holders > 1)
            page_own(line, (enum kv_kind)kind, number);
        for (; pool->page_bytes && line->end[kind] < pages_of(end); line->end[kind]++) {
            struct kv_page *page = page_take(pool);
            line->pages[kind][line->end[kind]] = page;
            enter(line, (enum kv_kind)kind, line->end[kind], page->data);
        }
    }
}

void kv_line_write(struct kv_line *line, size_t layer, size_t position, const float *key,
                   const float *value)
{
    struct kv *kv = line->kv;
    const struct hparams_layer *layer_of = &kv->hp->layer[layer];
    struct kv_page *page = line->pages[kind_of(kv, layer)][position / KV_PAGE_TOKENS];
    struct attend_shape shape = {
        .kv_heads = layer_of->kv_heads, .head_dim = layer_of->head_dim, .type = kv->type};

    kv->set->attend_store(&shape, page->data + kv->keys_at[layer],
                          page->data + kv->values_at[layer], position % KV_PAGE_TOKENS, key, value);
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
    size_t seen = first_seen(line->kv, KV_SLIDING, oldest);

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        while (line->end[kind] > pages_of(length) && line->end[kind] > line->first[kind])
            page_release(line, (enum kv_kind)kind, --line->end[kind]);
    while (line->first[KV_SLIDING] < seen && line->first[KV_SLIDING] < line->end[KV_SLIDING])
        page_release(line, KV_SLIDING, line->first[KV_SLIDING]++);
}

/* ---- snapshots */

/* Whether the line, whose snapshot reaches to `length`, will never write that page again. */
static bool finished(const struct kv_line *line, size_t number, size_t length)
{
    return (number + 1) * KV_PAGE_TOKENS <= length || number + 1 < line->end[KV_FULL];
}

/* The pages of a snapshot that are to be kept from now on, and those of them for which the line
 * gives a part of its reservation. */
static void snapshot_pages(const struct kv_line *line, const struct kv_snapshot *s,
                           size_t out_kept[KV_KINDS], size_t out_given[KV_KINDS])
{
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        out_kept[kind] = out_given[kind] = 0;
        for (size_t i = s->first[kind]; i < s->end[kind]; i++) {
            if (line->pages[kind][i]->kept)
                continue;
            out_kept[kind]++;
            out_given[kind] += kind == KV_FULL && finished(line, i, s->length);
        }
    }
}

static struct kv_snapshot extent_of(const struct kv_line *line, size_t length)
{
    struct kv_snapshot s = {.kv = line->kv, .length = length};

    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        if (s.kv->pool[kind].page_bytes == 0)
            continue;
        s.first[kind] = first_seen(s.kv, (enum kv_kind)kind, length);
        s.end[kind] = pages_of(length);
        assert(s.first[kind] >= line->first[kind]);
        assert(s.end[kind] <= line->end[kind]);
    }
    return s;
}

size_t kv_snapshot_need(const struct kv_line *line, size_t length)
{
    struct kv_snapshot extent = extent_of(line, length);
    size_t kept[KV_KINDS], given[KV_KINDS], need = 0;

    snapshot_pages(line, &extent, kept, given);
    for (size_t kind = 0; kind < KV_KINDS; kind++)
        need += (kept[kind] - given[kind]) * line->kv->pool[kind].page_bytes;
    return need;
}

bool kv_snapshot_new(struct kv_snapshot **out, struct kv_line *line, size_t length,
                     struct status *st)
{
    struct kv *kv = line->kv;
    struct kv_snapshot *s, extent = extent_of(line, length);
    size_t need = kv_snapshot_need(line, length), left = kv->budget_bytes - kv_reserved_bytes(kv);
    size_t kept[KV_KINDS], given[KV_KINDS];

    if (need > left)
        return status_fail(st, STATUS_BUSY,
                           "a snapshot of %zu tokens takes %zu bytes, %zu of %zu are left", length,
                           need, left, kv->budget_bytes);
    snapshot_pages(line, &extent, kept, given);
    s = heap_new(1, sizeof *s);
    *s = extent;
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        size_t n = s->end[kind] - s->first[kind];
        s->pages[kind] = heap_array(struct kv_page *, n);
        for (size_t i = 0; i < n; i++) {
            struct kv_page *page = line->pages[kind][s->first[kind] + i];
            page->holders++;
            page->snapshots++;
            page->kept = true;
            s->pages[kind][i] = page;
        }
        kv->pool[kind].kept += kept[kind];
        kv->pool[kind].reserved -= given[kind];
        line->reserved[kind] -= given[kind];
    }
    for (size_t kind = 0; kind < KV_KINDS; kind++)
        fill(kv, (enum kv_kind)kind);
    *out = s;
    return true;
}

void kv_snapshot_free(struct kv_snapshot *s)
{
    if (!s)
        return;
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        struct page_pool *pool = &s->kv->pool[kind];
        for (size_t i = 0; i < s->end[kind] - s->first[kind]; i++) {
            struct kv_page *page = s->pages[kind][i];
            if (--page->snapshots == 0 && kind == KV_SLIDING)
                page_unkeep(pool, page);
            page_let_go(pool, page);
        }
        heap_free(s->pages[kind]);
    }
    heap_free(s);
}

size_t kv_snapshot_length(const struct kv_snapshot *s)
{
    return s->length;
}

size_t kv_snapshot_bytes(const struct kv_snapshot *s)
{
    size_t bytes = 0;

    for (size_t kind = 0; kind < KV_KINDS; kind++)
        for (size_t i = 0; i < s->end[kind] - s->first[kind]; i++) {
            const struct kv_page *page = s->pages[kind][i];
            if (page->snapshots == 1 && (kind == KV_SLIDING || page->holders == 1))
                bytes += s->kv->pool[kind].page_bytes;
        }
    return bytes;
}

void kv_line_share(struct kv_line *line, const struct kv_snapshot *s)
{
    size_t whole = s->length / KV_PAGE_TOKENS;

    assert(line->kv == s->kv);
    assert(pages_of(s->length) <= line->n_pages);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        assert(line->end[kind] == 0);
        line->first[kind] = s->first[kind];
        line->end[kind] = s->end[kind];
        for (size_t i = s->first[kind]; i < s->end[kind]; i++) {
            struct kv_page *page = s->pages[kind][i - s->first[kind]];
            page->holders++;
            line->pages[kind][i] = page;
            enter(line, (enum kv_kind)kind, i, page->data);
        }
    }
    /* The whole pages are kept, and the line will not write them. */
    if (line->kv->pool[KV_FULL].page_bytes) {
        line->reserved[KV_FULL] -= whole;
        line->kv->pool[KV_FULL].reserved -= whole;
    }
}
