/* attend_rows.h - the walk of attention over rows and pages, for the files that have vectors;
 * static, as math_avx2.h. The file that includes it defines the functions declared below.
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
#define FETCH_KEYS ((size_t)16)

struct row {
    const float *q;
    float *out;         /* values weighted so far */
    float largest, sum; /* so far */
    float keep;         /* what is kept of earlier pages when this one is added */
    size_t low, high;   /* keys of the page that are seen; equal: none */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
};

/* One page of the kv head. */
struct page {
    const void *keys, *values;
    const void *next_keys; /* of the next page, or NULL */
    size_t d;
    enum dtype type;
};

static float exp_one(float x);
/* score[j] for low <= j < high (others may get anything), for n rows: 1, 2 or 4. With `ahead` the
 * page's values are fetched meanwhile. */
static void score_rows(struct row *rows, size_t n, const struct page *page, size_t low, size_t high,
                       bool ahead);
/* Scores to exponentials; keep, largest and sum. */
static void soften(struct row *row);
/* out = out * keep + sum over low <= j < high of score[j] value[j], in that order, for n rows. */
static void value_rows(const struct row *rows, size_t n, const struct page *page, size_t low,
                       size_t high);

static inline void fetch(const void *data, size_t bytes, bool near)
{
    for (size_t i = 0; i < bytes; i += CACHE_LINE)
        if (near)
            __builtin_prefetch((const uint8_t *)data + i, 0, 3);
        else
            __builtin_prefetch((const uint8_t *)data + i, 0, 2);
}

/* Pages lie anywhere, and a page is too short for the processor to see what comes next: while keys
 * [j, j + n) are multiplied, later ones are fetched, and the values that will be needed. The first
 * cache is for a page that few rows use: with many, their numbers fill it. */
static inline void fetch_ahead(const struct page *page, size_t j, size_t n, bool near)
{
    size_t row_bytes = attend_head_bytes(page->type, page->d) / PAGE, key = j + FETCH_KEYS;
    if (key < PAGE)
        fetch((const uint8_t *)page->keys + key * row_bytes, n * row_bytes, near);
    else if (page->next_keys)
        fetch((const uint8_t *)page->next_keys + (key - PAGE) * row_bytes, n * row_bytes, near);
    fetch((const uint8_t *)page->values + j * row_bytes, n * row_bytes, near);
}

/* How many rows go together when so many are left. */
static size_t rows_together(size_t left)
{
    return left >= TILE_ROWS ? TILE_ROWS : left >= 2 ? 2 : 1;
}

static void score_page(struct row *rows, size_t n_rows, const struct page *page)
{
    bool ahead = true;
    for (size_t n; n_rows > 0; rows += n, n_rows -= n) {
        size_t low = PAGE, high = 0;
        n = rows_together(n_rows);
        for (size_t r = 0; r < n; r++) {
            low = rows[r].low < rows[r].high && rows[r].low < low ? rows[r].low : low;
            high = rows[r].high > high ? rows[r].high : high;
        }
        if (low >= high)
            continue;
        score_rows(rows, n, page, low, high, ahead);
        for (size_t r = 0; r < n; r++)
            if (rows[r].low < rows[r].high)
                soften(&rows[r]);
        ahead = false;
    }
}

/* Rows of neighbouring tokens see almost the same keys. What only some of them see they take alone:
 * a value that a row may not see must not even be multiplied by zero, it may be anything. */
static void value_tile(struct row *rows, size_t n, const struct page *page)
{
    size_t low = 0, high = PAGE;
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

static void value_page(struct row *rows, size_t n_rows, const struct page *page)
{
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
    const struct attend_shape *shape = task->shape;
    struct page page = {.d = shape->head_dim, .type = shape->type};
    size_t kv_head = task->head_begin / (shape->heads / shape->kv_heads);
    size_t offset = kv_head * attend_head_bytes(shape->type, shape->head_dim);
    size_t n_rows = task->n_queries * (task->head_end - task->head_begin);
    size_t group_begin = task->group * ATTEND_GROUP_KEYS;
    size_t from = group_begin + ATTEND_GROUP_KEYS, to = group_begin;

    assert(n_rows <= ATTEND_ROWS_MAX);
    init_rows(rows, task, out);
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
