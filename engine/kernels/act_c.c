/* Activation functions, and activations rounded to 8 bits: the meaning. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"
#include <assert.h>

void gelu_mul_c(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float u = gate[i];
        float cube = ((GELU_CUBE * u) * u) * u;
        float y = u / (1.0f + scalar_exp(GELU_SCALE * (u + cube)));
        out[i] = up ? y * up[i] : y;
    }
}

void softcap_c(float *x, size_t n, float cap)
{
    for (size_t i = 0; i < n; i++)
        x[i] = cap * scalar_tanh(x[i] / cap);
}

/* Whole number nearest to v, the even one of two; -127 when v is not a number. */
static float nearest(float v)
{
    v = v > -127.0f ? v : -127.0f;
    v = v < 127.0f ? v : 127.0f;
    return (v + EXP_ROUND) - EXP_ROUND;
}

void round_row_c(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n, size_t block)
{
    size_t group = ACT_GROUP(block);
    assert(block == 32 || block == 256);
    for (size_t b = 0; b < n; b += block) {
        float largest = 0.0f;
        for (size_t i = 0; i < block; i++)
            largest = fabsf(x[b + i]) > largest ? fabsf(x[b + i]) : largest;
        float step = act_step(largest, block);
        scale[b / block] = step;
        bool usable = step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
        for (size_t i = b; i < b + block; i++) {
            if (i % group == 0)
                sum[i / group] = 0;
            q[i] = (int8_t)(usable ? nearest(x[i] / step) : 0.0f);
            sum[i / group] += q[i];
        }
    }
}
