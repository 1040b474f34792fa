/* Products of stored rows with activations: the meaning. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"

#define CHUNK 256 /* values made float32 at a time: a whole number of blocks of every type */
#define ROWS 32   /* activation rows that share them */

/* Float32 activations: eight partial sums a row, in order of j. */
void matmul_float_c(float *out, size_t stride, const struct weight_rows *w,
                    const struct act_rows *x)
{
    for (size_t i = w->begin; i < w->end; i++) {
        const uint8_t *row = (const uint8_t *)w->data + i * w->row_bytes;
        for (size_t first = 0; first < x->rows; first += ROWS) {
            size_t rows = x->rows - first < ROWS ? x->rows - first : ROWS;
            float lane[ROWS][LANES] = {0};
            for (size_t j = 0; j < w->width; j += CHUNK) {
                float value[CHUNK];
                size_t n = w->width - j < CHUNK ? w->width - j : CHUNK;
                w->type->to_f32(value, row + j / w->type->block_values * w->type->block_bytes, n);
                for (size_t r = 0; r < rows; r++) {
                    const float *a = x->x + (first + r) * x->width + j;
                    for (size_t k = 0; k < n; k++)
                        lane[r][k % LANES] += value[k] * a[k];
                }
            }
            for (size_t r = 0; r < rows; r++)
                out[(first + r) * stride + i] = lanes_sum(lane[r]);
        }
    }
}

/* Rounded activations: every block gives a whole number, exactly; they are added in order of the
 * blocks, each times (scale of the block of weights times scale of the block of activations). */
typedef int32_t block_dot(const uint8_t *block, const int8_t *q, float *out_scale);

static void matmul_blocks(float *out, size_t stride, const struct weight_rows *w,
                          const struct act_rows *x, block_dot *dot)
{
    size_t values = w->type->block_values, blocks = w->width / values;
    for (size_t i = w->begin; i < w->end; i++) {
        for (size_t r = 0; r < x->rows; r++) {
            const uint8_t *block = (const uint8_t *)w->data + i * w->row_bytes;
            const int8_t *q = x->q + r * x->width;
            const float *act_scale = x->scale + r * blocks;
            float sum = 0.0f;
            for (size_t b = 0; b < blocks; b++) {
                float scale;
                int32_t whole = dot(block, q, &scale);
                sum += (scale * act_scale[b]) * (float)whole;
                block += w->type->block_bytes;
                q += values;
            }
            out[r * stride + i] = sum;
        }
    }
}

static float half_at(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return quant_f16_to_f32(half);
}

static int32_t dot_q8_0(const uint8_t *block, const int8_t *q, float *out_scale)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 32; j++)
        sum += (int8_t)block[2 + j] * q[j];
    *out_scale = half_at(block);
    return sum;
}

static int32_t dot_q4_0(const uint8_t *block, const int8_t *q, float *out_scale)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 16; j++)
        sum += ((block[2 + j] & 15) - 8) * q[j] + ((block[2 + j] >> 4) - 8) * q[j + 16];
    *out_scale = half_at(block);
    return sum;
}

static int32_t dot_q6_k(const uint8_t *block, const int8_t *q, float *out_scale)
{
    const int8_t *scales = (const int8_t *)(block + 192);
    int32_t sum = 0;
    for (size_t half = 0; half < 2; half++, q += 128, scales += 8) {
        const uint8_t *ql = block + 64 * half, *qh = block + 128 + 32 * half;
        for (size_t l = 0; l < 32; l++) {
            size_t e = l / 16;
            sum += scales[e] * (((ql[l] & 15) | (qh[l] & 3) << 4) - 32) * q[l];
            sum += scales[e + 2] * (((ql[l + 32] & 15) | ((qh[l] >> 2) & 3) << 4) - 32) * q[l + 32];
            sum += scales[e + 4] * (((ql[l] >> 4) | ((qh[l] >> 4) & 3) << 4) - 32) * q[l + 64];
            sum += scales[e + 6] * (((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32) * q[l + 96];
        }
    }
    *out_scale = half_at(block + 208);
    return sum;
}

void matmul_q8_0_c(float *out, size_t stride, const struct weight_rows *w, const struct act_rows *x)
{
    matmul_blocks(out, stride, w, x, dot_q8_0);
}

void matmul_q4_0_c(float *out, size_t stride, const struct weight_rows *w, const struct act_rows *x)
{
    matmul_blocks(out, stride, w, x, dot_q4_0);
}

void matmul_q6_k_c(float *out, size_t stride, const struct weight_rows *w, const struct act_rows *x)
{
    matmul_blocks(out, stride, w, x, dot_q6_k);
}
