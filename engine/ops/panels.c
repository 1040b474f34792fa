#include "engine/ops/panels.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/kernels/kernels.h"
#include "engine/weights/weights.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* What a thread reads from the file at once, to lay it out while it is in a cache. */
#define PIECE_BYTES ((size_t)1 << 20)
/* Pieces that a thread takes in a row. Threads go through the file together, so that a disk reads
 * in order; a few huge pages each, so that two threads seldom ask for the same one. */
#define PIECES_ONCE 4
#define PANEL_BYTES_MAX ((size_t)16 << 20) /* of a panel's rows as stored */

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

/* 0: it stays as it is stored. So do few rows, of which a panel would be mostly empty, and rows
 * that no matrix of a model is wide enough for: memory stays near what the file takes. */
static size_t panels_bytes(const struct tensor_view *w)
{
    const struct matmul_row *kernel = matmul_find(w->type->dtype, true);
    size_t panels = (rows_of(w) + PANEL_ROWS - 1) / PANEL_ROWS;

    if (!kernel || !kernel->panels || w->n_dims < 2 || rows_of(w) < PANEL_ROWS ||
        row_bytes_of(w) > PANEL_BYTES_MAX / PANEL_ROWS)
        return 0;
    return panels * ACT_STRIPS(w->dims[0]) * kernel->panels->strip_bytes;
}

static int by_data(const void *a, const void *b)
{
    const struct packed *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

/* A tensor on its way, cut in pieces: of whole panels; or, when it stays as it is stored, of bytes
 * (rows of 1) that are only read, so that the system has them at hand. */
struct laying {
    const struct tensor_view *w;
    struct packed to;   /* kernel NULL: it stays */
    size_t panel_bytes; /* made of PANEL_ROWS rows */
    size_t rows, piece_rows, first_piece;
};

struct lay_job {
    const struct weights *from;
    struct laying *tensors;          /* [n] by first_piece */
    size_t n, n_pieces, piece_bytes; /* the largest one, as it is stored */
    uint8_t **buffers;               /* [threads][piece_bytes] */
    struct status *failures;         /* [threads] */
    atomic_bool failed;
    atomic_size_t done_bytes;
    size_t all_bytes; /* of panels */
    ops_laid_out *progress;
    void *context;
};

static const struct laying *tensor_of(const struct lay_job *job, size_t piece)
{
    size_t low = 0, high = job->n;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (job->tensors[middle].first_piece <= piece)
            low = middle;
        else
            high = middle;
    }
    return &job->tensors[low];
}

static bool lay_piece(struct lay_job *job, size_t piece, size_t thread)
{
    const struct laying *t = tensor_of(job, piece);
    size_t row_bytes = t->to.row_bytes, first = (piece - t->first_piece) * t->piece_rows;
    size_t n = t->rows - first < t->piece_rows ? t->rows - first : t->piece_rows;
    struct weight_rows w = {
        .type = t->w->type, .row_bytes = row_bytes, .width = t->w->dims[0], .end = n};

    if (!weights_read(job->from, t->w, first * row_bytes, n * row_bytes, job->buffers[thread],
                      &job->failures[thread]))
        return false;
    if (!t->to.kernel)
        return true;
    w.data = job->buffers[thread];
    t->to.kernel->panels->pack(t->to.panels + first / PANEL_ROWS * t->panel_bytes, &w);
    size_t made = (n + PANEL_ROWS - 1) / PANEL_ROWS * t->panel_bytes;
    size_t done = atomic_fetch_add(&job->done_bytes, made) + made;
    if (job->progress && thread == 0) /* the caller's */
        job->progress(job->context, done, job->all_bytes);
    return true;
}

static void lay_part(void *context, size_t begin, size_t end, size_t thread)
{
    struct lay_job *job = context;

    for (size_t i = begin; i < end && !atomic_load(&job->failed); i++)
        if (!lay_piece(job, i, thread))
            atomic_store(&job->failed, true);
}

static struct laying laying_of(const struct tensor_view *w)
{
    size_t bytes = panels_bytes(w), rows = rows_of(w), row_bytes = row_bytes_of(w);

    if (bytes == 0)
        return (struct laying){
            .w = w, .to = {.row_bytes = 1}, .rows = w->size_bytes, .piece_rows = PIECE_BYTES};
    size_t panels = PIECE_BYTES / (PANEL_ROWS * row_bytes);
    return (struct laying){.w = w,
                           .to = {.kernel = matmul_find(w->type->dtype, true),
                                  .data = w->data,
                                  .size_bytes = w->size_bytes,
                                  .row_bytes = row_bytes},
                           .panel_bytes = bytes / ((rows + PANEL_ROWS - 1) / PANEL_ROWS),
                           .rows = rows,
                           .piece_rows = (panels > 0 ? panels : 1) * PANEL_ROWS};
}

static void collect(struct lay_job *job, const struct tensor_view *const *tensors, size_t n)
{
    job->tensors = heap_array(struct laying, n);
    for (size_t i = 0; i < n; i++) {
        if (!tensors[i]->data) /* made when it is asked for */
            continue;
        struct laying *t = &job->tensors[job->n++];
        *t = laying_of(tensors[i]);
        t->first_piece = job->n_pieces;
        if (t->piece_rows * t->to.row_bytes > job->piece_bytes)
            job->piece_bytes = t->piece_rows * t->to.row_bytes;
        job->n_pieces += (t->rows + t->piece_rows - 1) / t->piece_rows;
        job->all_bytes += panels_bytes(tensors[i]);
    }
}

static bool lay_all(struct lay_job *job, struct pool *pool, uint8_t *pages, struct status *st)
{
    size_t threads = pool_threads(pool), at = 0;

    for (size_t i = 0; i < job->n; i++) {
        job->tensors[i].to.panels = pages + at;
        at += panels_bytes(job->tensors[i].w);
    }
    job->buffers = heap_array(uint8_t *, threads);
    job->failures = heap_array(struct status, threads);
    for (size_t i = 0; i < threads; i++)
        job->buffers[i] = heap_new(job->piece_bytes, 1);
    pool_run_in_order(pool, job->n_pieces, PIECES_ONCE, lay_part, job);
    bool failed = atomic_load(&job->failed);
    for (size_t i = 0; i < threads; i++) {
        if (job->failures[i].code != STATUS_OK)
            *st = job->failures[i];
        heap_free(job->buffers[i]);
    }
    heap_free(job->buffers);
    heap_free(job->failures);
    return !failed;
}

static bool lay_out(struct panel_store *s, struct pool *pool, struct lay_job *job,
                    struct status *st)
{
    uint64_t available = pages_available_bytes();
    uint8_t *pages = available > job->all_bytes ? pages_new(job->all_bytes) : NULL;

    if (!pages)
        return status_fail(st, STATUS_LIMIT,
                           "laying weights out takes %zu MB of memory, %llu MB are free",
                           job->all_bytes >> 20, (unsigned long long)(available >> 20));
    if (!lay_all(job, pool, pages, st)) {
        pages_free(pages, job->all_bytes);
        return false;
    }
    if (job->progress)
        job->progress(job->context, job->all_bytes, job->all_bytes);
    s->regions = heap_resize(s->regions, s->n_regions + 1, sizeof *s->regions);
    s->regions[s->n_regions++] = (struct region){.pages = pages, .size_bytes = job->all_bytes};
    s->packed = heap_resize(s->packed, s->n + job->n, sizeof *s->packed);
    for (size_t i = 0; i < job->n; i++)
        if (job->tensors[i].to.kernel)
            s->packed[s->n++] = job->tensors[i].to;
    qsort(s->packed, s->n, sizeof *s->packed, by_data);
    return true;
}

bool panel_store_add(struct panel_store *s, struct pool *pool, const struct ops_tensors *tensors,
                     ops_laid_out *progress, void *context, struct status *st)
{
    struct lay_job job = {.from = tensors->from, .progress = progress, .context = context};

    collect(&job, tensors->views, tensors->n);
    bool ok = job.all_bytes == 0 || lay_out(s, pool, &job, st);
    heap_free(job.tensors);
    return ok;
}

size_t panel_store_bytes(const struct panel_store *s)
{
    size_t sum = 0;
    for (size_t i = 0; i < s->n_regions; i++)
        sum += s->regions[i].size_bytes;
    return sum;
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
