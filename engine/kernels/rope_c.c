/* Rotary embedding: the meaning. Source: RoFormer, arXiv:2104.09864, section 3.4.2. */
#include "engine/kernels/sets.h"

void rope_c(float *x, const float *cos, const float *sin, size_t heads, size_t half)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half) {
        for (size_t j = 0; j < half; j++) {
            float a = x[j], b = x[j + half];
            x[j] = a * cos[j] - b * sin[j];
            x[j + half] = b * cos[j] + a * sin[j];
        }
    }
}
