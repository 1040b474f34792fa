/* Frequencies and angles of the rotary embedding; too seldom needed for vectors. */
#include "engine/ops/ops.h"
#include <assert.h>
#include <math.h>

void ops_rope_frequencies(float *out, size_t head_dim, float theta, const float *divisors)
{
    for (size_t j = 0; j < head_dim / 2; j++) {
        float exponent = (float)(2 * j) / (float)head_dim;
        float power = (float)pow((double)theta, (double)exponent);
        float frequency = 1.0f / power;
        out[j] = divisors ? frequency / divisors[j] : frequency;
    }
}

/* pi/2 in two parts: the first has 33 bits, so that a multiple below 2^20 is exact. */
#define HALF_PI_HIGH 0x1.921fb544p+0
#define HALF_PI_LOW 0x1.0b4611a626331p-34
#define TWO_OVER_PI 0.63661977236758134308
#define ROUND 0x1.8p52

/* cos and sin of an angle, 0 <= angle < 2^19, wrong by less than 1e-9 before they are rounded.
 * Range reduction to |r| <= pi/4 and Taylor sums in double: an error of r counts in full. */
static void cos_sin(float *out_cos, float *out_sin, float angle)
{
    double a = (double)angle;
    double quarter = (a * TWO_OVER_PI + ROUND) - ROUND;
    double r = (a - quarter * HALF_PI_HIGH) - quarter * HALF_PI_LOW;
    double z = r * r;
    double s = 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = (s * z) * r + r;
    double c = 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = c * z + 1.0;
    switch ((unsigned long long)quarter & 3) {
    case 0:
        *out_cos = (float)c;
        *out_sin = (float)s;
        break;
    case 1:
        *out_cos = (float)-s;
        *out_sin = (float)c;
        break;
    case 2:
        *out_cos = (float)-c;
        *out_sin = (float)-s;
        break;
    default:
        *out_cos = (float)s;
        *out_sin = (float)-c;
        break;
    }
}

void ops_rope_angles(float *cos, float *sin, const int32_t *positions, size_t rows,
                     const float *frequencies, size_t half)
{
    for (size_t r = 0; r < rows; r++) {
        assert(positions[r] >= 0 && positions[r] < 1 << 19);
        for (size_t j = 0; j < half; j++) {
            float angle = (float)positions[r] * frequencies[j];
            cos_sin(cos + r * half + j, sin + r * half + j, angle);
        }
    }
}
