#include "engine/kernels/sets.h"
#include <string.h>

#define CHAINS ((size_t)16) /* independent sums */

uint64_t probe_read_c(const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t sum[4] = {0};

    for (size_t i = 0; i < size; i += sizeof sum) {
        uint64_t x[4];
        memcpy(x, at + i, sizeof x);
        for (size_t k = 0; k < 4; k++)
            sum[k] += x[k];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

size_t probe_int8_c(size_t products, int32_t *out)
{
    volatile int8_t given = (int8_t)(products & 127);
    uint32_t sum[CHAINS] = {0};
    size_t done = 0;

    for (; done < products; done += CHAINS) {
        int8_t a = given;
        for (uint32_t i = 0; i < CHAINS; i++)
            sum[i] += (uint32_t)(a * (int8_t)i);
    }
    *out = 0;
    for (size_t i = 0; i < CHAINS; i++)
        *out += (int32_t)(sum[i] & 0xffffff);
    return done;
}

size_t probe_float32_c(size_t products, float *out)
{
    volatile float given = 1.0f / (float)(products + 1);
    float sum[CHAINS] = {0};
    size_t done = 0;

    for (; done < products; done += CHAINS) {
        float a = given;
        for (size_t i = 0; i < CHAINS; i++)
            sum[i] += a * (float)i;
    }
    *out = 0;
    for (size_t i = 0; i < CHAINS; i++)
        *out += sum[i];
    return done;
}
