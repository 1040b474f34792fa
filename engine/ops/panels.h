/* panels.h - matrices in the layout of the kernels that multiply them, made once, found by the
 * address of the stored ones. A number is the same with them and without.
 *
 * They are made in memory each time a model is opened, and not kept in a file beside the weights.
 * Such a file was measured (tests/bench/LOG.md): 1.6 GB mapped are there in 0.03 s, and read as
 * fast where the system keeps files in huge pages (ext4 of Linux 6.18), and replicas share it. But
 * it takes the disk space of the weights again, a place to write to, rules for what is out of date,
 * and nobody has checked its bytes when the weights' own hash is right. */
#pragma once
#include "engine/ops/ops.h"
#include <stdbool.h>
#include <stddef.h>

struct matmul_row;  /* engine/kernels/kernels.h */
struct panel_store; /* opaque */
struct pool;        /* engine/base/pool.h */

struct panel_store *panel_store_new(void);
void panel_store_free(struct panel_store *s); /* NULL does nothing */

/* As ops_lay_out says. */
MUST_CHECK bool panel_store_add(struct panel_store *s, struct pool *pool,
                                const struct ops_tensors *tensors, ops_laid_out *progress,
                                void *context, struct status *st);

size_t panel_store_bytes(const struct panel_store *s);

/* The panels that `kernel` made of the matrix whose row stands at `data`, and that row's number;
 * NULL when there are none. */
const void *panel_store_find(const struct panel_store *s, const struct matmul_row *kernel,
                             const void *data, size_t *out_row);
