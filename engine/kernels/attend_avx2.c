/* Softmax attention over pages of keys, AVX2: the order of attend_c.c, products fused.
 *
 * A task takes its pages one after the other; keys and values of a page are made float32 once for
 * all its queries and heads. */
#include "engine/kernels/math_avx2.h"
#include "engine/kernels/sets.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define LANES ((size_t)8)
#define PAGE ((size_t)ATTEND_PAGE_KEYS)
#define PAIRS_MAX 64 /* queries times heads of a task */

/* One query and head. */
struct pair {
    const float *q;
    float *out;         /* values weighted so far */
    float largest, sum; /* so far */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
    size_t low, high;   /* keys of the page that are seen; equal: none */
};

/* What the tasks of one page share. */
struct page {
    const void *keys, *values; /* of the kv head */
    size_t low, high;          /* keys that any of the queries sees */
    float rows[PAGE][ATTEND_HEAD_DIM_MAX];
};

static void load_rows(struct page *page, const void *data, size_t d, enum dtype type)
{
    for (size_t j = page->low; j < page->high; j++) {
        if (type == DTYPE_F32) {
            memcpy(page->rows[j], (const float *)data + j * d, d * sizeof(float));
            continue;
        }
        const uint8_t *in = (const uint8_t *)data + j * d * 2;
        for (size_t i = 0; i < d; i += LANES)
            _mm256_storeu_ps(page->rows[j] + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                                    (const __m128i *)(const void *)(in + 2 * i))));
    }
}

/* Four keys at a time: their sums do not wait for each other. */
static void score_keys(struct pair *p, const struct page *page, size_t d)
{
    size_t j = p->low;
    for (; j + 4 <= p->high; j += 4) {
        __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                       _mm256_setzero_ps()};
        for (size_t i = 0; i < d; i += LANES) {
            __m256 q = _mm256_loadu_ps(p->q + i);
            for (size_t k = 0; k < 4; k++)
                s[k] = _mm256_fmadd_ps(q, _mm256_loadu_ps(page->rows[j + k] + i), s[k]);
        }
        for (size_t k = 0; k < 4; k++)
            p->score[j + k] = lanes_sum(s[k]);
    }
    for (; j < p->high; j++) {
        __m256 s = _mm256_setzero_ps();
        for (size_t i = 0; i < d; i += LANES)
            s = _mm256_fmadd_ps(_mm256_loadu_ps(p->q + i), _mm256_loadu_ps(page->rows[j] + i), s);
        p->score[j] = lanes_sum(s);
    }
}

/* Scores to exponentials; leaves what is to be kept of earlier pages. */
static float soften(struct pair *p)
{
    float largest = p->largest, before[LANES];
    for (size_t j = p->low; j < p->high; j++)
        largest = p->score[j] > largest ? p->score[j] : largest;
    for (size_t j = 0; j < PAGE; j++)
        if (j < p->low || j >= p->high)
            p->score[j] = -INFINITY; /* its exponential is exactly zero */
    _mm256_storeu_ps(before, exp_eight(_mm256_set1_ps(p->largest - largest)));
    __m256 sum = _mm256_setzero_ps(), top = _mm256_set1_ps(largest);
    for (size_t j = 0; j < PAGE; j += LANES) {
        __m256 e = exp_eight(_mm256_sub_ps(_mm256_loadu_ps(p->score + j), top));
        _mm256_storeu_ps(p->score + j, e);
        sum = _mm256_add_ps(sum, e);
    }
    p->largest = largest;
    p->sum = p->sum * before[0] + lanes_sum(sum);
    return before[0];
}

/* out = out * keep + sum of exponential times value, in order of the keys; 32 values at a time. */
static void add_values(struct pair *p, const struct page *page, size_t d, float keep)
{
    size_t i = 0;
    const __m256 factor = _mm256_set1_ps(keep);
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        __m256 v[4];
        for (size_t k = 0; k < 4; k++)
            v[k] = _mm256_mul_ps(_mm256_loadu_ps(p->out + i + k * LANES), factor);
        for (size_t j = p->low; j < p->high; j++) {
            __m256 e = _mm256_set1_ps(p->score[j]);
            for (size_t k = 0; k < 4; k++)
                v[k] = _mm256_fmadd_ps(e, _mm256_loadu_ps(page->rows[j] + i + k * LANES), v[k]);
        }
        for (size_t k = 0; k < 4; k++)
            _mm256_storeu_ps(p->out + i + k * LANES, v[k]);
    }
    for (; i < d; i += LANES) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(p->out + i), factor);
        for (size_t j = p->low; j < p->high; j++)
            v = _mm256_fmadd_ps(_mm256_set1_ps(p->score[j]), _mm256_loadu_ps(page->rows[j] + i), v);
        _mm256_storeu_ps(p->out + i, v);
    }
}

/* Page number `number` for the queries [begin, end) of the task, which share its memory. */
static void attend_page(struct page *page, struct pair *pairs, const struct attend_task *task,
                        size_t number, size_t begin, size_t end)
{
    size_t d = task->shape->head_dim, heads = task->head_end - task->head_begin;
    struct pair *first = pairs + begin * heads, *last = pairs + end * heads;
    float keep[PAIRS_MAX] = {0};

    page->low = PAGE;
    page->high = 0;
    for (size_t n = begin; n < end; n++) {
        const struct attend_query *query = &task->queries[n];
        size_t at = number * PAGE;
        size_t low = query->first > at ? query->first - at : 0;
        size_t high = query->end > at ? query->end - at : 0;
        high = high < PAGE ? high : PAGE;
        low = low < high ? low : high;
        if (low < high) {
            page->low = low < page->low ? low : page->low;
            page->high = high > page->high ? high : page->high;
        }
        for (size_t h = 0; h < heads; h++) {
            pairs[n * heads + h].low = low;
            pairs[n * heads + h].high = high;
        }
    }
    if (page->low >= page->high)
        return;
    load_rows(page, page->keys, d, task->shape->type);
    for (struct pair *p = first; p < last; p++)
        if (p->low < p->high) {
            score_keys(p, page, d);
            keep[p - first] = soften(p);
        }
    load_rows(page, page->values, d, task->shape->type);
    for (struct pair *p = first; p < last; p++)
        if (p->low < p->high)
            add_values(p, page, d, keep[p - first]);
}

static bool sees(const struct attend_query *query, size_t number)
{
    return query->first < (number + 1) * PAGE && query->end > number * PAGE;
}

/* All queries that see a page, in runs that share its memory. */
static void attend_number(struct page *page, struct pair *pairs, const struct attend_task *task,
                          size_t number)
{
    const struct attend_shape *shape = task->shape;
    size_t kv_head = task->head_begin / (shape->heads / shape->kv_heads);
    size_t offset = kv_head * PAGE * shape->head_dim * (shape->type == DTYPE_F16 ? 2 : 4);
    for (size_t n = 0; n < task->n_queries; n++) {
        const struct attend_query *query = &task->queries[n];
        if (!sees(query, number))
            continue;
        size_t end = n + 1;
        while (end < task->n_queries && sees(&task->queries[end], number) &&
               task->queries[end].keys[number] == query->keys[number] &&
               task->queries[end].values[number] == query->values[number])
            end++;
        page->keys = (const uint8_t *)query->keys[number] + offset;
        page->values = (const uint8_t *)query->values[number] + offset;
        attend_page(page, pairs, task, number, n, end);
        n = end - 1;
    }
}

void attend_avx2(const struct attend_task *task)
{
    struct page page;
    struct pair pairs[PAIRS_MAX];
    size_t d = task->shape->head_dim, heads = task->head_end - task->head_begin;
    size_t n_pairs = task->n_queries * heads, from = SIZE_MAX, to = 0;

    assert(n_pairs <= PAIRS_MAX);
    for (size_t n = 0; n < task->n_queries; n++) {
        const struct attend_query *query = &task->queries[n];
        from = query->first < from ? query->first : from;
        to = query->end > to ? query->end : to;
        for (size_t h = 0; h < heads; h++) {
            size_t at = (task->head_begin + h) * d;
            struct pair *p = &pairs[n * heads + h];
            p->q = query->q + at;
            p->out = query->out + at;
            p->largest = -INFINITY;
            p->sum = 0.0f;
            memset(p->out, 0, d * sizeof *p->out);
        }
    }
    for (size_t number = from / PAGE; number * PAGE < to; number++)
        attend_number(&page, pairs, task, number);
    for (size_t i = 0; i < n_pairs; i++)
        for (size_t j = 0; j < d; j++)
            pairs[i].out[j] /= pairs[i].sum;
}
