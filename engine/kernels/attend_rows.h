/* attend_rows.h - the walk of attention over rows and pages, for the files that have vectors;
 * static, as math_avx2.h. The file that includes it defines the functions declared below, and
 * LANES, numbers in a vector, and SUMS, vectors held in registers at once.
 *
 * Four rows at a time share what they load. Each number has its own order, so how many rows go
 * together changes nothing. */
#pragma once
#include "engine/kernels/sets.h"
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define PAGE ((size_t)ATTEND_PAGE_KEYS)
#define TILE_ROWS ((size_t)4)
#define CACHE_LINE 64
#define FETCH_KEYS ((size_t)8) /* values are added in steps of so many keys */

struct row {
    const float *q;
    float *out;         /* values weighted so far */
    float largest, sum; /* so far */
    float keep;         /* what is kept of earlier pages when this one is added */
    size_t low, high;   /* keys of the page that are seen; equal: none */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
    /* for 8-bit keys and values: */
    const int16_t *q_rounded; /* units of q_step */
    int16_t rounded[PAGE];    /* exponentials times the values' scales, units of step */
    float q_step, step;
};

/* Pages lie anywhere, and a page is too short for the processor to see what comes next: while keys
 * are multiplied, the page's values are fetched, and while those are added, the next page's keys,
 * a little at each step, so that memory and multipliers are both busy all the time. */
struct ahead {
    const uint8_t *at;
    size_t left, step; /* bytes */
};

static inline void ahead_set(struct ahead *a, const void *data, size_t bytes, size_t steps)
{
    a->at = data;
    a->left = data ? bytes : 0;
    a->step = (bytes / (steps + 1) / CACHE_LINE + 1) * CACHE_LINE;
}

static inline void ahead_step(struct ahead *a)
{
    size_t n = a->step < a->left ? a->step : a->left;
    for (size_t i = 0; i < n; i += CACHE_LINE)
        __builtin_prefetch(a->at + i, 0, 2);
    a->at += n;
    a->left -= n;
}

/* One page of the kv head. */
struct page {
    const void *keys, *values;
    const void *next_keys; /* of the next page, or NULL */
    size_t d;
    enum dtype type;
    struct ahead ahead;
};

static float exp_one(float x);
/* score[j] for low <= j < high (others may get anything), for n rows: 1, 2 or 4. */
static void score_rows(struct row *rows, size_t n, struct page *page, size_t low, size_t high);
/* Scores to exponentials; keep, largest and sum. */
static void soften(struct row *row);
/* As round_to of attend_c.c, with 16 bits; out [512], zeros after d. Returns the step. */
static float round_query(int16_t *out, const float *q, size_t d);
/* rounded and step from the exponentials and scales [64]. */
static void round_weights(struct row *row, const float *scales);
/* out = out * keep + sum over low <= j < high of score[j] value[j], in that order, for n rows; with
 * 8-bit values the weights are `rounded`, the sum is exact, and rows that see nothing stay. */
static void value_rows(const struct row *rows, size_t n, struct page *page, size_t low,
                       size_t high);

/* How many rows go together when so many are left. */
static size_t rows_together(size_t left)
{
    return left >= TILE_ROWS ? TILE_ROWS : left >= 2 ? 2 : 1;
}

static inline const float *scales_of(const void *data, size_t d)
{
    return (const float *)(const void *)((const uint8_t *)data + PAGE * d);
}

/* Keys that any of n rows sees; false: none. */
static bool seen_range(const struct row *rows, size_t n, size_t *low, size_t *high)
{
    *low = PAGE;
    *high = 0;
    for (size_t r = 0; r < n; r++) {
        if (rows[r].low >= rows[r].high)
            continue;
        *low = rows[r].low < *low ? rows[r].low : *low;
        *high = rows[r].high > *high ? rows[r].high : *high;
    }
    return *low < *high;
}

static void score_page(struct row *rows, size_t n_rows, struct page *page)
{
    size_t bytes = attend_head_bytes(page->type, page->d);
    ahead_set(&page->ahead, page->values, bytes, PAGE * n_rows / SUMS);
    for (size_t n; n_rows > 0; rows += n, n_rows -= n) {
        size_t low, high;
        n = rows_together(n_rows);
        if (!seen_range(rows, n, &low, &high))
            continue;
        score_rows(rows, n, page, low, high);
        for (size_t r = 0; r < n; r++) {
            if (rows[r].low >= rows[r].high) {
                memset(rows[r].rounded, 0, sizeof rows[r].rounded);
                continue;
            }
            soften(&rows[r]);
            if (page->type == DTYPE_I8)
                round_weights(&rows[r], scales_of(page->values, page->d));
        }
    }
}

/* Rows of neighbouring tokens see almost the same keys. What only some of them see they take alone:
 * a value that a row may not see must not even be multiplied by zero, it may be anything. */
static void value_tile(struct row *rows, size_t n, struct page *page)
{
    size_t low, high;
    if (!seen_range(rows, n, &low, &high))
        return;
    if (page->type == DTYPE_I8) { /* whole numbers times zero are zero */
        value_rows(rows, n, page, low, high);
        return;
    }
    low = 0;
    high = PAGE;
    for (size_t r = 0; r < n; r++) {
        low = rows[r].low > low ? rows[r].low : low;
        high = rows[r].high < high ? rows[r].high : high;
    }
    high = high < low ? low : high; /* nothing in common */
    for (size_t r = 0; r < n; r++) {
        size_t end = rows[r].high < low ? rows[r].high : low;
        if (rows[r].low >= end)
            continue;
        value_rows(&rows[r], 1, page, rows[r].low, end);
        rows[r].keep = 1.0f;
    }
    if (low < high)
        value_rows(rows, n, page, low, high);
    for (size_t r = 0; r < n; r++) {
        size_t begin = rows[r].low > high ? rows[r].low : high;
        if (begin >= rows[r].high)
            continue;
        if (low < high)
            rows[r].keep = 1.0f;
        value_rows(&rows[r], 1, page, begin, rows[r].high);
    }
}

static void value_page(struct row *rows, size_t n_rows, struct page *page)
{
    size_t bytes = attend_head_bytes(page->type, page->d);
    ahead_set(&page->ahead, page->next_keys, bytes,
              PAGE / FETCH_KEYS * n_rows * page->d / (LANES * SUMS));
    for (size_t n; n_rows > 0; rows += n, n_rows -= n) {
        n = rows_together(n_rows);
        value_tile(rows, n, page);
    }
}

/* Keys of page `number` that rows see; false: none, and the page may not be there. */
static bool see_page(struct row *rows, const struct attend_task *task, size_t number)
{
    size_t heads = task->head_end - task->head_begin, at = number * PAGE;
    bool seen = false;
    for (size_t n = 0; n < task->n_queries; n++) {
        const struct attend_query *query = &task->queries[n];
        size_t low = query->first > at ? query->first - at : 0;
        size_t high = query->end > at ? query->end - at : 0;
        high = high < PAGE ? high : PAGE;
        low = low < high ? low : high;
        seen = seen || low < high;
        for (size_t h = 0; h < heads; h++) {
            rows[n * heads + h].low = low;
            rows[n * heads + h].high = high;
        }
    }
    return seen;
}

static void init_rows(struct row *rows, const struct attend_task *task,
                      const struct attend_part *out)
{
    size_t d = task->shape->head_dim, heads = task->head_end - task->head_begin;
    for (size_t i = 0; i < task->n_queries * heads; i++) {
        rows[i].q = task->queries[i / heads].q + (task->head_begin + i % heads) * d;
        rows[i].out = out->values + i * d;
        rows[i].largest = -INFINITY;
        rows[i].sum = 0.0f;
        memset(rows[i].out, 0, d * sizeof(float));
    }
}

static inline void attend_walk(const struct attend_task *task, const struct attend_part *out)
{
    struct row rows[ATTEND_ROWS_MAX];
    int16_t q_rounded[ATTEND_ROWS_MAX][ATTEND_HEAD_DIM_MAX];
    const struct attend_shape *shape = task->shape;
    struct page page = {.d = shape->head_dim, .type = shape->type};
    size_t kv_head = task->head_begin / (shape->heads / shape->kv_heads);
    size_t offset = kv_head * attend_head_bytes(shape->type, shape->head_dim);
    size_t n_rows = task->n_queries * (task->head_end - task->head_begin);
    size_t group_begin = task->group * ATTEND_GROUP_KEYS;
    size_t from = group_begin + ATTEND_GROUP_KEYS, to = group_begin;

    assert(n_rows <= ATTEND_ROWS_MAX);
    init_rows(rows, task, out);
    for (size_t i = 0; i < n_rows && shape->type == DTYPE_I8; i++) {
        rows[i].q_step = round_query(q_rounded[i], rows[i].q, shape->head_dim);
        rows[i].q_rounded = q_rounded[i];
    }
    for (size_t n = 0; n < task->n_queries; n++) {
        const struct attend_query *query = &task->queries[n];
        from = query->first < from ? query->first : from;
        to = query->end > to ? query->end : to;
    }
    from = from > group_begin ? from : group_begin;
    to = to < group_begin + ATTEND_GROUP_KEYS ? to : group_begin + ATTEND_GROUP_KEYS;
    for (size_t number = from / PAGE; number * PAGE < to; number++) {
        if (!see_page(rows, task, number))
            continue;
        page.keys = (const uint8_t *)task->queries->keys[number] + offset;
        page.values = (const uint8_t *)task->queries->values[number] + offset;
        page.next_keys = (number + 1) * PAGE < to && task->queries->keys[number + 1]
                             ? (const uint8_t *)task->queries->keys[number + 1] + offset
                             : NULL;
        score_page(rows, n_rows, &page);
        value_page(rows, n_rows, &page);
    }
    for (size_t i = 0; i < n_rows; i++) {
        out->largest[i] = rows[i].largest;
        out->sum[i] = rows[i].sum;
    }
}

/* The bits of attend_add_c: nothing is fused. */
static inline void add_parts(const struct attend_part *total, const struct attend_part *more,
                             size_t rows, size_t d)
{
    for (size_t r = 0; r < rows; r++) {
        float *restrict a = total->values + r * d;
        const float *restrict b = more->values + r * d;
        float largest = total->largest[r];
        if (more->largest[r] == -INFINITY) /* nothing to add; and infinities have no difference */
            continue;
        largest = more->largest[r] > largest ? more->largest[r] : largest;
        float keep = exp_one(total->largest[r] - largest);
        float take = exp_one(more->largest[r] - largest);
        total->largest[r] = largest;
        total->sum[r] = total->sum[r] * keep + more->sum[r] * take;
        for (size_t i = 0; i < d; i++)
            a[i] = a[i] * keep + b[i] * take;
    }
}

static inline void finish_values(float *restrict out, const float *restrict values, float sum,
                                 size_t d)
{
    for (size_t i = 0; i < d; i++)
        out[i] = values[i] / sum;
}
