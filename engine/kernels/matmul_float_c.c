/* Products of stored rows with float32 activations: the meaning. */
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
