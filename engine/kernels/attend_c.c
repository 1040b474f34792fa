/* Softmax attention over pages of keys: the meaning.
 *
 * Online softmax (Milakov and Gimelshein, arXiv:1805.02867), one step a page: the largest score so
 * far, the sum of exponentials and the weighted values are rescaled when a page brings a larger
 * score. Pages lie at absolute positions and come in ascending order, so a query's numbers depend
 * on its own range only. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"

/* What is known of one query and head so far; the weighted values stand in its output. */
struct state {
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

/* Keys [low, high) of one page, for one query and head. */
static void page_step(struct state *s, float *out, const float *q, const void *keys,
                      const void *values, const struct attend_shape *shape, size_t low, size_t high)
{
    float score[ATTEND_PAGE_KEYS], row[ATTEND_HEAD_DIM_MAX];
    float largest = s->largest, lane[LANES] = {0};
    size_t d = shape->head_dim;

    for (size_t j = low; j < high; j++) {
        load(row, keys, j, d, shape->type);
        score[j] = dot(q, row, d);
        largest = score[j] > largest ? score[j] : largest;
    }
    float keep = scalar_exp(s->largest - largest);
    for (size_t j = low; j < high; j++) {
        score[j] = scalar_exp(score[j] - largest);
        lane[j % LANES] += score[j];
    }
    s->largest = largest;
    s->sum = s->sum * keep + lanes_sum(lane);
    for (size_t i = 0; i < d; i++)
        out[i] *= keep;
    for (size_t j = low; j < high; j++) {
        load(row, values, j, d, shape->type);
        for (size_t i = 0; i < d; i++)
            out[i] += score[j] * row[i];
    }
}

static void attend_one(const struct attend_shape *shape, const struct attend_query *query,
                       size_t head)
{
    size_t d = shape->head_dim, kv_head = head / (shape->heads / shape->kv_heads);
    size_t head_bytes = ATTEND_PAGE_KEYS * d * quant_find(shape->type)->block_bytes;
    struct state s = {.largest = -INFINITY};
    float *out = query->out + head * d;

    memset(out, 0, d * sizeof *out);
    for (size_t page = query->first / ATTEND_PAGE_KEYS; page * ATTEND_PAGE_KEYS < query->end;
         page++) {
        size_t begin = page * ATTEND_PAGE_KEYS;
        size_t low = query->first > begin ? query->first - begin : 0;
        size_t high = query->end - begin < ATTEND_PAGE_KEYS ? query->end - begin : ATTEND_PAGE_KEYS;
        page_step(&s, out, query->q + head * d,
                  (const uint8_t *)query->keys[page] + kv_head * head_bytes,
                  (const uint8_t *)query->values[page] + kv_head * head_bytes, shape, low, high);
    }
    for (size_t i = 0; i < d; i++)
        out[i] /= s.sum;
}

void attend_c(const struct attend_task *task)
{
    for (size_t i = 0; i < task->n_queries; i++)
        for (size_t head = task->head_begin; head < task->head_end; head++)
            attend_one(task->shape, &task->queries[i], head);
}
