/* dense.h - float32 products of fixed shape, by OpenBLAS. */
#pragma once
#include <stddef.h>

/* So many rows, or a rest of them, cost the same. */
#define DENSE_BLOCK_ROWS 32

/* out[r][i] = sum over j of w[i][j] * x[r][j] (+ bias[i] when bias is not NULL).
 *
 *   out [rows][n_out], x [rows][n_in], w [n_out][n_in], bias [n_out]
 *
 * A row's numbers do not depend on how many rows come together: products are made in blocks of a
 * fixed number of rows, short ones filled with zeroes. One thread. Takes heap memory for a block.
 */
void dense_matmul(float *out, const float *x, const float *w, const float *bias, size_t rows,
                  size_t n_in, size_t n_out);

/* The OpenBLAS kernels in use ("Haswell"): numbers are equal where this is equal. The environment
 * variable OPENBLAS_CORETYPE, set before the program starts, fixes it. */
const char *dense_core(void);
