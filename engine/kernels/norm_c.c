/* Norm and sums of vectors: the meaning. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"

static float norm_factor(const float *x, size_t n, float epsilon)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % LANES] += x[i] * x[i];
    return 1.0f / sqrtf(lanes_sum(lane) / (float)n + epsilon);
}

void rmsnorm_c(float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    float factor = norm_factor(x, n, epsilon);
    for (size_t i = 0; i < n; i++) {
        float y = x[i] * factor;
        out[i] = weight ? y * weight[i] : y;
    }
}

void add_norm_c(float *x, const float *y, const float *weight, size_t n, float epsilon, float scale)
{
    float factor = norm_factor(y, n, epsilon);
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] + y[i] * factor * weight[i]) * scale;
}
