/* Products of stored rows with activations: the meaning. */
#include "engine/kernels/scalar.h"
#include "engine/kernels/sets.h"
#include "engine/quant/parts.h"

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

/* Block b of activation row r. */
struct act_block {
    const int8_t *q;
    const int32_t *sum;
    float scale;
};

static struct act_block act_block(const struct act_rows *x, size_t r, size_t b)
{
    size_t each = ACT_STRIP / x->block; /* blocks of a strip */
    size_t at = (b / each * x->rows + r) * each + b % each;
    return (struct act_block){.q = x->q + at * x->block,
                              .sum = x->sum + at * (x->block / ACT_GROUP(x->block)),
                              .scale = x->scale[at]};
}

static void matmul_blocks(float *out, size_t stride, const struct weight_rows *w,
                          const struct act_rows *x, block_dot *dot)
{
    size_t blocks = w->width / w->type->block_values;
    for (size_t i = w->begin; i < w->end; i++) {
        for (size_t r = 0; r < x->rows; r++) {
            const uint8_t *block = (const uint8_t *)w->data + i * w->row_bytes;
            float sum = 0.0f;
            for (size_t b = 0; b < blocks; b++, block += w->type->block_bytes) {
                struct act_block a = act_block(x, r, b);
                float scale;
                int32_t whole = dot(block, a.q, &scale);
                sum += (scale * a.scale) * (float)whole;
            }
            out[r * stride + i] = sum;
        }
    }
}

static int32_t dot_q8_0(const uint8_t *block, const int8_t *q, float *out_scale)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 32; j++)
        sum += (int8_t)block[2 + j] * q[j];
    *out_scale = part_half(block);
    return sum;
}

static int32_t dot_q4_0(const uint8_t *block, const int8_t *q, float *out_scale)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 16; j++)
        sum += ((block[2 + j] & 15) - 8) * q[j] + ((block[2 + j] >> 4) - 8) * q[j + 16];
    *out_scale = part_half(block);
    return sum;
}

static int32_t dot_levels(const uint8_t *nibbles, const int8_t *q, const int8_t *levels)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 16; j++)
        sum += levels[nibbles[j] & 15] * q[j] + levels[nibbles[j] >> 4] * q[j + 16];
    return sum;
}

static int32_t dot_iq4_nl(const uint8_t *block, const int8_t *q, float *out_scale)
{
    *out_scale = part_half(block);
    return dot_levels(block + 2, q, part_iq4_levels);
}

static int32_t dot_mxfp4(const uint8_t *block, const int8_t *q, float *out_scale)
{
    *out_scale = part_half_power(block[0]);
    return dot_levels(block + 1, q, part_mxfp4_levels);
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
    *out_scale = part_half(block + 208);
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

void matmul_iq4_nl_c(float *out, size_t stride, const struct weight_rows *w,
                     const struct act_rows *x)
{
    matmul_blocks(out, stride, w, x, dot_iq4_nl);
}

void matmul_mxfp4_c(float *out, size_t stride, const struct weight_rows *w,
                    const struct act_rows *x)
{
    matmul_blocks(out, stride, w, x, dot_mxfp4);
}

/* Types with a min for each 32 values: two whole numbers a block, of the quants and of the mins;
 * the second is taken off after the first was added. h: fifth bits of the values, or NULL. */
static void dot_k(int32_t out[2], const uint8_t *scales, const uint8_t *h, const uint8_t *nibbles,
                  const int8_t *q, const int32_t *sum)
{
    out[0] = out[1] = 0;
    for (size_t group = 0; group < 8; group++, q += 32) {
        const uint8_t *b = nibbles + 32 * (group / 2);
        int scale, min;
        int32_t whole = 0;
        part_scale_min(&scale, &min, scales, group);
        for (size_t l = 0; l < 32; l++) {
            int fifth = h ? (h[l] >> group) & 1 : 0;
            whole += ((group % 2 ? b[l] >> 4 : b[l] & 15) | fifth << 4) * q[l];
        }
        out[0] += scale * whole;
        out[1] += min * (sum[2 * group] + sum[2 * group + 1]);
    }
}

static void matmul_k(float *out, size_t stride, const struct weight_rows *w,
                     const struct act_rows *x, bool has_fifth)
{
    size_t blocks = w->width / 256;
    for (size_t i = w->begin; i < w->end; i++) {
        for (size_t r = 0; r < x->rows; r++) {
            const uint8_t *block = (const uint8_t *)w->data + i * w->row_bytes;
            float sum = 0.0f;
            for (size_t b = 0; b < blocks; b++, block += w->type->block_bytes) {
                int32_t whole[2];
                struct act_block a = act_block(x, r, b);
                dot_k(whole, block + 4, has_fifth ? block + 16 : NULL,
                      block + (has_fifth ? 48 : 16), a.q, a.sum);
                sum += (part_half(block) * a.scale) * (float)whole[0];
                sum -= (part_half(block + 2) * a.scale) * (float)whole[1];
            }
            out[r * stride + i] = sum;
        }
    }
}

void matmul_q4_k_c(float *out, size_t stride, const struct weight_rows *w, const struct act_rows *x)
{
    matmul_k(out, stride, w, x, false);
}

void matmul_q5_k_c(float *out, size_t stride, const struct weight_rows *w, const struct act_rows *x)
{
    matmul_k(out, stride, w, x, true);
}
