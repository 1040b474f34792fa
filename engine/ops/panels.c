#include "engine/ops/panels.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/kernels/kernels.h"
#include "engine/weights/weights.h"
#include <stdint.h>
#include <stdlib.h>

#define PACK_GRAIN 4 /* panels */

struct packed {
    const struct matmul_row *kernel;
    const uint8_t *data; /* of the stored rows */
    size_t size_bytes, row_bytes;
    uint8_t *panels;
};

struct region {
    void *pages;
    size_t size_bytes;
};

struct panel_store {
    struct packed *packed; /* sorted by data */
    size_t n;
    struct region *regions; /* one of each panel_store_add */
    size_t n_regions;
};

struct panel_store *panel_store_new(void)
{
    return heap_new(1, sizeof(struct panel_store));
}

void panel_store_free(struct panel_store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_regions; i++)
        pages_free(s->regions[i].pages, s->regions[i].size_bytes);
    heap_free(s->regions);
    heap_free(s->packed);
    heap_free(s);
}

static size_t rows_of(const struct tensor_view *w)
{
    return w->dims[1] * w->dims[2] * w->dims[3];
}

static size_t row_bytes_of(const struct tensor_view *w)
{
    return w->dims[0] / w->type->block_values * w->type->block_bytes;
}

/* 0: its kernel reads it as it is stored. */
static size_t panels_bytes(const struct tensor_view *w)
{
    const struct matmul_row *kernel = matmul_find(w->type->dtype, true);
    size_t panels = (rows_of(w) + PANEL_ROWS - 1) / PANEL_ROWS;

    if (!kernel || !kernel->panels || w->n_dims < 2)
        return 0;
    return panels * ACT_STRIPS(w->dims[0]) * kernel->panels->strip_bytes;
}

struct pack_job {
    struct weight_rows w;
    const struct packed *to;
};

static void pack_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct pack_job *job = context;
    struct weight_rows w = job->w;

    (void)thread;
    w.begin = begin * PANEL_ROWS;
    w.end = end * PANEL_ROWS < job->w.end ? end * PANEL_ROWS : job->w.end;
    job->to->kernel->panels->pack(job->to->panels, &w);
}

static void pack(const struct packed *to, const struct tensor_view *w, struct pool *pool)
{
    struct pack_job job = {.w = {.type = w->type,
                                 .data = w->data,
                                 .row_bytes = to->row_bytes,
                                 .width = w->dims[0],
                                 .end = rows_of(w)},
                           .to = to};

    pool_run(pool, (rows_of(w) + PANEL_ROWS - 1) / PANEL_ROWS, PACK_GRAIN, pack_part, &job);
}

static int by_data(const void *a, const void *b)
{
    const struct packed *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

bool panel_store_add(struct panel_store *s, struct pool *pool,
                     const struct tensor_view *const *matrices, size_t n, ops_laid_out *laid_out,
                     void *context)
{
    size_t all = 0, done = 0;

    for (size_t i = 0; i < n; i++)
        all += panels_bytes(matrices[i]);
    if (all == 0)
        return true;
    uint64_t available = pages_available_bytes();
    uint8_t *pages = available > all ? pages_new(all) : NULL;
    if (!pages)
        return false;
    s->regions = heap_resize(s->regions, s->n_regions + 1, sizeof *s->regions);
    s->regions[s->n_regions++] = (struct region){.pages = pages, .size_bytes = all};
    s->packed = heap_resize(s->packed, s->n + n, sizeof *s->packed);
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *w = matrices[i];
        size_t bytes = panels_bytes(w);
        if (bytes == 0)
            continue;
        struct packed *to = &s->packed[s->n++];
        *to = (struct packed){.kernel = matmul_find(w->type->dtype, true),
                              .data = w->data,
                              .size_bytes = w->size_bytes,
                              .row_bytes = row_bytes_of(w),
                              .panels = pages + done};
        pack(to, w, pool);
        done += bytes;
        if (laid_out)
            laid_out(context, w, done, all);
    }
    qsort(s->packed, s->n, sizeof *s->packed, by_data);
    return true;
}

const void *panel_store_find(const struct panel_store *s, const struct matmul_row *kernel,
                             const void *data, size_t *out_row)
{
    const uint8_t *at = data;
    size_t low = 0, high = s->n;

    while (low < high) { /* the first one behind `at` */
        size_t middle = (low + high) / 2;
        if (s->packed[middle].data <= at)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    const struct packed *found = &s->packed[low - 1];
    size_t offset = (size_t)(at - found->data);
    if (offset >= found->size_bytes || found->kernel != kernel)
        return NULL;
    *out_row = offset / found->row_bytes;
    return found->panels;
}
