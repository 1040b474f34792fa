/* attend_tiles.h - scores and values of a few rows and one page in vectors, whatever their width;
 * static, as math_avx2.h. The file that includes it defines before:
 *
 *   LANES, floats in a vector; SUMS, vectors held in registers at once
 *   floats, wholes, words   vectors of float, int32_t and twice as many int16_t
 *   floats_zero, floats_all, floats_get, floats_put, floats_plus, floats_times, floats_add_product
 *   floats_of               keys or values of a page, widened
 *   floats_sums             out [SUMS] of the lanes of each of SUMS vectors
 *   wholes_zero, wholes_get, wholes_put, wholes_to_floats, wholes_sums
 *   words_all, words_get, words_of   two numbers again and again; numbers; bytes made numbers
 *   wholes_add_pairs        the products of neighbouring words added in pairs, to each lane its own
 *   wholes_add_dot          the same where only the sum of the lanes counts
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
#define FETCH_KEYS ((size_t)8) /* values are added in steps of so many keys */
/* Few rows wait for memory, which is fastest read, and fetched, in its own order: their values are
 * added in blocks of so many keys, and what is fetched meanwhile are the next bytes in order, not
 * those that lie FETCH_BYTES behind the ones in use. At heads of 256 a block is no larger than
 * FETCH_BYTES: all of it has been fetched when it begins. */
#define BLOCK_KEYS ((size_t)8)
#define BLOCK_KEYS_F16 ((size_t)16)
#define FETCH_BYTES ((size_t)8192)
/* Keys are asked for once more shortly before they are used: a fetch is lost when too many wait. */
#define FETCH_AGAIN_BYTES ((size_t)2048)

struct row {
    const float *q;
    float *out;         /* values weighted so far */
    size_t first, end;  /* positions seen */
    float largest, sum; /* so far */
    float keep;         /* what is kept of earlier pages when this one is added */
    size_t low, high;   /* keys of the page that are seen; equal: none */
    float score[PAGE];  /* then their exponentials, zero for keys that are not seen */
    /* for 8-bit keys and values: */
    const int16_t *q_rounded; /* units of q_step */
    int16_t rounded[PAGE];    /* exponentials times the values' scales, units of step */
    float q_step, step;
};

/* Pages lie anywhere, and the processor does not see what comes next. With many rows the arithmetic
 * takes longer than memory: while keys are multiplied, the page's values are fetched, and while
 * those are added, the next page's keys, a little at each step, so that both are busy all the time.
 * Few rows wait for memory: what is used FETCH_BYTES later is fetched. */
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

static ALWAYS_INLINE void fetch(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += CACHE_LINE)
        __builtin_prefetch(at + i, 0, 2);
}

static ALWAYS_INLINE void fetch_keys(const uint8_t *next, const uint8_t *keys, size_t bytes)
{
    fetch(next, bytes);
    for (size_t i = 0; i < bytes; i += CACHE_LINE)
        __builtin_prefetch(keys + FETCH_AGAIN_BYTES + i, 0, 3);
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
/* Scores to exponentials; keep, largest and sum. */
static void soften(struct row *row);
/* As round_to of attend_c.c, with 16 bits; out [512], zeros after d. Returns the step. */
static float round_query(int16_t *out, const float *q, size_t d);
/* rounded and step from the exponentials and scales [64]. */
static void round_weights(struct row *row, const float *scales);

static inline const float *scales_of(const uint8_t *data, size_t d)
{
    return (const float *)(const void *)(data + PAGE * d);
}

/* ---- scores ---- */

/* Keys go in tiles of SUMS / n. */
static ALWAYS_INLINE void score_floats(float *out, const struct row *rows, size_t n,
                                       const uint8_t *keys, const uint8_t *next, size_t d,
                                       enum dtype type)
{
    size_t n_keys = SUMS / n, bytes = type == DTYPE_F16 ? 2 : 4, i = 0;
    floats s[SUMS];
    for (size_t k = 0; k < SUMS; k++)
        s[k] = floats_zero();
    for (; i + LANES <= d; i += LANES) {
        if (n < TILE_ROWS)
            fetch_keys(next + i * n_keys * bytes, keys + i * n_keys * bytes,
                       LANES * n_keys * bytes);
        for (size_t k = 0; k < n_keys; k++) {
            floats key = floats_of(keys + (k * d + i) * bytes, type, true);
            for (size_t r = 0; r < n; r++)
                s[r * n_keys + k] =
                    floats_add_product(s[r * n_keys + k], floats_get(rows[r].q + i, true), key);
        }
    }
    if (i < d)
        for (size_t k = 0; k < n_keys; k++) {
            floats key = floats_of(keys + (k * d + i) * bytes, type, false);
            for (size_t r = 0; r < n; r++)
                s[r * n_keys + k] =
                    floats_add_product(s[r * n_keys + k], floats_get(rows[r].q + i, false), key);
        }
    floats_sums(out, s);
}

static ALWAYS_INLINE void score_wholes(float *out, const struct row *rows, size_t n,
                                       const uint8_t *keys, const uint8_t *next, size_t d)
{
    size_t n_keys = SUMS / n, i = 0;
    wholes s[SUMS];
    for (size_t k = 0; k < SUMS; k++)
        s[k] = wholes_zero();
    for (; i + WORDS <= d; i += WORDS) {
        if (n < TILE_ROWS)
            fetch_keys(next + i * n_keys, keys + i * n_keys, WORDS * n_keys);
        for (size_t k = 0; k < n_keys; k++) {
            words key = words_of(keys + k * d + i, WORDS);
            for (size_t r = 0; r < n; r++)
                s[r * n_keys + k] =
                    wholes_add_dot(s[r * n_keys + k], words_get(rows[r].q_rounded + i), key);
        }
    }
    if (i < d)
        for (size_t k = 0; k < n_keys; k++) {
            words key = words_of(keys + k * d + i, d - i);
            for (size_t r = 0; r < n; r++)
                s[r * n_keys + k] =
                    wholes_add_dot(s[r * n_keys + k], words_get(rows[r].q_rounded + i), key);
        }
    wholes_sums(out, s);
}

/* score[j] for low <= j < high (others may get anything), for n rows: 1, 2 or 4; for 8-bit keys in
 * units of the steps. */
static ALWAYS_INLINE void score_tiles(struct row *rows, size_t n, struct page *page, size_t low,
                                      size_t high, enum dtype type)
{
    size_t n_keys = SUMS / n, d = page->d;
    size_t key_bytes = d * (type == DTYPE_I8 ? 1 : type == DTYPE_F16 ? 2 : 4);
    for (size_t j = low / n_keys * n_keys; j < high; j += n_keys) {
        const uint8_t *keys = page->keys + j * key_bytes, *next = soon(page, keys);
        float sums[SUMS];
        if (type == DTYPE_I8)
            score_wholes(sums, rows, n, keys, next, d);
        else
            score_floats(sums, rows, n, keys, next, d, type);
        for (size_t r = 0; r < n; r++)
            memcpy(rows[r].score + j, sums + r * n_keys, n_keys * sizeof(float));
        ahead_step(&page->ahead);
    }
}

static ALWAYS_INLINE void score_type(struct row *rows, size_t n, struct page *page, size_t low,
                                     size_t high)
{
    if (page->type == DTYPE_I8)
        score_tiles(rows, n, page, low, high, DTYPE_I8);
    else if (page->type == DTYPE_F16)
        score_tiles(rows, n, page, low, high, DTYPE_F16);
    else
        score_tiles(rows, n, page, low, high, DTYPE_F32);
}

static void score_rows(struct row *rows, size_t n, struct page *page, size_t low, size_t high)
{
    if (n == 4)
        score_type(rows, 4, page, low, high);
    else if (n == 2)
        score_type(rows, 2, page, low, high);
    else
        score_type(rows, 1, page, low, high);
}

/* ---- values ---- */

/* Some of the keys of a page, [low, high), and where their values begin. */
struct block {
    size_t low, high;
    bool first, last;
    const uint8_t *values, *next; /* of key `low`, or the even one before it */
};

static ALWAYS_INLINE void value_floats(const struct row *rows, size_t n, struct page *page,
                                       struct block b, size_t i, size_t width, enum dtype type,
                                       bool all)
{
    size_t bytes = type == DTYPE_F16 ? 2 : 4;
    floats v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = floats_times(floats_get(rows[r].out + i + k * LANES, all),
                                            floats_all(b.first ? rows[r].keep : 1.0f));
    for (size_t j = b.low; j < b.high; j++) {
        size_t at = ((j - b.low) * page->d + i) * bytes;
        if (n < TILE_ROWS)
            fetch(b.next + (i * (b.high - b.low) + (j - b.low) * width * LANES) * bytes,
                  width * LANES * bytes);
        else if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            floats value = floats_of(b.values + at + k * LANES * bytes, type, all);
            for (size_t r = 0; r < n; r++)
                v[r * width + k] =
                    floats_add_product(v[r * width + k], floats_all(rows[r].score[j]), value);
        }
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            floats_put(rows[r].out + i + k * LANES, v[r * width + k], all);
}

/* As value_floats, exact until the last block, in sums [n][ATTEND_HEAD_DIM_MAX] between blocks. */
static ALWAYS_INLINE void value_wholes(int32_t *sums, const struct row *rows, size_t n,
                                       struct page *page, struct block b, size_t i, size_t width,
                                       bool all)
{
    wholes v[SUMS];
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++)
            v[r * width + k] = b.first ? wholes_zero()
                                       : wholes_get(sums + r * ATTEND_HEAD_DIM_MAX + i + k * LANES);
    size_t begin = b.low / 2 * 2, n_pairs = (b.high - begin + 1) / 2;
    for (size_t j = begin; j < b.high; j += 2) {
        size_t at = (j - begin) * page->d + 2 * i;
        if (n < TILE_ROWS)
            fetch(b.next + 2 * i * n_pairs + (j - begin) / 2 * width * WORDS, width * WORDS);
        else if (j % FETCH_KEYS == 0)
            ahead_step(&page->ahead);
        for (size_t k = 0; k < width; k++) {
            words pairs = words_of(b.values + at + k * WORDS, all ? WORDS : 16);
            for (size_t r = 0; r < n; r++) {
                int32_t weights;
                memcpy(&weights, rows[r].rounded + j, sizeof weights);
                v[r * width + k] = wholes_add_pairs(v[r * width + k], words_all(weights), pairs);
            }
        }
    }
    if (!b.last) {
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < width; k++)
                wholes_put(sums + r * ATTEND_HEAD_DIM_MAX + i + k * LANES, v[r * width + k]);
        return;
    }
    for (size_t r = 0; r < n; r++) {
        if (rows[r].low >= rows[r].high)
            continue;
        for (size_t k = 0; k < width; k++) {
            float *out = rows[r].out + i + k * LANES;
            floats kept = floats_times(floats_get(out, all), floats_all(rows[r].keep));
            floats more =
                floats_times(wholes_to_floats(v[r * width + k]), floats_all(rows[r].step));
            floats_put(out, floats_plus(kept, more), all);
        }
    }
}

static ALWAYS_INLINE void value_step(int32_t *sums, const struct row *rows, size_t n,
                                     struct page *page, struct block b, size_t i, size_t width,
                                     enum dtype type)
{
    bool all = width > 1 || i + LANES <= page->d;
    if (type == DTYPE_I8)
        value_wholes(sums, rows, n, page, b, i, width, all);
    else
        value_floats(rows, n, page, b, i, width, type, all);
}

static ALWAYS_INLINE void value_type(const struct row *rows, size_t n, struct page *page,
                                     size_t low, size_t high, enum dtype type)
{
    size_t width = SUMS / n, d = page->d, keys = PAGE;
    size_t bytes = d * (type == DTYPE_I8 ? 1 : type == DTYPE_F16 ? 2 : 4);
    int32_t sums[TILE_ROWS / 2 * ATTEND_HEAD_DIM_MAX];
    if (n < TILE_ROWS)
        keys = type == DTYPE_F16 ? BLOCK_KEYS_F16 : BLOCK_KEYS;
    struct block b = {.low = low, .first = true};
    for (; b.low < high; b.low = b.high, b.first = false) {
        size_t begin = type == DTYPE_I8 ? b.low / 2 * 2 : b.low, i = 0;
        b.high = (b.low / keys + 1) * keys;
        b.high = b.high < high ? b.high : high;
        b.last = b.high == high;
        b.values = page->values + begin * bytes;
        b.next = soon(page, b.values);
        for (; i + width * LANES <= d; i += width * LANES)
            value_step(sums, rows, n, page, b, i, width, type);
        for (; i < d; i += LANES)
            value_step(sums, rows, n, page, b, i, 1, type);
    }
}

/* out = out * keep + sum over low <= j < high of score[j] value[j], in that order, for n rows; with
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
