/* kernels.h - TABLES: operation x storage type x instruction set -> function, one thread each.
 *
 * Sets: c, avx2, avxvnni (avx2 with products by AVX-VNNI), avx512 (with VNNI), neon (with dot
 * products; rows neon_i8mm where matrix products of 8 bits are there too).
 *
 * `_c` is the meaning of an operation. Sums have one fixed order within a kernel set. Integer
 * products, norms, gelu, soft-cap, rope and resampled pictures give the same bits in every set;
 * float32 products and attention may differ between sets in the last bits.
 * Models use engine/ops; this is the level below it. */
#pragma once
#include "engine/kernels/attend.h"
#include "engine/kernels/resize.h"
#include "engine/quant/quant.h"
#include <float.h>
#include <stddef.h>
#include <stdint.h>

/* Rows of a matrix as stored, and perhaps as a kernel would rather have them. */
struct weight_rows {
    const struct quant_row *type;
    const void *data; /* [n_out][row_bytes] */
    size_t row_bytes;
    size_t width;       /* values in a row */
    size_t begin, end;  /* output rows to be made */
    const void *panels; /* what the kernel's own pack made of these rows and perhaps of rows before
                           them, aligned to PANEL_ALIGN; NULL: `data` is read */
    size_t panels_row;  /* row 0 of data is this row of panels */
};

/* A layout of weights for one kernel: panels of PANEL_ROWS rows, strip by strip of ACT_STRIP
 * values. The numbers are the same with it and without. */
struct panels {
    size_t strip_bytes; /* of a strip of one panel */
    /* Rows begin (a multiple of PANEL_ROWS) to end-1, to where they belong in `out`. */
    void (*pack)(void *out, const struct weight_rows *w);
};
#define PANEL_ROWS ((size_t)16)
#define PANEL_ALIGN 64

/* Activations: x, or q, scale and sum for kernels that multiply rounded ones. These lie strip by
 * strip, so that what many rows need at once lies together; what is beyond the width in the last
 * strip is not read. Scales stay float32: as half floats they would cost accuracy, and overflow,
 * for nothing. */
struct act_rows {
    size_t rows, width;
    const float *x;     /* [rows][width] */
    const int8_t *q;    /* [strips][rows][ACT_STRIP], -127 .. 127 */
    const float *scale; /* [strips][rows][ACT_STRIP / block] */
    const int32_t *sum; /* [strips][rows][ACT_STRIP / ACT_GROUP(block)] of q: for weights with an
                           offset */
    size_t block;       /* values that share a scale: 32 or 256; 0: not rounded */
};
#define ACT_STRIP ((size_t)256)
#define ACT_STRIPS(width) (((width) + ACT_STRIP - 1) / ACT_STRIP)
#define ACT_GROUP(block) ((block) == 256 ? 16 : (block))
/* A block with a scale outside gets q of zeros: too small to divide by, infinite or not a number.
 */
#define ACT_STEP_MIN 0x1p-120f
#define ACT_STEP_MAX FLT_MAX
#define ACT_STEP_BITS 5 /* of a step's significand, in blocks of 32 values */

/* out[r * stride + i] for begin <= i < end. */
typedef void matmul_kernel(float *out, size_t stride, const struct weight_rows *w,
                           const struct act_rows *x);

/* Best first: the first row of a storage type whose needs this CPU meets is taken. */
struct matmul_row {
    enum dtype dtype;
    uint32_t needs;   /* enum cpu_feature */
    size_t act_block; /* 0: float32 activations; 32 or 256: rounded in blocks of so many values */
    matmul_kernel *run;
    const char *name;
    const struct panels *panels; /* NULL: it reads rows as they are stored only */
};

/* The kernel for float32 activations (act_block 0) always exists; with `rounded`, the one for
 * rounded activations, or NULL when the type has none. */
const struct matmul_row *matmul_find(enum dtype dtype, bool rounded);

/* Everything that is not tied to a storage type of weights. */
struct kernel_set {
    const char *name; /* "avx2" */
    uint32_t needs;
    /* x [n] -> q [n], scale [n / block], sum [n / ACT_GROUP(block)]; scale = max |x| / 127, in
     * blocks of 32 rounded up to ACT_STEP_BITS bits; q = x / scale to the nearest, even in the
     * middle */
    void (*round_row)(int8_t *q, float *scale, int32_t *sum, const float *x, size_t n,
                      size_t block);
    void (*rmsnorm)(float *out, const float *x, const float *weight, size_t n, float epsilon);
    /* x = (x + rmsnorm of y) * scale */
    void (*add_norm)(float *x, const float *y, const float *weight, size_t n, float epsilon,
                     float scale);
    void (*gelu_mul)(float *out, const float *gate, const float *up, size_t n);
    void (*softcap)(float *x, size_t n, float cap);
    void (*rope)(float *x, const float *cos, const float *sin, size_t heads, size_t half);
    /* Put key and value [kv_heads][head_dim] at place `at` of a page; the same bits in every set */
    void (*attend_store)(const struct attend_shape *shape, void *keys, void *values, size_t at,
                         const float *key, const float *value);
    /* What the rows of a task see of the keys of its group. */
    void (*attend)(const struct attend_task *task, const struct attend_part *out);
    /* total = both parts of the same rows together; the same bits in every set */
    void (*attend_add)(const struct attend_part *total, const struct attend_part *more, size_t rows,
                       size_t head_dim);
    /* out = values / sum, [head_dim] */
    void (*attend_finish)(float *out, const float *values, float sum, size_t head_dim);
    /* rows (1 .. RESIZE_ROWS): in [rows][width][3] -> out [rows][stride], of which taps->out pixels
     * count; stride: RESIZE_STRIDE(taps->out); scratch: RESIZE_SCRATCH(width) */
    void (*resize_across)(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                          const struct resize_taps *taps, float *scratch);
    /* row y: in [height][stride] as above -> out [row_bytes] */
    void (*resize_down)(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                        const struct resize_taps *taps, size_t y);
};

/* The best set for this CPU. Static. */
const struct kernel_set *kernels_find(void);

/* All rows, also those this CPU cannot run (see needs): for tests and measurements. */
const struct matmul_row *matmul_rows(size_t *out_n);
const struct kernel_set *kernel_sets(size_t *out_n);
