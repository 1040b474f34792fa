/* attend_tiles.h - scores and values of a few rows and one page in vectors, whatever their width;
 * static, as math_avx2.h. The file that includes it defines before:
 *
 *   LANES, floats in a vector; SUMS, vectors held in registers at once
 *   floats, wholes, words   vectors of float, int32_t and twice as many int16_t
 *   floats_zero, floats_all, floats_get, floats_put, floats_plus, floats_times, floats_add_product
 *   floats_of               keys or values of a page, widened
 *   wholes_zero, wholes_to_floats
 *   words_all, words_of     two numbers again and again; bytes made numbers
 *   wholes_add_pairs        the products of neighbouring words added in pairs, to each lane its own
 *
 * and the functions declared below after it. Where all is false only eight of the lanes count.
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
#define WORDS (2 * LANES)
#define CACHE_LINE 64
#define STEPS ((size_t)4) /* many rows ask for more so often */
/* Few rows wait for memory, which is fastest read, and fetched, in its own order: what is fetched
 * are the bytes FETCH_BYTES behind those in use. */
#define FETCH_BYTES ((size_t)8192)

struct row {
    const float *q;
    float *out;         /* values weighted so far */
    size_t first, end;  /* positions seen */
    float largest, sum; /* so far */
    float keep;         /* of what earlier pages gave, when this one brings a larger score */
    size_t low, high;   /* keys of the page that are seen; equal: none */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
    /* for 8-bit keys and values: */
    const int16_t *q_rounded; /* units of q_step */
    int16_t rounded[PAGE];    /* exponentials times the values' scales, units of step */
    float q_step, step;
};

/* Pages lie anywhere, and the processor does not see what comes next. With many rows the arithmetic
 * takes longer than memory: while keys are multiplied, the page's values are fetched, and while
 * those are added, the next page's keys, a little at each step, so that both are busy all the time;
 * into the first cache: of what is fetched for the second one some is not taken. Few rows wait for
 * memory: what is used FETCH_BYTES later is fetched. */
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
        __builtin_prefetch(a->at + i, 0, 3);
    a->at += n;
    a->left -= n;
}

/* Bytes that are read one after the other. */
struct run {
    const uint8_t *begin, *end;
};

/* One page of a kv head. */
struct page {
    const uint8_t *keys, *values;
    struct run now, next; /* the task's kv heads of its keys, then of its values; empty: none */
    size_t d;
    enum dtype type;
    struct ahead ahead;
};

/* What few rows need FETCH_BYTES after `at`, which is in the run. */
static inline const uint8_t *soon(const struct page *page, const uint8_t *at)
{
    size_t left = (size_t)(page->now.end - at);
    if (left > FETCH_BYTES)
        return at + FETCH_BYTES;
    return page->next.begin ? page->next.begin + (FETCH_BYTES - left) : at;
}

static float exp_one(float x);
/* Scores of n rows, at most TILE_ROWS, to exponentials, zero for keys that are not seen; keep,
 * largest and sum; with 8-bit values rounded and step. */
static void soften(struct row *rows, size_t n, const struct page *page);
/* As round_to of attend_c.c, with 16 bits; out [512], zeros after d. Returns the step. */
static float round_query(int16_t *out, const float *q, size_t d);

static inline const float *scales_of(const uint8_t *data, size_t d)
{
    return (const float *)(const void *)(data + PAGE * d);
}

/* Numbers of a page that are taken one after the other, [end] times `bytes` of them: a number (of
 * 8-bit ones two) of all keys, or of a strip of all values. */
struct steps {
    const uint8_t *data;
    size_t bytes, begin, end;
    bool values; /* they are weighted by scores, keys by the query */
    bool fetch;  /* nobody has come here before */
};

/* What comes later is asked for. Few rows of 8-bit numbers ask for nothing: the processor reads
 * these ahead faster by itself. */
static ALWAYS_INLINE void step_ahead(struct page *page, const struct steps *s, size_t j, size_t n,
                                     enum dtype type)
{
    if (n >= TILE_ROWS && j % STEPS == 0)
        ahead_step(&page->ahead);
    if (n >= TILE_ROWS || type == DTYPE_I8 || !s->fetch)
        return;
    const uint8_t *next = soon(page, s->data + j * s->bytes);
    for (size_t i = 0; i < s->bytes; i += CACHE_LINE)
        __builtin_prefetch(next + i, 0, 2);
}

/* sums[r][k] += weight[j] of row r times number k at j, in this order. */
static ALWAYS_INLINE void add_floats(floats *sums, const struct row *rows, size_t n, size_t width,
                                     struct page *page, const struct steps *steps, enum dtype type,
                                     bool all)
{
    size_t bytes = type == DTYPE_F16 ? 2 : 4;
    for (size_t j = steps->begin; j < steps->end; j++) {
        step_ahead(page, steps, j, n, type);
        for (size_t k = 0; k < width; k++) {
            floats x = floats_of(steps->data + j * steps->bytes + k * LANES * bytes, type, all);
            for (size_t r = 0; r < n; r++)
                sums[r * width + k] = floats_add_product(
                    sums[r * width + k],
                    floats_all(steps->values ? rows[r].score[j] : rows[r].q[j]), x);
        }
    }
}

/* The same for pairs of 8-bit numbers. */
static ALWAYS_INLINE void add_wholes(wholes *sums, const struct row *rows, size_t n, size_t width,
                                     struct page *page, const struct steps *steps, bool all)
{
    for (size_t j = steps->begin; j < steps->end; j++) {
        step_ahead(page, steps, j, n, DTYPE_I8);
        for (size_t k = 0; k < width; k++) {
            words pairs = words_of(steps->data + j * steps->bytes + k * WORDS, all ? WORDS : 16);
            for (size_t r = 0; r < n; r++) {
                int32_t weights;
                memcpy(&weights, (steps->values ? rows[r].rounded : rows[r].q_rounded) + 2 * j,
                       sizeof weights);
                sums[r * width + k] =
                    wholes_add_pairs(sums[r * width + k], words_all(weights), pairs);
            }
        }
    }
}

/* ---- scores ---- */

/* Of all keys of a page, whatever they are, for n rows. */
static ALWAYS_INLINE void score_type(struct row *rows, size_t n, struct page *page, enum dtype type)
{
    size_t width = SUMS / n * LANES < PAGE ? SUMS / n : PAGE / LANES;
    size_t bytes = type == DTYPE_F32 ? 4 : 2;
    const float *scales = scales_of(page->keys, page->d);
    for (size_t i = 0; i < PAGE; i += width * LANES) {
        struct steps steps = {.data = page->keys + i * bytes,
                              .bytes = PAGE * bytes,
                              .end = type == DTYPE_I8 ? page->d / 2 : page->d,
                              .fetch = i == 0};
        floats s[SUMS];
        wholes v[SUMS];
        for (size_t k = 0; k < n * width; k++) {
            s[k] = floats_zero();
            v[k] = wholes_zero();
        }
        if (type == DTYPE_I8)
            add_wholes(v, rows, n, width, page, &steps, true);
        else
            add_floats(s, rows, n, width, page, &steps, type, true);
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < width; k++) {
                size_t j = i + k * LANES;
                if (type == DTYPE_I8)
                    s[r * width + k] = floats_times(
                        wholes_to_floats(v[r * width + k]),
                        floats_times(floats_all(rows[r].q_step), floats_get(scales + j, true)));
                floats_put(rows[r].score + j, s[r * width + k], true);
            }
    }
}

static ALWAYS_INLINE void score_count(struct row *rows, size_t n, struct page *page)
{
    if (page->type == DTYPE_I8)
        score_type(rows, n, page, DTYPE_I8);
    else if (page->type == DTYPE_F16)
        score_type(rows, n, page, DTYPE_F16);
    else
        score_type(rows, n, page, DTYPE_F32);
}

static void score_rows(struct row *rows, size_t n, struct page *page)
{
    if (n == 4)
        score_count(rows, 4, page);
    else if (n == 2)
        score_count(rows, 2, page);
    else
        score_count(rows, 1, page);
}

/* ---- values ---- */

static ALWAYS_INLINE void value_floats(const struct row *rows, size_t n, struct page *page,
                                       const struct steps *steps, size_t i, size_t width,
                                       enum dtype type, bool all)
{
    floats v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = floats_get(rows[r].out + i + k * LANES, all);
    add_floats(v, rows, n, width, page, steps, type, all);
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            floats_put(rows[r].out + i + k * LANES, v[r * width + k], all);
}

static ALWAYS_INLINE void value_wholes(const struct row *rows, size_t n, struct page *page,
                                       const struct steps *steps, size_t i, size_t width, bool all)
{
    wholes v[SUMS];
    for (size_t k = 0; k < n * width; k++)
        v[k] = wholes_zero();
    add_wholes(v, rows, n, width, page, steps, all);
    for (size_t r = 0; r < n; r++) {
        if (rows[r].low >= rows[r].high)
            continue;
        for (size_t k = 0; k < width; k++) {
            float *out = rows[r].out + i + k * LANES;
            floats more =
                floats_times(wholes_to_floats(v[r * width + k]), floats_all(rows[r].step));
            floats_put(out, floats_plus(floats_get(out, all), more), all);
        }
    }
}

static ALWAYS_INLINE void value_step(const struct row *rows, size_t n, struct page *page,
                                     const struct steps *steps, size_t i, size_t width,
                                     enum dtype type)
{
    bool all = width > 1 || i + LANES <= page->d;
    if (type == DTYPE_I8)
        value_wholes(rows, n, page, steps, i, width, all);
    else
        value_floats(rows, n, page, steps, i, width, type, all);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, enum dtype type)
{
    size_t width = SUMS / n * LANES < ATTEND_STRIP ? SUMS / n : ATTEND_STRIP / LANES;
    size_t d = page->d, pair = type == DTYPE_I8 ? 2 : 1, bytes = type == DTYPE_F32 ? 4 : 2;
    for (size_t strip = 0; strip < d; strip += ATTEND_STRIP) {
        size_t end = strip + ATTEND_STRIP < d ? strip + ATTEND_STRIP : d, i = strip;
        struct steps steps = {.data = page->values + strip * (PAGE / pair) * bytes,
                              .bytes = (end - strip) * bytes,
                              .begin = low / pair,
                              .end = (high + pair - 1) / pair,
                              .values = true,
                              .fetch = true};
        for (; i + width * LANES <= end; i += width * LANES, steps.data += width * LANES * bytes) {
            value_step(rows, n, page, &steps, i, width, type);
            steps.fetch = false;
        }
        for (; i < end; i += LANES, steps.data += LANES * bytes)
            value_step(rows, n, page, &steps, i, 1, type);
    }
}

/* out += sum over low <= j < high of score[j] value[j], in that order, for n rows; with
 * 8-bit values the weights are `rounded`, the sum is exact, and rows that see nothing stay. */
static ALWAYS_INLINE void value_count(const struct row *rows, size_t n, struct page *page,
                                      size_t low, size_t high)
{
    if (page->type == DTYPE_I8)
        value_type(rows, n, page, low, high, DTYPE_I8);
    else if (page->type == DTYPE_F16)
        value_type(rows, n, page, low, high, DTYPE_F16);
    else
        value_type(rows, n, page, low, high, DTYPE_F32);
}

static void value_rows(const struct row *rows, size_t n, struct page *page, size_t low, size_t high)
{
    if (n == 4)
        value_count(rows, 4, page, low, high);
    else if (n == 2)
        value_count(rows, 2, page, low, high);
    else
        value_count(rows, 1, page, low, high);
}
