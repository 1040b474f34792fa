/* attend.h - what attention is asked: queries, and pages of keys and values. */
#pragma once
#include "engine/quant/quant.h"
#include <stddef.h>

#define ATTEND_PAGE_KEYS 64 /* keys of a page: those at positions [64 p, 64 p + 64) */
/* Keys at positions [1024 g, 1024 g + 1024) are a group: groups are summed each on its own and then
 * added in ascending order, so that threads can share a long sequence. */
#define ATTEND_GROUP_KEYS 1024
#define ATTEND_HEAD_DIM_MAX 512
#define ATTEND_ROWS_MAX 64 /* queries times heads of a task */

/* What the queries of one call have in common. */
struct attend_shape {
    size_t heads;    /* query heads; a multiple of kv_heads */
    size_t kv_heads; /* query head h looks at kv head h / (heads / kv_heads) */
    size_t head_dim; /* a multiple of 8, at most ATTEND_HEAD_DIM_MAX */
    enum dtype type; /* of keys and values: DTYPE_F16, DTYPE_F32 or DTYPE_I8 */
};

/* A page is [kv_heads] of attend_head_bytes each. In a head, what a product takes one after the
 * other lies side by side, and no sum goes across a vector: keys are [head_dim][64], values
 * [head_dim / 64][64][64], the last of these strips as narrow as is left. With DTYPE_I8 a key (or
 * value) of a head has one float32 scale, and 8 bits for each number, two neighbours side by side:
 * keys are [head_dim / 2][64][2], values [head_dim / 64][32][64][2]; then the scales [64]. Products
 * with them are of 16 bits, so the query and the exponentials lose next to nothing. */
static inline size_t attend_head_bytes(enum dtype type, size_t head_dim)
{
    size_t scale_bytes = type == DTYPE_I8 ? sizeof(float) : 0;
    size_t value_bytes = type == DTYPE_I8 ? 1 : type == DTYPE_F16 ? 2 : sizeof(float);
    return ATTEND_PAGE_KEYS * (head_dim * value_bytes + scale_bytes);
}

#define ATTEND_STRIP ((size_t)64) /* numbers of a value that lie side by side */

/* Where number i of the key `at` of a head is, counted in numbers; and of the value. */
static inline size_t attend_key_place(enum dtype type, size_t at, size_t i)
{
    return type == DTYPE_I8 ? (i / 2 * ATTEND_PAGE_KEYS + at) * 2 + i % 2
                            : i * ATTEND_PAGE_KEYS + at;
}

static inline size_t attend_value_place(enum dtype type, size_t head_dim, size_t at, size_t i)
{
    size_t strip = i / ATTEND_STRIP * ATTEND_STRIP, left = head_dim - strip;
    size_t width = left < ATTEND_STRIP ? left : ATTEND_STRIP, begin = strip * ATTEND_PAGE_KEYS;
    return begin +
           (type == DTYPE_I8 ? (at / 2 * width + i - strip) * 2 + at % 2 : at * width + i - strip);
}

/* Where a token's keys and values are put: a page of each, and the key's number in it. */
struct attend_place {
    void *keys, *values;
    size_t at;
};

/* One query token and what it may see: keys at positions [first, end), never empty. */
struct attend_query {
    const float *q; /* [heads][head_dim] */
    float *out;     /* [heads][head_dim] */
    /* By page number. Only pages that hold positions of [first, end) are looked at, and only those
     * positions in them count: the rest may be anything. Queries with the same `keys` have the same
     * `values`. */
    const void *const *keys;
    const void *const *values;
    size_t first, end;
};

/* Some queries that share their pages; some heads of one kv head, or all heads of some; the keys of
 * one group. A query with one head is a row; rows are [n_queries][head_end - head_begin], at most
 * ATTEND_ROWS_MAX. */
struct attend_task {
    const struct attend_shape *shape;
    const struct attend_query *queries;
    size_t n_queries;
    size_t head_begin, head_end;
    size_t group;
};

/* What rows have seen of their keys. */
struct attend_part {
    float *values;  /* [rows][head_dim] sum of exponentials times values */
    float *largest; /* [rows] score; -INFINITY: no key was seen */
    float *sum;     /* [rows] of exponentials of score - largest */
};
