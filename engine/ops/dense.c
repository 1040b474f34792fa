#include "engine/ops/dense.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <cblas.h>
#include <string.h>

/* OpenBLAS takes other kernels for other shapes, and with them another order of the sum: so every
 * product that it sees has the same number of rows, a multiple of its register tiles. */
static_assert(DENSE_BLOCK_ROWS % 16 == 0, "");

static void multiply(float *out, const float *x, const float *w, size_t n_in, size_t n_out)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, DENSE_BLOCK_ROWS, (int)n_out, (int)n_in,
                1.0F, x, (int)n_in, w, (int)n_in, 0.0F, out, (int)n_out);
}

void dense_matmul(float *out, const float *x, const float *w, const float *bias, size_t rows,
                  size_t n_in, size_t n_out)
{
    float *in_block = heap_array(float, DENSE_BLOCK_ROWS *n_in);
    float *out_block = heap_array(float, DENSE_BLOCK_ROWS *n_out);

    openblas_set_num_threads(1);
    for (size_t at = 0; at < rows; at += DENSE_BLOCK_ROWS) {
        size_t n = rows - at < DENSE_BLOCK_ROWS ? rows - at : DENSE_BLOCK_ROWS;
        memcpy(in_block, x + at * n_in, n * n_in * sizeof *x);
        memset(in_block + n * n_in, 0, (DENSE_BLOCK_ROWS - n) * n_in * sizeof *x);
        multiply(out_block, in_block, w, n_in, n_out);
        memcpy(out + at * n_out, out_block, n * n_out * sizeof *out);
    }
    for (size_t r = 0; bias && r < rows; r++)
        for (size_t i = 0; i < n_out; i++)
            out[r * n_out + i] += bias[i];
    heap_free(in_block);
    heap_free(out_block);
}

const char *dense_core(void)
{
    return openblas_get_corename();
}
