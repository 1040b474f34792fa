/* attend_store.h - a position's keys and values into a page, as every set does it. For the files of
 * attention; they have before it
 *
 *   float round_to(int16_t *out, const float *x, size_t n, float limit);  the scale of one head
 *   void to_half(uint16_t *out, const float *x, size_t n); */
#pragma once
#include "engine/kernels/attend.h"
#include <string.h>

/* One key, or one value, of a head. */
static void store_rounded(void *head, size_t at, const float *x, size_t d, bool value)
{
    int16_t rounded[ATTEND_HEAD_DIM_MAX];
    float step = round_to(rounded, x, d, 127.0f);
    memcpy((uint8_t *)head + ATTEND_PAGE_KEYS * d + at * sizeof step, &step, sizeof step);
    for (size_t i = 0; i < d; i++)
        ((int8_t *)head)[value ? attend_value_place(DTYPE_I8, d, at, i)
                               : attend_key_place(DTYPE_I8, at, i)] = (int8_t)rounded[i];
}

static void store_half(void *head, size_t at, const float *x, size_t d, bool value)
{
    uint16_t half[ATTEND_HEAD_DIM_MAX];
    to_half(half, x, d);
    for (size_t i = 0; i < d; i++)
        ((uint16_t *)head)[value ? attend_value_place(DTYPE_F16, d, at, i)
                                 : attend_key_place(DTYPE_F16, at, i)] = half[i];
}

static void store_float(void *head, size_t at, const float *x, size_t d, bool value)
{
    for (size_t i = 0; i < d; i++)
        ((float *)head)[value ? attend_value_place(DTYPE_F32, d, at, i)
                              : attend_key_place(DTYPE_F32, at, i)] = x[i];
}

static void store_position(const struct attend_shape *shape, void *keys, void *values, size_t at,
                           const float *key, const float *value)
{
    size_t d = shape->head_dim, head_bytes = attend_head_bytes(shape->type, d);
    void (*store)(void *, size_t, const float *, size_t, bool) =
        shape->type == DTYPE_I8    ? store_rounded
        : shape->type == DTYPE_F16 ? store_half
                                   : store_float;
    for (size_t h = 0; h < shape->kv_heads; h++, key += d, value += d) {
        store((uint8_t *)keys + h * head_bytes, at, key, d, false);
        store((uint8_t *)values + h * head_bytes, at, value, d, true);
    }
}
