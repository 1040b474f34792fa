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
    int16_t q_rounded[ATTEND_HEAD_DIM_MAX]; /* for 8-bit keys; a unit is q_step */
    float q_step;
};

/* Keys or values of one head in a page. */
static const float *scales_of(const void *page, size_t d)
{
    return (const float *)(const void *)((const uint8_t *)page + ATTEND_PAGE_KEYS * d);
}

/* Whole number nearest to v, the even one of two; -limit when v is not a number. */
static float nearest(float v, float limit)
{
    v = v > -limit ? v : -limit;
    v = v < limit ? v : limit;
    return (v + EXP_ROUND) - EXP_ROUND;
}

/* x times 1 / step to the nearest whole number, where step makes the largest of them `units`;
 * returns step.
 * Numbers that are too small to divide by, infinite or none become zeros. */
static float round_to(int16_t *out, const float *x, size_t n, float units)
{
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float step = largest / units;
    bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
    for (size_t i = 0; i < n; i++)
        out[i] = (int16_t)(usable ? nearest(x[i] * (1.0f / step), units) : 0.0f);
    return usable ? step : 0.0f;
}

/* n numbers of a head. */
static void load(float *out, const void *head, size_t place, size_t n, enum dtype type)
{
    const struct quant_row *quant = quant_find(type);
    quant->to_f32(out, (const uint8_t *)head + place * quant->block_bytes, n);
}

/* score[j] for low <= j < high */
static void score_keys(float *score, const struct row *r, const void *keys,
                       const struct attend_shape *shape, size_t low, size_t high)
{
    float loaded[ATTEND_PAGE_KEYS];
    memset(score, 0, ATTEND_PAGE_KEYS * sizeof *score);
    for (size_t i = 0; i < shape->head_dim; i++) {
        load(loaded, keys, attend_key_place(shape->type, 0, i), ATTEND_PAGE_KEYS, shape->type);
        for (size_t j = low; j < high; j++)
            score[j] += r->q[i] * loaded[j];
    }
}

/* The same for 8-bit keys: sums of whole numbers are exact. */
static void score_rounded(float *score, const struct row *r, const int8_t *keys, size_t d,
                          size_t low, size_t high)
{
    for (size_t j = low; j < high; j++) {
        int32_t sum = 0; /* 512 * 127 * 32767 is below 2^31 */
        for (size_t i = 0; i < d; i++)
            sum += r->q_rounded[i] * keys[attend_key_place(DTYPE_I8, j, i)];
        score[j] = (float)sum * (r->q_step * scales_of(keys, d)[j]);
    }
}

/* out += sum over low <= j < high of weight[j] value[j] */
static void add_values(float *out, const float *weight, const void *values,
                       const struct attend_shape *shape, size_t low, size_t high)
{
    size_t d = shape->head_dim;
    float loaded[ATTEND_STRIP];
    for (size_t i = 0; i < d; i += ATTEND_STRIP) {
        size_t width = d - i < ATTEND_STRIP ? d - i : ATTEND_STRIP;
        for (size_t j = low; j < high; j++) {
            load(loaded, values, attend_value_place(shape->type, d, j, i), width, shape->type);
            for (size_t k = 0; k < width; k++)
                out[i + k] += weight[j] * loaded[k];
        }
    }
}

/* The same for 8-bit values: weights times scales are rounded to 16 bits, the page's sum is exact.
 */
static void add_rounded(float *out, const float *weight, const int8_t *values, size_t d, size_t low,
                        size_t high)
{
    float scaled[ATTEND_PAGE_KEYS] = {0};
    int16_t rounded[ATTEND_PAGE_KEYS];
    for (size_t j = low; j < high; j++)
        scaled[j] = weight[j] * scales_of(values, d)[j];
    float step = round_to(rounded, scaled, ATTEND_PAGE_KEYS, 32767.0f);
    for (size_t i = 0; i < d; i++) {
        int32_t sum = 0;
        for (size_t j = low; j < high; j++)
            sum += rounded[j] * values[attend_value_place(DTYPE_I8, d, j, i)];
        out[i] += (float)sum * step;
    }
}

/* Keys [low, high) of one page. */
static void page_step(struct row *r, const void *keys, const void *values,
                      const struct attend_shape *shape, size_t low, size_t high)
{
    float score[ATTEND_PAGE_KEYS];
    float largest = r->largest, lane[LANES] = {0};
    size_t d = shape->head_dim;

    if (shape->type == DTYPE_I8)
        score_rounded(score, r, keys, d, low, high);
    else
        score_keys(score, r, keys, shape, low, high);
    for (size_t j = low; j < high; j++)
        largest = score[j] > largest ? score[j] : largest;
    float keep = scalar_exp(r->largest - largest);
    for (size_t j = low; j < high; j++) {
        score[j] = scalar_exp(score[j] - largest);
        lane[j % LANES] += score[j];
    }
    r->largest = largest;
    r->sum = r->sum * keep + lanes_sum(lane);
    for (size_t i = 0; i < d; i++)
        r->out[i] *= keep;
    if (shape->type == DTYPE_I8)
        add_rounded(r->out, score, values, d, low, high);
    else
        add_values(r->out, score, values, shape, low, high);
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
    size_t per_kv = task->shape->heads / task->shape->kv_heads;

    for (size_t i = 0; i < task->n_queries * heads; i++) {
        const struct attend_query *query = &task->queries[i / heads];
        struct row r = {.q = query->q + (task->head_begin + i % heads) * d,
                        .out = out->values + i * d,
                        .largest = -INFINITY};
        memset(r.out, 0, d * sizeof *r.out);
        if (task->shape->type == DTYPE_I8)
            r.q_step = round_to(r.q_rounded, r.q, d, 32767.0f);
        attend_row(&r, task->shape, query, (task->head_begin + i % heads) / per_kv, task->group);
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

static void to_half(uint16_t *out, const float *x, size_t n)
{
    quant_find(DTYPE_F16)->from_f32(out, x, n);
}

#include "engine/kernels/attend_store.h"

void attend_store_c(const struct attend_shape *shape, void *keys, void *values, size_t at,
                    const float *key, const float *value)
{
    store_position(shape, keys, values, at, key, value);
}
