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
    float keep;         /* what is kept of earlier pages when this one is added */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
    size_t low, high;   /* keys of the page that are seen; equal: none */
};

/* What the tasks of one page share. */
struct page {
    const void *keys, *values;              /* of the kv head */
    size_t low, high;                       /* keys that any of the queries sees */
    float rows[PAGE * ATTEND_HEAD_DIM_MAX]; /* [64][head_dim], close together for the caches */
};

static void load_rows(struct page *page, const void *data, size_t d, enum dtype type)
{
    for (size_t j = page->low; j < page->high; j++) {
        if (type == DTYPE_F32) {
            memcpy(page->rows + j * d, (const float *)data + j * d, d * sizeof(float));
            continue;
        }
        const uint8_t *in = (const uint8_t *)data + j * d * 2;
        for (size_t i = 0; i < d; i += LANES)
            _mm256_storeu_ps(
                page->rows + j * d + i,
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i))));
    }
}

/* Scores of `keys` keys from j on, for `n` heads: sums that do not wait for each other, and loads
 * that are shared. Each has its own order, so how many go together changes nothing. */
static ALWAYS_INLINE void score_tile(struct pair *p, size_t n, const struct page *page, size_t j,
                                     size_t keys, size_t d)
{
    __m256 s[2][4];
    const float *row = page->rows + j * d;
    for (size_t h = 0; h < n; h++)
        for (size_t k = 0; k < keys; k++)
            s[h][k] = _mm256_setzero_ps();
    for (size_t i = 0; i < d; i += LANES)
        for (size_t k = 0; k < keys; k++) {
            __m256 key = _mm256_loadu_ps(row + k * d + i);
            for (size_t h = 0; h < n; h++)
                s[h][k] = _mm256_fmadd_ps(_mm256_loadu_ps(p[h].q + i), key, s[h][k]);
        }
    for (size_t h = 0; h < n; h++)
        for (size_t k = 0; k < keys; k++)
            p[h].score[j + k] = lanes_sum(s[h][k]);
}

static ALWAYS_INLINE void score_keys(struct pair *p, size_t n, const struct page *page, size_t d)
{
    size_t j = p->low;
    for (; j + 4 <= p->high; j += 4)
        score_tile(p, n, page, j, 4, d);
    for (; j < p->high; j++)
        score_tile(p, n, page, j, 1, d);
}

/* Scores to exponentials. */
static void soften(struct pair *p)
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
    p->keep = before[0];
    p->sum = p->sum * p->keep + lanes_sum(sum);
}

/* out = out * keep + sum of exponential times value, in order of the keys, for `width` vectors of
 * `n` heads. */
static ALWAYS_INLINE void value_tile(struct pair *p, size_t n, const struct page *page, size_t d,
                                     size_t i, size_t width)
{
    __m256 v[2][4];
    for (size_t h = 0; h < n; h++)
        for (size_t k = 0; k < width; k++)
            v[h][k] =
                _mm256_mul_ps(_mm256_loadu_ps(p[h].out + i + k * LANES), _mm256_set1_ps(p[h].keep));
    for (size_t j = p->low; j < p->high; j++)
        for (size_t k = 0; k < width; k++) {
            __m256 value = _mm256_loadu_ps(page->rows + j * d + i + k * LANES);
            for (size_t h = 0; h < n; h++)
                v[h][k] = _mm256_fmadd_ps(_mm256_set1_ps(p[h].score[j]), value, v[h][k]);
        }
    for (size_t h = 0; h < n; h++)
        for (size_t k = 0; k < width; k++)
            _mm256_storeu_ps(p[h].out + i + k * LANES, v[h][k]);
}

static ALWAYS_INLINE void add_values(struct pair *p, size_t n, const struct page *page, size_t d)
{
    size_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES)
        value_tile(p, n, page, d, i, 4);
    for (; i < d; i += LANES)
        value_tile(p, n, page, d, i, 1);
}

/* Two heads of one query see the same keys; queries of one page often do. */
static bool go_together(const struct pair *p, const struct pair *last)
{
    return p + 1 < last && p[0].low == p[1].low && p[0].high == p[1].high;
}

static void score_pairs(struct pair *p, const struct pair *last, const struct page *page, size_t d)
{
    for (size_t n; p < last; p += n) {
        n = go_together(p, last) ? 2 : 1;
        if (p->low == p->high)
            continue;
        if (n == 2)
            score_keys(p, 2, page, d);
        else
            score_keys(p, 1, page, d);
        for (size_t h = 0; h < n; h++)
            soften(&p[h]);
    }
}

static void value_pairs(struct pair *p, const struct pair *last, const struct page *page, size_t d)
{
    for (size_t n; p < last; p += n) {
        n = go_together(p, last) ? 2 : 1;
        if (p->low == p->high)
            continue;
        if (n == 2)
            add_values(p, 2, page, d);
        else
            add_values(p, 1, page, d);
    }
}

/* Page number `number` for the queries [begin, end) of the task, which share its memory. */
static void attend_page(struct page *page, struct pair *pairs, const struct attend_task *task,
                        size_t number, size_t begin, size_t end)
{
    size_t d = task->shape->head_dim, heads = task->head_end - task->head_begin;
    struct pair *first = pairs + begin * heads, *last = pairs + end * heads;

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
    score_pairs(first, last, page, d);
    load_rows(page, page->values, d, task->shape->type);
    value_pairs(first, last, page, d);
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
