/* ops.h - the verbs that models are written in, on plain float32 arrays, split over the pool.
 *
 * Every number is summed in one order that depends on its own row, column or query only: never on
 * how many rows came together, where a range was cut, or how many threads there are.
 * Work is split by output rows, tokens, heads and groups of keys, never inside a sum. One ops
 * serves one caller at a time. */
#pragma once
#include "engine/base/status.h"
#include "engine/kernels/attend.h" /* attend_shape, attend_place, attend_query */
#include "engine/quant/quant.h"
#include <stddef.h>
#include <stdint.h>

struct ops;
struct pool;        /* engine/base/pool.h */
struct tensor_view; /* engine/weights/weights.h */
struct weights;     /* engine/weights/weights.h */

enum precision {
    PRECISION_EXACT, /* activations stay float32 */
    PRECISION_FAST,  /* activations are rounded to 8 bits per block where weights are quantized */
};

/* The pool (may be NULL) must outlive it. The kernel set is the best this CPU has. */
struct ops *ops_new(struct pool *pool, enum precision precision);
/* Another one on the same pool, as precise, for a model of its own: what is laid out in one is not
 * found in the other. */
struct ops *ops_beside(const struct ops *ops);
void ops_free(struct ops *ops);
/* Kernel set and precision, for logs and `numerics`: "avx2 fast". As long as ops. */
const char *ops_name(const struct ops *ops);

/* Tensors of a file that is open; from NULL: of no file, they are taken from where they stand. */
struct ops_tensors {
    const struct weights *from;
    const struct tensor_view *const *views; /* [n] */
    size_t n;
};

/* Lay matrices out as the kernels of this CPU like them best, with all threads; ops_matmul then
 * finds them, also for views of some of their rows, as long as ops. They are read from the file,
 * not through its mapping, whose pages are not touched; it must stay for ops_row. Where any are
 * laid out, all other tensors are read through on the way, and the system has them at hand: a pass
 * of its own over the file (services/stage/warm.h) would read what is laid out again wherever
 * memory does not hold both. `progress` (NULL: nobody) is told, by the calling thread, how many
 * bytes of what is made are done. That takes as much memory as what is stored, up to 6 % more.
 * Nothing is done for kernels that read matrices as they are stored. False with STATUS_LIMIT:
 * memory is too short, and no harm, matrices stay as they are; with another code: a file could not
 * be read. No number depends on it. */
typedef void ops_laid_out(void *context, size_t done_bytes, size_t all_bytes);
MUST_CHECK bool ops_lay_out(struct ops *ops, const struct ops_tensors *tensors,
                            ops_laid_out *progress, void *context, struct status *st);
/* Memory of what was laid out; 0: nothing. */
size_t ops_laid_out_bytes(const struct ops *ops);

/* Activations on their way into products. Set once, multiplied with many matrices (q, k and v) and
 * in many ranges of rows: rounded at most once per kind of block, when first needed. */
struct activations;
struct activations *activations_new(size_t rows_max, size_t width_max);
void activations_free(struct activations *a);
/* x [rows][width], borrowed until the next set; it must not change in between. */
void activations_set(struct activations *a, const float *x, size_t rows, size_t width);
/* The same of ops_rmsnorm of x, which is made on the way: it goes to out [rows][width] with the
 * first product; until then nothing of what is given may change. */
void activations_set_norm(struct activations *a, float *out, const float *x, const float *weight,
                          size_t rows, size_t width, float epsilon);
size_t activations_rows(const struct activations *a); /* as set last */

/* out[r][i] = sum over j of w[i][j] x[r][j], for begin <= i < end.
 *
 *   out [rows][stride]   column i of a row is output row i of w, also when begin > 0
 *   w   dims [width][n_out], any storage type with a to_f32
 *
 * A caller that must not be away for long cuts [0, n_out) where it likes. */
void ops_matmul(const struct ops *ops, float *out, size_t stride, const struct tensor_view *w,
                size_t begin, size_t end, struct activations *x);

/* out = gelu_tanh(gate x) * (up x), as activations for products with `next` and with matrices of
 * its storage type: what comes in between goes through memory in small pieces only.
 *
 *   gate, up  dims [width][n_out], of one type; next: dims[0] = n_out
 *   made      [rows][n_out]: written, and then borrowed, where next is not multiplied with rounded
 *             activations
 *
 * ops_gated_begin says what is to come; then [0, n_out) may be cut at multiples of
 * OPS_GATED_MULTIPLE. out is there when all is done. */
#define OPS_GATED_MULTIPLE 256
void ops_gated_begin(const struct ops *ops, struct activations *out, float *made, size_t rows,
                     const struct tensor_view *next);
void ops_gated(const struct ops *ops, struct activations *out, const struct tensor_view *gate,
               const struct tensor_view *up, size_t begin, size_t end, struct activations *x);

/* Row `row` of a matrix as float32 (an embedding): out [dims[0]]. */
void ops_row(float *out, const struct tensor_view *w, size_t row);

/* out = x / sqrt(mean(x^2) + epsilon) * weight, over each row.
 *   out, x [rows][width], may be the same; weight [width], NULL: none */
void ops_rmsnorm(const struct ops *ops, float *out, const float *x, const float *weight,
                 size_t rows, size_t width, float epsilon);

/* x = (x + ops_rmsnorm of y) * scale, x and y [rows][width], weight [width]. */
void ops_add_norm(const struct ops *ops, float *x, const float *y, const float *weight, size_t rows,
                  size_t width, float epsilon, float scale);

/* out = gelu_tanh(gate) * up, all [n], out may be gate or up. up NULL: gelu_tanh alone. */
void ops_gelu_mul(const struct ops *ops, float *out, const float *gate, const float *up, size_t n);

/* x = cap * tanh(x / cap), x [n], in place. */
void ops_softcap(const struct ops *ops, float *x, size_t n, float cap);

/* x = exp(x) / sum of exp(x), over each row of x [rows][width], in place. */
void ops_softmax(float *x, size_t rows, size_t width);

/* Frequencies of the rotary embedding, in two float32 steps (spec model.md section 3.2).
 *   out [head_dim / 2]; divisors [head_dim / 2] of the file's rope_freqs, NULL: none */
void ops_rope_frequencies(float *out, size_t head_dim, float theta, const float *divisors);

/* cos and sin of float32(position * frequency): once per forward pass and kind of layer.
 *   cos, sin [rows][half]; positions [rows], 0 <= position < 2^19; frequencies [half], <= 1 */
void ops_rope_angles(float *cos, float *sin, const int32_t *positions, size_t rows,
                     const float *frequencies, size_t half);

/* Rotate each head in place; element j turns with element j + half.
 *   x [rows][heads][2 * half]; cos, sin [rows][half] */
void ops_rope(const struct ops *ops, float *x, const float *cos, const float *sin, size_t rows,
              size_t heads, size_t half);

/* Put keys and values, both [rows][kv_heads][head_dim], where they belong: row r at places[r], no
 * two at the same one. Each number of a key goes to a line of memory of its own: threads wait for
 * these side by side. */
void ops_store(const struct ops *ops, const struct attend_shape *shape,
               const struct attend_place *places, size_t rows, const float *keys,
               const float *values);

/* Softmax attention with scale 1, for queries [n] of one layer (of any sequences). A query sees
 * its keys page by page and group by group, in ascending order. Cost: about n * heads * head_dim *
 * (end - first) * 2 multiplications; a caller that must not be away for long gives fewer queries.
 */
void ops_attend(const struct ops *ops, const struct attend_shape *shape,
                const struct attend_query *queries, size_t n);

/* The same for one query, its keys at [begin, end) only: calls in ascending order, the first from
 * query->first or before, the last to query->end or beyond, cut at multiples of ATTEND_GROUP_KEYS.
 * query->out is there after the last. seen: [heads] rows that nobody touches in between. */
void ops_attend_some(const struct ops *ops, const struct attend_shape *shape,
                     const struct attend_query *query, const struct attend_part *seen, size_t begin,
                     size_t end);

/* Index of the largest value (the first of equal ones; NaN never wins), n >= 1. */
size_t ops_argmax(const float *x, size_t n);
