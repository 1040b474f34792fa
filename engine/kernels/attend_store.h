/* attend_store.h - a position's keys and values into a page, as every set does it. For the files of
 * attention; they have before it
 *
 *   float round_to(int16_t *out, const float *x, size_t n, float limit);  the scale of one head
 *   void store_floats(void *page, size_t at, const float *x, size_t d, enum dtype type); */
#pragma once
#include "engine/kernels/attend.h"
#include <string.h>

/* One head: int8 with a stride of 1 or 2, and the scale. */
static void store_rounded(void *page, size_t at, size_t first, size_t stride, const float *x,
                          size_t d)
{
    int16_t rounded[ATTEND_HEAD_DIM_MAX];
    float step = round_to(rounded, x, d, 127.0f);
    memcpy((uint8_t *)page + ATTEND_PAGE_KEYS * d + at * sizeof step, &step, sizeof step);
    for (size_t i = 0; i < d; i++)
        ((int8_t *)page)[first + i * stride] = (int8_t)rounded[i];
}

static void store_position(const struct attend_shape *shape, void *keys, void *values, size_t at,
                           const float *key, const float *value)
{
    size_t d = shape->head_dim, head_bytes = attend_head_bytes(shape->type, d);
    for (size_t h = 0; h < shape->kv_heads; h++, key += d, value += d) {
        uint8_t *k = (uint8_t *)keys + h * head_bytes, *v = (uint8_t *)values + h * head_bytes;
        if (shape->type == DTYPE_I8) {
            store_rounded(k, at, at * d, 1, key, d);
            store_rounded(v, at, at / 2 * 2 * d + at % 2, 2, value, d);
        } else {
            store_floats(k, at, key, d, shape->type);
            store_floats(v, at, value, d, shape->type);
        }
    }
}
