/* attend_rows.h - the walk of attention over rows and pages, for the files that have vectors;
 * static, as math_avx2.h. */
#pragma once
#include "engine/kernels/attend_tiles.h"

/* How many rows go together when so many are left. */
static size_t rows_together(size_t left)
{
    return left >= TILE_ROWS ? TILE_ROWS : left >= 2 ? 2 : 1;
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

/* How often n_rows rows ask for more while a page's keys, or values, are taken. */
static size_t times_ahead(const struct page *page, size_t n_rows)
{
    size_t numbers = page->type == DTYPE_I8 ? 2 : 1;
    return n_rows * PAGE * page->d / (SUMS * LANES * STEPS * numbers);
}

static void rescale(struct row *row, size_t d)
{
    for (size_t i = 0; i < d; i += LANES) {
        bool all = i + LANES <= d;
        floats v = floats_times(floats_get(row->out + i, all), floats_all(row->keep));
        floats_put(row->out + i, v, all);
    }
}

static void score_page(struct row *rows, size_t n_rows, struct page *page)
{
    size_t bytes = attend_head_bytes(page->type, page->d);
    ahead_set(&page->ahead, n_rows < TILE_ROWS ? NULL : page->values, bytes,
              times_ahead(page, n_rows));
    for (size_t n; n_rows > 0; rows += n, n_rows -= n) {
        size_t low, high;
        n = rows_together(n_rows);
        if (!seen_range(rows, n, &low, &high))
            continue;
        score_rows(rows, n, page);
        soften(rows, n, page);
        for (size_t r = 0; r < n; r++)
            if (rows[r].keep != 1.0f)
                rescale(&rows[r], page->d);
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
    }
    if (low < high)
        value_rows(rows, n, page, low, high);
    for (size_t r = 0; r < n; r++) {
        size_t begin = rows[r].low > high ? rows[r].low : high;
        if (begin < rows[r].high)
            value_rows(&rows[r], 1, page, begin, rows[r].high);
    }
}

static void value_page(struct row *rows, size_t n_rows, struct page *page, const uint8_t *next_keys)
{
    size_t bytes = attend_head_bytes(page->type, page->d);
    ahead_set(&page->ahead, n_rows < TILE_ROWS ? NULL : next_keys, bytes,
              times_ahead(page, n_rows));
    for (size_t n; n_rows > 0; rows += n, n_rows -= n) {
        n = rows_together(n_rows);
        value_tile(rows, n, page);
    }
}

/* The rows of a task, by kv head: [kv heads][queries][heads_each]. */
struct walk {
    struct row rows[ATTEND_ROWS_MAX];
    int16_t q_rounded[ATTEND_ROWS_MAX][ATTEND_HEAD_DIM_MAX];
    size_t n_rows, n_each; /* of all kv heads, of one */
    size_t heads_each;     /* of a kv head */
    size_t kv_begin, n_kv;
};

/* The place of row i in what comes out, [queries][heads of the task]. */
static size_t place_of(const struct walk *w, const struct attend_task *task, size_t i)
{
    size_t kv = i / w->n_each, query = i % w->n_each / w->heads_each;
    return query * (task->head_end - task->head_begin) + kv * w->heads_each + i % w->heads_each;
}

static void begin_walk(struct walk *w, const struct attend_task *task,
                       const struct attend_part *out)
{
    const struct attend_shape *shape = task->shape;
    size_t d = shape->head_dim, heads = task->head_end - task->head_begin;
    size_t per_kv = shape->heads / shape->kv_heads;

    assert(heads > 0 && task->n_queries > 0);
    w->heads_each = heads < per_kv ? heads : per_kv;
    w->n_rows = task->n_queries * heads;
    w->n_each = task->n_queries * w->heads_each;
    w->n_kv = heads / w->heads_each;
    w->kv_begin = task->head_begin / per_kv;
    assert(w->n_rows <= ATTEND_ROWS_MAX);
    for (size_t i = 0; i < w->n_rows; i++) {
        size_t place = place_of(w, task, i);
        const struct attend_query *query = &task->queries[place / heads];
        struct row *row = &w->rows[i];
        row->q = query->q + (task->head_begin + place % heads) * d;
        row->out = out->values + place * d;
        row->first = query->first;
        row->end = query->end;
        row->largest = -INFINITY;
        row->sum = 0.0f;
        memset(row->out, 0, d * sizeof(float));
        if (shape->type == DTYPE_I8)
            row->q_step = round_query(w->q_rounded[i], row->q, d);
        row->q_rounded = w->q_rounded[i];
    }
}

/* Keys of page `number` that rows see; false: none, and the page may not be there. */
static bool see_page(struct walk *w, size_t number)
{
    size_t at = number * PAGE;
    bool seen = false;
    for (size_t i = 0; i < w->n_rows; i++) {
        struct row *row = &w->rows[i];
        row->low = row->first > at ? row->first - at : 0;
        row->high = row->end > at ? row->end - at : 0;
        row->high = row->high < PAGE ? row->high : PAGE;
        row->low = row->low < row->high ? row->low : row->high;
        seen = seen || row->low < row->high;
    }
    return seen;
}

static struct run run_of(const struct walk *w, const void *data, size_t head_bytes)
{
    const uint8_t *begin = data;
    if (!begin)
        return (struct run){0};
    begin += w->kv_begin * head_bytes;
    return (struct run){begin, begin + w->n_kv * head_bytes};
}

/* All kv heads of a page: first their keys, then their values, as they lie in memory. next_keys: of
 * the page that comes then, or NULL. */
static void walk_page(struct walk *w, const struct attend_task *task, size_t number,
                      const void *next_keys)
{
    const struct attend_shape *shape = task->shape;
    size_t bytes = attend_head_bytes(shape->type, shape->head_dim);
    struct run keys = run_of(w, task->queries->keys[number], bytes);
    struct run values = run_of(w, task->queries->values[number], bytes);
    struct run next = run_of(w, next_keys, bytes);
    struct page page = {.d = shape->head_dim, .type = shape->type, .now = keys, .next = values};
    for (size_t i = 0; i < w->n_kv; i++) {
        page.keys = keys.begin + i * bytes;
        page.values = values.begin + i * bytes;
        score_page(w->rows + i * w->n_each, w->n_each, &page);
    }
    page.now = values;
    page.next = next;
    for (size_t i = 0; i < w->n_kv; i++) {
        page.values = values.begin + i * bytes;
        value_page(w->rows + i * w->n_each, w->n_each, &page,
                   next.begin ? next.begin + i * bytes : NULL);
    }
}

static inline void attend_walk(const struct attend_task *task, const struct attend_part *out)
{
    struct walk w;
    const void *const *keys = task->queries->keys;
    size_t from = (task->group + 1) * ATTEND_GROUP_KEYS, to = task->group * ATTEND_GROUP_KEYS;

    begin_walk(&w, task, out);
    for (size_t n = 0; n < task->n_queries; n++) {
        const struct attend_query *query = &task->queries[n];
        from = query->first < from ? query->first : from;
        to = query->end > to ? query->end : to;
    }
    from = from > task->group * ATTEND_GROUP_KEYS ? from : task->group * ATTEND_GROUP_KEYS;
    to = to < (task->group + 1) * ATTEND_GROUP_KEYS ? to : (task->group + 1) * ATTEND_GROUP_KEYS;
    for (size_t number = from / PAGE; number * PAGE < to; number++)
        if (see_page(&w, number))
            walk_page(&w, task, number, (number + 1) * PAGE < to ? keys[number + 1] : NULL);
    for (size_t i = 0; i < w.n_rows; i++) {
        out->largest[place_of(&w, task, i)] = w.rows[i].largest;
        out->sum[place_of(&w, task, i)] = w.rows[i].sum;
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
