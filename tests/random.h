/* random.h - random numbers for tests, the same ones from the same seed. */
#pragma once
#include "engine/base/heap.h"
#include <stdint.h>

/* 24 bits. */
static inline uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return *state >> 8;
}

/* Within [-1, 1). */
static inline float random_float(uint32_t *state)
{
    return (float)next_random(state) * 0x1p-23F - 1.0F;
}

/* Within [-size, size); heap_free ends it. */
static inline float *random_floats(uint32_t *state, size_t n, float size)
{
    float *x = heap_array(float, n);

    for (size_t i = 0; i < n; i++)
        x[i] = size * random_float(state);
    return x;
}
