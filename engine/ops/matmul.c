/* Products, and the activations on their way into them. */
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/ops/panels.h"
#include "engine/ops/parts.h"
#include "engine/weights/weights.h"
#include <assert.h>

/* Output rows handed to a thread at least, of few and of many rows of activations: what a kernel
 * takes at once. */
#define FEW_GRAIN 32
#define MANY_GRAIN 64
/* Output rows of gate, then of up, that a thread makes at once: what may share a scale. One row of
 * activations waits for memory, which is read slower where these runs are shorter. */
#define GATED_GRAIN ACT_STRIP
#define GATED_EACH 16  /* a thread should get this many of them, so that all end together */
#define ROUND_GRAIN 16 /* strips: some 5 us */

/* Many rows are multiplied in blocks of so many, the last one with what is left: what a kernel
 * takes at once, so that threads can share a product evenly. */
#define BLOCK_ROWS ((size_t)64)
#define BLOCK_ROWS_MAX (2 * BLOCK_ROWS - 1)

/* One rounded form of the activations: block by block, each as act_rows has it. */
struct rounded {
    bool ready;
    int8_t *q;
    float *scale;
    int32_t *sum;
};

struct activations {
    size_t rows_max, width_max;
    size_t rows, width;
    const float *x;       /* NULL: they are not there, or rounded only */
    float *made;          /* where those go that are not there yet */
    const float *norm_of; /* what they will be the norm of; NULL: they are there */
    const float *norm_weight;
    float norm_epsilon;
    struct rounded by_32, by_256;
};

static void rounded_init(struct rounded *r, size_t rows_max, size_t width_max, size_t block)
{
    size_t n = rows_max * ACT_STRIPS(width_max) * ACT_STRIP;
    r->q = heap_array(int8_t, n);
    r->scale = heap_array(float, n / block);
    r->sum = heap_array(int32_t, n / ACT_GROUP(block));
}

static void rounded_clear(struct rounded *r)
{
    heap_free(r->q);
    heap_free(r->scale);
    heap_free(r->sum);
}

struct activations *activations_new(size_t rows_max, size_t width_max)
{
    struct activations *a = heap_new(1, sizeof *a);
    a->rows_max = rows_max;
    a->width_max = width_max;
    rounded_init(&a->by_32, rows_max, width_max, 32);
    rounded_init(&a->by_256, rows_max, width_max, 256);
    return a;
}

void activations_free(struct activations *a)
{
    if (!a)
        return;
    rounded_clear(&a->by_32);
    rounded_clear(&a->by_256);
    heap_free(a);
}

static void begin(struct activations *a, size_t rows, size_t width)
{
    assert(rows <= a->rows_max);
    assert(width <= a->width_max);
    a->rows = rows;
    a->width = width;
    a->x = NULL;
    a->norm_of = NULL;
    a->by_32.ready = false;
    a->by_256.ready = false;
}

void activations_set(struct activations *a, const float *x, size_t rows, size_t width)
{
    begin(a, rows, width);
    a->x = x;
}

void activations_set_norm(struct activations *a, float *out, const float *x, const float *weight,
                          size_t rows, size_t width, float epsilon)
{
    begin(a, rows, width);
    a->made = out;
    a->norm_of = x;
    a->norm_weight = weight;
    a->norm_epsilon = epsilon;
}

size_t activations_rows(const struct activations *a)
{
    return a->rows;
}

static struct rounded *rounded_by(struct activations *a, size_t block)
{
    return block == 32 ? &a->by_32 : block == 256 ? &a->by_256 : NULL;
}

static size_t n_blocks(const struct activations *a)
{
    return a->rows < 2 * BLOCK_ROWS ? 1 : a->rows / BLOCK_ROWS;
}

static size_t rows_of_block(const struct activations *a, size_t block)
{
    return block + 1 < n_blocks(a) ? BLOCK_ROWS : a->rows - block * BLOCK_ROWS;
}

/* The place of a strip of a row in a rounded form. */
static size_t strip_place(const struct activations *a, size_t row, size_t strip)
{
    size_t last = n_blocks(a) - 1, block = row / BLOCK_ROWS < last ? row / BLOCK_ROWS : last;
    size_t first = block * BLOCK_ROWS;
    return first * ACT_STRIPS(a->width) + strip * rows_of_block(a, block) + row - first;
}

struct round_job {
    const struct kernel_set *set;
    struct activations *a;
    struct rounded *to; /* NULL: it is not wanted */
    size_t block;       /* values that share a scale */
};

/* Values at .. at + n-1 of a row, of one strip, cut at whole blocks. */
static void round_some(const struct round_job *job, size_t row, size_t at, size_t n, const float *x)
{
    size_t strip = strip_place(job->a, row, at / ACT_STRIP), within = at % ACT_STRIP;
    size_t block = job->block, group = ACT_GROUP(block);

    job->set->round_row(job->to->q + strip * ACT_STRIP + within,
                        job->to->scale + (strip * ACT_STRIP + within) / block,
                        job->to->sum + (strip * ACT_STRIP + within) / group, x, n, block);
}

/* Strips begin .. end-1 of all rows, one row after the other. */
static void round_strips(void *context, size_t begin, size_t end, size_t thread)
{
    const struct round_job *job = context;
    size_t width = job->a->width, strips = ACT_STRIPS(width);
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t row = i / strips, at = i % strips * ACT_STRIP;
        round_some(job, row, at, width - at < ACT_STRIP ? width - at : ACT_STRIP,
                   job->a->x + row * width + at);
    }
}

/* A row is rounded while it is in the cache. */
static void norm_rows(void *context, size_t begin, size_t end, size_t thread)
{
    const struct round_job *job = context;
    const struct activations *a = job->a;
    size_t strips = ACT_STRIPS(a->width);

    for (size_t r = begin; r < end; r++) {
        job->set->rmsnorm(a->made + r * a->width, a->norm_of + r * a->width, a->norm_weight,
                          a->width, a->norm_epsilon);
        if (job->to)
            round_strips(context, r * strips, (r + 1) * strips, thread);
    }
}

/* Make activations as a kernel wants them that rounds in such blocks (0: not at all), unless they
 * are there. */
static void prepare(const struct ops *ops, struct activations *a, size_t block)
{
    struct round_job job = {.set = ops->set, .a = a, .to = rounded_by(a, block), .block = block};

    if (a->norm_of) {
        a->x = a->made;
        pool_run(ops->pool, a->rows, ELEMENTS_GRAIN / a->width + 1, norm_rows, &job);
        a->norm_of = NULL;
    } else if (job.to && !job.to->ready) {
        assert(a->x);
        pool_run(ops->pool, ACT_STRIPS(a->width) * a->rows, ROUND_GRAIN, round_strips, &job);
    }
    if (job.to)
        job.to->ready = true;
    else
        assert(a->x);
}

/* ---- products ---- */

static const struct matmul_row *kernel_of(const struct ops *ops, const struct tensor_view *w)
{
    const struct matmul_row *kernel = NULL;

    if (ops->precision == PRECISION_FAST)
        kernel = matmul_find(w->type->dtype, true);
    return kernel ? kernel : matmul_find(w->type->dtype, false);
}

static size_t row_bytes_of(const struct tensor_view *w)
{
    return w->dims[0] / w->type->block_values * w->type->block_bytes;
}

/* Activations and a matrix, and how many output rows make a piece: it is cut into these and into
 * blocks of activations. */
struct product {
    const struct matmul_row *kernel;
    struct weight_rows w;
    struct activations *a;
    size_t piece_rows;
};

static struct product product_of(const struct ops *ops, const struct tensor_view *w, size_t begin,
                                 size_t end, struct activations *x)
{
    struct product p = {.kernel = kernel_of(ops, w),
                        .w = {.type = w->type,
                              .data = w->data,
                              .row_bytes = row_bytes_of(w),
                              .width = w->dims[0],
                              .begin = begin,
                              .end = end},
                        .a = x};

    assert(x->width == w->dims[0]);
    assert(begin <= end && end <= w->dims[1] * w->dims[2] * w->dims[3]);
    prepare(ops, x, p.kernel->act_block);
    if (p.kernel->panels)
        p.w.panels = panel_store_find(ops->panels, p.kernel, w->data, &p.w.panels_row);
    return p;
}

/* The first of piece i's output rows, counted from where the product begins; how many there are,
 * and its block of activations. */
struct piece {
    size_t first, n, block;
};

static struct piece piece_of(const struct product *p, size_t i)
{
    size_t first = i / n_blocks(p->a) * p->piece_rows, left = p->w.end - p->w.begin - first;

    return (struct piece){.first = first,
                          .n = left < p->piece_rows ? left : p->piece_rows,
                          .block = i % n_blocks(p->a)};
}

static size_t n_pieces(const struct product *p)
{
    return (p->w.end - p->w.begin + p->piece_rows - 1) / p->piece_rows * n_blocks(p->a);
}

/* out[r * stride + i]: row r of the piece's block, its output row i. */
static void multiply(const struct product *p, const struct piece *piece, float *out, size_t stride)
{
    struct activations *a = p->a;
    size_t block = p->kernel->act_block, first = piece->block * BLOCK_ROWS;
    size_t shift = p->w.begin + piece->first;
    struct weight_rows w = p->w;
    struct act_rows x = {.rows = rows_of_block(a, piece->block), .width = a->width, .block = block};

    w.data = (const uint8_t *)w.data + shift * w.row_bytes;
    w.panels_row += shift;
    w.begin = 0;
    w.end = piece->n;
    if (block) {
        const struct rounded *rounded = rounded_by(a, block);
        size_t at = first * ACT_STRIPS(a->width) * ACT_STRIP;
        x.q = rounded->q + at;
        x.scale = rounded->scale + at / block;
        x.sum = rounded->sum + at / ACT_GROUP(block);
    } else {
        x.x = a->x + first * a->width;
    }
    p->kernel->run(out, stride, &w, &x);
}

struct matmul_job {
    struct product product;
    float *out;
    size_t stride;
};

static void matmul_pieces(void *context, size_t begin, size_t end, size_t thread)
{
    const struct matmul_job *job = context;
    const struct product *p = &job->product;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        struct piece piece = piece_of(p, i);
        float *out = job->out + piece.block * BLOCK_ROWS * job->stride;
        multiply(p, &piece, out + p->w.begin + piece.first, job->stride);
    }
}

void ops_matmul(const struct ops *ops, float *out, size_t stride, const struct tensor_view *w,
                size_t begin, size_t end, struct activations *x)
{
    struct matmul_job job = {
        .product = product_of(ops, w, begin, end, x), .out = out, .stride = stride};
    size_t rows = x->rows < BLOCK_ROWS ? x->rows : BLOCK_ROWS;
    size_t least = rows < BLOCK_ROWS ? FEW_GRAIN : MANY_GRAIN;
    size_t grain = WORK_GRAIN / (x->width * rows + 1) / least * least;

    job.product.piece_rows = grain > least ? grain : least;
    pool_run(ops->pool, n_pieces(&job.product), 1, matmul_pieces, &job);
}

/* ---- two products and what is made of both ---- */

/* What a thread makes of a piece before the two become one. */
struct gated_memory {
    float gate[BLOCK_ROWS_MAX * ACT_STRIP], up[BLOCK_ROWS_MAX * ACT_STRIP];
};

struct gated_memory *gated_memory_new(size_t threads)
{
    return heap_array(struct gated_memory, threads);
}

struct gated_job {
    struct gated_memory *memory; /* [threads] */
    struct product gate, up;
    struct round_job round;
};

static void gated_pieces(void *context, size_t begin, size_t end, size_t thread)
{
    const struct gated_job *job = context;
    const struct activations *out = job->round.a;
    float *gate = job->memory[thread].gate, *up = job->memory[thread].up;

    for (size_t i = begin; i < end; i++) {
        struct piece piece = piece_of(&job->gate, i);
        size_t n = piece.n, at = job->gate.w.begin + piece.first;
        multiply(&job->gate, &piece, gate, n);
        multiply(&job->up, &piece, up, n);
        for (size_t r = 0; r < rows_of_block(out, piece.block); r++) {
            size_t row = piece.block * BLOCK_ROWS + r;
            float *y = job->round.to ? gate + r * n : out->made + row * out->width + at;
            job->round.set->gelu_mul(y, gate + r * n, up + r * n, n);
            if (job->round.to)
                round_some(&job->round, row, at, n, y);
        }
    }
}

void ops_gated_begin(const struct ops *ops, struct activations *out, float *made, size_t rows,
                     const struct tensor_view *next)
{
    struct rounded *to;

    begin(out, rows, next->dims[0]);
    out->made = made;
    to = rounded_by(out, kernel_of(ops, next)->act_block);
    if (to)
        to->ready = true;
    else
        out->x = made;
}

void ops_gated(const struct ops *ops, struct activations *out, const struct tensor_view *gate,
               const struct tensor_view *up, size_t begin, size_t end, struct activations *x)
{
    size_t block = out->by_32.ready ? 32 : out->by_256.ready ? 256 : 0;
    struct gated_job job = {
        .memory = ops->gated,
        .gate = product_of(ops, gate, begin, end, x),
        .up = product_of(ops, up, begin, end, x),
        .round = {.set = ops->set, .a = out, .to = rounded_by(out, block), .block = block},
    };

    static_assert(OPS_GATED_MULTIPLE % GATED_GRAIN == 0, "");
    assert(begin % GATED_GRAIN == 0 && (end % GATED_GRAIN == 0 || end == out->width));
    assert(out->rows == x->rows && out->width == gate->dims[1]);
    bool few = out->width < GATED_EACH * pool_threads(ops->pool) * GATED_GRAIN;
    job.gate.piece_rows = job.up.piece_rows = few && block != 256 ? MANY_GRAIN : GATED_GRAIN;
    pool_run(ops->pool, n_pieces(&job.gate), 1, gated_pieces, &job);
}
