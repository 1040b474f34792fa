/* Norm and sums of vectors: the meaning. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"

void rmsnorm_c(float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % LANES] += x[i] * x[i];
    float mean = lanes_sum(lane) / (float)n;
    float factor = 1.0f / sqrtf(mean + epsilon);
    for (size_t i = 0; i < n; i++) {
        float y = x[i] * factor;
        out[i] = weight ? y * weight[i] : y;
    }
}

void add_scale_c(float *x, const float *y, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] + y[i]) * scale;
}
