/* Softmax attention over pages of keys: the meaning.
 *
 * Online softmax (Milakov and Gimelshein, arXiv:1805.02867), one step a page: the largest score so
 * far, the sum of exponentials and the weighted values are rescaled when a page brings a larger
 * score. Pages lie at absolute positions and come in ascending order, so a query's numbers depend
 * on its own range only. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"

/* One query and head. */
struct row {
    const float *q;
    float *out; /* values weighted so far */
    float largest, sum;
};

static void load(float *out, const void *page, size_t row, size_t d, enum dtype type)
{
    const struct quant_row *quant = quant_find(type);
    quant->to_f32(out, (const uint8_t *)page + row * d * quant->block_bytes, d);
}

static float dot(const float *a, const float *b, size_t d)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < d; i++)
        lane[i % LANES] += a[i] * b[i];
    return lanes_sum(lane);
}

/* Keys [low, high) of one page. */
static void page_step(struct row *r, const void *keys, const void *values,
                      const struct attend_shape *shape, size_t low, size_t high)
{
    float score[ATTEND_PAGE_KEYS], loaded[ATTEND_HEAD_DIM_MAX];
    float largest = r->largest, lane[LANES] = {0};
    size_t d = shape->head_dim;

    for (size_t j = low; j < high; j++) {
        load(loaded, keys, j, d, shape->type);
        score[j] = dot(r->q, loaded, d);
        largest = score[j] > largest ? score[j] : largest;
    }
    float keep = scalar_exp(r->largest - largest);
    for (size_t j = low; j < high; j++) {
        score[j] = scalar_exp(score[j] - largest);
        lane[j % LANES] += score[j];
    }
    r->largest = largest;
    r->sum = r->sum * keep + lanes_sum(lane);
    for (size_t i = 0; i < d; i++)
        r->out[i] *= keep;
    for (size_t j = low; j < high; j++) {
        load(loaded, values, j, d, shape->type);
        for (size_t i = 0; i < d; i++)
            r->out[i] += score[j] * loaded[i];
    }
}

static void attend_row(struct row *r, const struct attend_shape *shape,
                       const struct attend_query *query, size_t kv_head, size_t group)
{
    size_t offset = kv_head * attend_head_bytes(shape->type, shape->head_dim);
    size_t begin = group * ATTEND_GROUP_KEYS, end = begin + ATTEND_GROUP_KEYS;

    begin = query->first > begin ? query->first : begin;
    end = query->end < end ? query->end : end;
    while (begin < end) {
        size_t page = begin / ATTEND_PAGE_KEYS, low = begin % ATTEND_PAGE_KEYS;
        size_t left = end - page * ATTEND_PAGE_KEYS;
        size_t high = left < ATTEND_PAGE_KEYS ? left : ATTEND_PAGE_KEYS;
        page_step(r, (const uint8_t *)query->keys[page] + offset,
                  (const uint8_t *)query->values[page] + offset, shape, low, high);
        begin += high - low;
    }
}

void attend_c(const struct attend_task *task, const struct attend_part *out)
{
    size_t d = task->shape->head_dim, heads = task->head_end - task->head_begin;
    size_t kv_head = task->head_begin / (task->shape->heads / task->shape->kv_heads);

    for (size_t i = 0; i < task->n_queries * heads; i++) {
        const struct attend_query *query = &task->queries[i / heads];
        struct row r = {.q = query->q + (task->head_begin + i % heads) * d,
                        .out = out->values + i * d,
                        .largest = -INFINITY};
        memset(r.out, 0, d * sizeof *r.out);
        attend_row(&r, task->shape, query, kv_head, task->group);
        out->largest[i] = r.largest;
        out->sum[i] = r.sum;
    }
}

void attend_add_c(const struct attend_part *total, const struct attend_part *more, size_t rows,
                  size_t head_dim)
{
    for (size_t r = 0; r < rows; r++) {
        float *a = total->values + r * head_dim;
        const float *b = more->values + r * head_dim;
        float largest = total->largest[r];
        if (more->largest[r] == -INFINITY) /* nothing to add; and infinities have no difference */
            continue;
        largest = more->largest[r] > largest ? more->largest[r] : largest;
        float keep = scalar_exp(total->largest[r] - largest);
        float take = scalar_exp(more->largest[r] - largest);
        total->largest[r] = largest;
        total->sum[r] = total->sum[r] * keep + more->sum[r] * take;
        for (size_t i = 0; i < head_dim; i++)
            a[i] = a[i] * keep + b[i] * take;
    }
}

void attend_finish_c(float *out, const float *values, float sum, size_t head_dim)
{
    for (size_t i = 0; i < head_dim; i++)
        out[i] = values[i] / sum;
}
