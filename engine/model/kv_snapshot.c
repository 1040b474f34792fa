#include "engine/base/heap.h"
#include "engine/model/kv_private.h"
#include <assert.h>

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
        s.first[kind] = kv_first_seen(s.kv, (enum kv_kind)kind, length);
        s.end[kind] = kv_pages_of(length);
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
        kv_fill(kv, (enum kv_kind)kind);
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
                kv_page_unkeep(pool, page);
            kv_page_let_go(pool, page);
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
    assert(kv_pages_of(s->length) <= line->n_pages);
    for (size_t kind = 0; kind < KV_KINDS; kind++) {
        assert(line->end[kind] == 0);
        line->first[kind] = s->first[kind];
        line->end[kind] = s->end[kind];
        for (size_t i = s->first[kind]; i < s->end[kind]; i++) {
            struct kv_page *page = s->pages[kind][i - s->first[kind]];
            page->holders++;
            line->pages[kind][i] = page;
            kv_line_enter(line, (enum kv_kind)kind, i, page->data);
        }
    }
    /* The whole pages are kept, and the line will not write them. */
    if (line->kv->pool[KV_FULL].page_bytes) {
        line->reserved[KV_FULL] -= whole;
        line->kv->pool[KV_FULL].reserved -= whole;
    }
}
