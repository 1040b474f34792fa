#include "engine/ops/ops.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/kernels/scalar.h"
#include "engine/ops/panels.h"
#include "engine/ops/parts.h"
#include "engine/weights/weights.h"
#include <assert.h>
#include <stdio.h>

/* Output rows handed to a thread at least, of few and of many rows of activations: what a kernel
 * takes at once. */
#define MATMUL_GRAIN 32
#define MATMUL_GRAIN_MANY 64
#define MANY 64
#define ELEMENTS_GRAIN 4096
#define ROUND_GRAIN 16 /* strips: some 5 us */

struct ops *ops_new(struct pool *pool, enum precision precision)
{
    struct ops *ops = heap_new(1, sizeof *ops);
    ops->pool = pool;
    ops->set = kernels_find();
    ops->precision = precision;
    ops->attend = attend_memory_new(pool_threads(pool));
    ops->panels = panel_store_new();
    (void)snprintf(ops->name, sizeof ops->name, "%s %s", ops->set->name,
                   precision == PRECISION_FAST ? "fast" : "exact");
    return ops;
}

struct ops *ops_beside(const struct ops *ops)
{
    return ops_new(ops->pool, ops->precision);
}

void ops_free(struct ops *ops)
{
    if (!ops)
        return;
    attend_memory_free(ops->attend);
    panel_store_free(ops->panels);
    heap_free(ops);
}

const char *ops_name(const struct ops *ops)
{
    return ops->name;
}

bool ops_lay_out(struct ops *ops, const struct ops_tensors *tensors, ops_laid_out *progress,
                 void *context, struct status *st)
{
    return ops->precision == PRECISION_EXACT ||
           panel_store_add(ops->panels, ops->pool, tensors, progress, context, st);
}

size_t ops_laid_out_bytes(const struct ops *ops)
{
    return panel_store_bytes(ops->panels);
}

/* ---- products ---- */

/* One rounded form of the activations. */
struct rounded {
    bool ready;
    int8_t *q;
    float *scale;
    int32_t *sum;
};

struct activations {
    size_t rows_max, width_max;
    const float *x;
    size_t rows, width;
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

void activations_set(struct activations *a, const float *x, size_t rows, size_t width)
{
    assert(rows <= a->rows_max);
    assert(width <= a->width_max);
    a->x = x;
    a->rows = rows;
    a->width = width;
    a->by_32.ready = false;
    a->by_256.ready = false;
}

size_t activations_rows(const struct activations *a)
{
    return a->rows;
}

struct round_job {
    const struct kernel_set *set;
    const struct activations *a;
    const struct rounded *to;
    size_t block;
};

/* Strip i / rows of row i % rows. */
static void round_strips(void *context, size_t begin, size_t end, size_t thread)
{
    const struct round_job *job = context;
    size_t width = job->a->width, rows = job->a->rows;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t at = i / rows * ACT_STRIP, n = width - at < ACT_STRIP ? width - at : ACT_STRIP;
        job->set->round_row(job->to->q + i * ACT_STRIP,
                            job->to->scale + i * (ACT_STRIP / job->block),
                            job->to->sum + i * (ACT_STRIP / ACT_GROUP(job->block)),
                            job->a->x + i % rows * width + at, n, job->block);
    }
}

/* The activations as the kernel wants them; rounds them when nobody did before. */
static struct act_rows prepare(const struct ops *ops, struct activations *a, size_t block)
{
    struct act_rows x = {.rows = a->rows, .width = a->width, .x = a->x, .block = block};
    if (!block)
        return x;
    struct rounded *to = block == 32 ? &a->by_32 : &a->by_256;
    if (!to->ready) {
        struct round_job job = {.set = ops->set, .a = a, .to = to, .block = block};
        pool_run(ops->pool, ACT_STRIPS(a->width) * a->rows, ROUND_GRAIN, round_strips, &job);
        to->ready = true;
    }
    x.q = to->q;
    x.scale = to->scale;
    x.sum = to->sum;
    return x;
}

struct matmul_job {
    const struct matmul_row *kernel;
    struct weight_rows w;
    struct act_rows x;
    float *out;
    size_t stride;
};

static void matmul_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct matmul_job *job = context;
    struct weight_rows w = job->w;
    (void)thread;
    w.end = w.begin + end;
    w.begin += begin;
    job->kernel->run(job->out, job->stride, &w, &job->x);
}

void ops_matmul(const struct ops *ops, float *out, size_t stride, const struct tensor_view *w,
                size_t begin, size_t end, struct activations *x)
{
    size_t width = w->dims[0], rows = w->dims[1] * w->dims[2] * w->dims[3];
    const struct matmul_row *kernel = NULL;

    assert(width == x->width);
    assert(begin <= end && end <= rows);
    if (ops->precision == PRECISION_FAST)
        kernel = matmul_find(w->type->dtype, true);
    if (!kernel)
        kernel = matmul_find(w->type->dtype, false);
    struct matmul_job job = {
        .kernel = kernel,
        .w = {.type = w->type,
              .data = w->data,
              .row_bytes = width / w->type->block_values * w->type->block_bytes,
              .width = width,
              .begin = begin,
              .end = end},
        .x = prepare(ops, x, kernel->act_block),
        .out = out,
        .stride = stride,
    };
    if (kernel->panels)
        job.w.panels = panel_store_find(ops->panels, kernel, w->data, &job.w.panels_row);
    size_t least = job.x.rows < MANY ? MATMUL_GRAIN : MATMUL_GRAIN_MANY;
    size_t grain = WORK_GRAIN / (width * job.x.rows + 1) / least * least;
    pool_run(ops->pool, end - begin, grain > least ? grain : least, matmul_part, &job);
}

void ops_row(float *out, const struct tensor_view *w, size_t row)
{
    size_t row_bytes = w->dims[0] / w->type->block_values * w->type->block_bytes;
    assert(row < w->dims[1] * w->dims[2] * w->dims[3]);
    w->type->to_f32(out, (const uint8_t *)w->data + row * row_bytes, w->dims[0]);
}

/* ---- element by element ---- */

struct elements_job {
    const struct kernel_set *set;
    float *out;
    const float *a, *b;
    size_t width, half;
    float number, scale;
};

static void rmsnorm_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct elements_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        job->set->rmsnorm(job->out + r * job->width, job->a + r * job->width, job->b, job->width,
                          job->number);
}

void ops_rmsnorm(const struct ops *ops, float *out, const float *x, const float *weight,
                 size_t rows, size_t width, float epsilon)
{
    struct elements_job job = {
        .set = ops->set, .out = out, .a = x, .b = weight, .width = width, .number = epsilon};
    size_t grain = ELEMENTS_GRAIN / width + 1;
    pool_run(ops->pool, rows, grain, rmsnorm_part, &job);
}

static void add_norm_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct elements_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        job->set->add_norm(job->out + r * job->width, job->a + r * job->width, job->b, job->width,
                           job->number, job->scale);
}

void ops_add_norm(const struct ops *ops, float *x, const float *y, const float *weight, size_t rows,
                  size_t width, float epsilon, float scale)
{
    struct elements_job job = {.set = ops->set,
                               .out = x,
                               .a = y,
                               .b = weight,
                               .width = width,
                               .number = epsilon,
                               .scale = scale};
    pool_run(ops->pool, rows, ELEMENTS_GRAIN / width + 1, add_norm_part, &job);
}

static void gelu_mul_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct elements_job *job = context;
    (void)thread;
    job->set->gelu_mul(job->out + begin, job->a + begin, job->b ? job->b + begin : NULL,
                       end - begin);
}

void ops_gelu_mul(const struct ops *ops, float *out, const float *gate, const float *up, size_t n)
{
    struct elements_job job = {.set = ops->set, .out = out, .a = gate, .b = up};
    pool_run(ops->pool, n, ELEMENTS_GRAIN, gelu_mul_part, &job);
}

static void softcap_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct elements_job *job = context;
    (void)thread;
    job->set->softcap(job->out + begin, end - begin, job->number);
}

void ops_softcap(const struct ops *ops, float *x, size_t n, float cap)
{
    struct elements_job job = {.set = ops->set, .out = x, .number = cap};
    pool_run(ops->pool, n, ELEMENTS_GRAIN, softcap_part, &job);
}

/* Rows are short (one number per expert): not worth a thread or a kernel of its own. */
void ops_softmax(float *x, size_t rows, size_t width)
{
    for (size_t r = 0; r < rows; r++, x += width) {
        float largest = x[0], sum = 0;
        for (size_t i = 1; i < width; i++)
            largest = x[i] > largest ? x[i] : largest;
        for (size_t i = 0; i < width; i++) {
            x[i] = scalar_exp(x[i] - largest);
            sum += x[i];
        }
        for (size_t i = 0; i < width; i++)
            x[i] /= sum;
    }
}

static void rope_part(void *context, size_t begin, size_t end, size_t thread)
{
    const struct elements_job *job = context;
    size_t heads = job->width;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        job->set->rope(job->out + r * heads * 2 * job->half, job->a + r * job->half,
                       job->b + r * job->half, heads, job->half);
}

void ops_rope(const struct ops *ops, float *x, const float *cos, const float *sin, size_t rows,
              size_t heads, size_t half)
{
    struct elements_job job = {
        .set = ops->set, .out = x, .a = cos, .b = sin, .width = heads, .half = half};
    pool_run(ops->pool, rows, ELEMENTS_GRAIN / (heads * half) + 1, rope_part, &job);
}

size_t ops_argmax(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i]))
            best = i;
    return best;
}
