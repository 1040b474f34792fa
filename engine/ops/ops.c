#include "engine/ops/ops.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/kernels/scalar.h"
#include "engine/ops/panels.h"
#include "engine/ops/parts.h"
#include "engine/weights/weights.h"
#include <assert.h>
#include <stdio.h>

struct ops *ops_new(struct pool *pool, enum precision precision)
{
    struct ops *ops = heap_new(1, sizeof *ops);
    ops->pool = pool;
    ops->set = kernels_find();
    ops->precision = precision;
    ops->attend = attend_memory_new(pool_threads(pool));
    ops->gated = gated_memory_new(pool_threads(pool));
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
    heap_free(ops->gated);
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
    pool_run(ops->pool, rows, ELEMENTS_GRAIN / width + 1, rmsnorm_part, &job);
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
