/* kv_private.h - what kv.c (lines, the budget) and kv_snapshot.c share. */
#pragma once
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/kv_pages.h"

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

size_t kv_pages_of(size_t tokens); /* pages that hold so many positions */
/* The first page of that kind that a query at `position` or later sees. */
size_t kv_first_seen(const struct kv *kv, enum kv_kind kind, size_t position);
/* Have as many pages there as are reserved or kept. When the budget is full, unused pages of the
 * other kind make room: there are some, since the reservations fit. */
void kv_fill(struct kv *kv, enum kv_kind kind);
/* Enter (or, with data NULL, take out) a page in the tables of all layers of its kind. */
void kv_line_enter(struct kv_line *line, enum kv_kind kind, size_t number, const uint8_t *data);
void kv_page_unkeep(struct page_pool *pool, struct kv_page *page);
/* One that looked at it does so no more. */
void kv_page_let_go(struct page_pool *pool, struct kv_page *page);
