/* panels.h - matrices in the layout of the kernels that multiply them, made once, found by the
 * address of the stored ones. A number is the same with them and without. */
#pragma once
#include "engine/ops/ops.h"
#include <stdbool.h>
#include <stddef.h>

struct matmul_row;  /* engine/kernels/kernels.h */
struct panel_store; /* opaque */
struct pool;        /* engine/base/pool.h */
struct tensor_view; /* engine/weights/weights.h */

struct panel_store *panel_store_new(void);
void panel_store_free(struct panel_store *s); /* NULL does nothing */

/* As ops_lay_out says. */
bool panel_store_add(struct panel_store *s, struct pool *pool,
                     const struct tensor_view *const *matrices, size_t n, ops_laid_out *laid_out,
                     void *context);

/* The panels that `kernel` made of the matrix whose row stands at `data`, and that row's number;
 * NULL when there are none. */
const void *panel_store_find(const struct panel_store *s, const struct matmul_row *kernel,
                             const void *data, size_t *out_row);
