/* attend.h - what attention is asked: queries, and pages of keys and values. */
#pragma once
#include "engine/quant/quant.h"
#include <stddef.h>

#define ATTEND_PAGE_KEYS 64 /* keys of a page: those at positions [64 p, 64 p + 64) */

/* What the queries of one call have in common. */
struct attend_shape {
    size_t heads;    /* query heads; a multiple of kv_heads */
    size_t kv_heads; /* query head h looks at kv head h / (heads / kv_heads) */
    size_t head_dim; /* a multiple of 8, at most ATTEND_HEAD_DIM_MAX */
    enum dtype type; /* of keys and values: DTYPE_F16 or DTYPE_F32 */
};
#define ATTEND_HEAD_DIM_MAX 512

/* One query token and what it may see: keys at positions [first, end), never empty. */
struct attend_query {
    const float *q; /* [heads][head_dim] */
    float *out;     /* [heads][head_dim] */
    /* By page number; a page is [kv_heads][64][head_dim]. Only pages that hold positions of
     * [first, end) are looked at, and only those positions in them: the rest may be anything. */
    const void *const *keys;
    const void *const *values;
    size_t first, end;
};

/* One task of attention: some queries of one kv head, some of its query heads. */
struct attend_task {
    const struct attend_shape *shape;
    const struct attend_query *queries;
    size_t n_queries;
    size_t head_begin, head_end; /* query heads, all of one kv head */
};
