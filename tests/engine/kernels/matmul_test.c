/* Products: every row of the table against `_c`, on sizes that do not divide. */
#include "engine/base/heap.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/sets.h"
#include "tests/random.h"
#include <assert.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 7
static uint32_t random_state = SEED;

static void fill(float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * random_float(&random_state);
}

/* Where the half floats of a type stand in its block, and how many. */
static size_t halves_of(enum dtype dtype, size_t *out_n)
{
    *out_n = 1;
    switch (dtype) {
    case DTYPE_Q3_K:
        return 108;
    case DTYPE_Q6_K:
        return 208;
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        *out_n = 2;
        return 0;
    case DTYPE_Q2_K:
        *out_n = 2;
        return 80;
    default:
        return 0;
    }
}

/* Random blocks with sane scales, all quants possible. */
static void make_blocks(uint8_t *data, const struct quant_row *type, size_t n_blocks)
{
    size_t n_halves, at = halves_of(type->dtype, &n_halves);
    for (size_t i = 0; i < n_blocks * type->block_bytes; i++)
        data[i] = (uint8_t)next_random(&random_state);
    if (n_blocks > 1 && type->dtype != DTYPE_Q6_K) /* goes as far as its numbers do */
        memset(data, type->dtype == DTYPE_Q8_0 ? 0x80 : 0xff, type->block_bytes);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = data + b * type->block_bytes;
        if (type->dtype == DTYPE_MXFP4)
            block[0] = (uint8_t)(118 + next_random(&random_state) % 8); /* the exponent */
        for (size_t i = 0; i < n_halves && type->dtype != DTYPE_MXFP4; i++) {
            uint16_t half = quant_f32_to_f16(0.01f * random_float(&random_state));
            memcpy(block + at + 2 * i, &half, sizeof half);
        }
    }
}

static const struct matmul_row *plain_row(enum dtype dtype)
{
    size_t n;
    const struct matmul_row *rows = matmul_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (rows[i].dtype == dtype && rows[i].needs == 0)
            return &rows[i];
    fail_msg("%s has no plain kernel", quant_name(dtype));
    return NULL;
}

/* The meaning of a kernel for rounded activations: the values of the blocks times those. */
static void check_meaning(const struct weight_rows *w, const struct act_rows *a, const float *out)
{
    float *values = heap_array(float, w->width);
    for (size_t i = 1; i < w->end; i++) {
        w->type->to_f32(values, (const uint8_t *)w->data + i * w->row_bytes, w->width);
        for (size_t r = 0; r < a->rows; r++) {
            double size = 0.0, exact = 0.0;
            for (size_t j = 0; j < w->width; j++) {
                size_t at = (j / ACT_STRIP * a->rows + r) * ACT_STRIP + j % ACT_STRIP;
                double product = (double)values[j] * a->q[at] * (double)a->scale[at / a->block];
                size += fabs(product);
                exact += product;
            }
            double off = fabs(exact - (double)out[r * w->end + i]);
            if (!(off <= size * 1e-5))
                fail_msg("%s: off by %g of %g", w->type->name, off, size);
        }
    }
    heap_free(values);
}

/* Weights and activations of one size; what must not be read is NaN, or as far off as it can be. */
struct product {
    const struct matmul_row *row;
    struct weight_rows w;
    struct act_rows x;
    uint8_t *data, *panels;
    float *values, *scale, *out, *expected;
    int8_t *q;
    int32_t *sum;
};

static void round_all(struct product *p)
{
    size_t width = p->x.width, rows = p->x.rows, block = p->row->act_block;
    size_t size = rows * ACT_STRIPS(width) * ACT_STRIP;

    for (size_t i = 0; i < size; i++) {
        p->q[i] = 127;
        p->scale[i / block] = NAN;
        p->sum[i / ACT_GROUP(block)] = INT32_MAX;
    }
    for (size_t i = 0; i < ACT_STRIPS(width) * rows; i++) {
        size_t at = i / rows * ACT_STRIP, n = width - at < ACT_STRIP ? width - at : ACT_STRIP;
        kernels_find()->round_row(p->q + i * ACT_STRIP, p->scale + i * (ACT_STRIP / block),
                                  p->sum + i * (ACT_STRIP / ACT_GROUP(block)),
                                  p->values + i % rows * width + at, n, block);
    }
}

static void lay_out(struct product *p)
{
    const struct matmul_row *row = p->row;
    if (!row->panels)
        return;
    size_t panels = (p->w.end + PANEL_ROWS - 1) / PANEL_ROWS;
    size_t bytes = panels * ACT_STRIPS(p->w.width) * row->panels->strip_bytes;
    free(p->panels);
    p->panels = aligned_alloc(PANEL_ALIGN, bytes);
    assert_non_null(p->panels);
    memset(p->panels, 0xff, bytes);
    row->panels->pack(p->panels, &p->w);
}

static void product_init(struct product *p, const struct matmul_row *row, size_t width,
                         size_t n_out, size_t rows, float size_of_x)
{
    const struct quant_row *type = quant_find(row->dtype);
    size_t blocks = width / type->block_values, n = rows * ACT_STRIPS(width) * ACT_STRIP;

    *p = (struct product){.row = row};
    p->data = heap_array(uint8_t, n_out * blocks * type->block_bytes);
    p->values = heap_array(float, rows *width);
    p->scale = heap_array(float, n / row->act_block);
    p->q = heap_array(int8_t, n);
    p->sum = heap_array(int32_t, n / ACT_GROUP(row->act_block));
    p->out = heap_array(float, rows *n_out);
    p->expected = heap_array(float, rows *n_out);
    make_blocks(p->data, type, n_out * blocks);
    fill(p->values, rows * width, size_of_x);
    for (size_t i = 0; i < width; i++) /* all activations as large as they can be, and all products
                                          with the first block of weights too */
        p->values[i] = p->values[i] < 0.0f && i >= row->act_block ? -size_of_x : size_of_x;
    p->w = (struct weight_rows){.type = type,
                                .data = p->data,
                                .row_bytes = blocks * type->block_bytes,
                                .width = width,
                                .end = n_out};
    p->x = (struct act_rows){.rows = rows,
                             .width = width,
                             .x = p->values,
                             .q = p->q,
                             .scale = p->scale,
                             .sum = p->sum,
                             .block = row->act_block};
    round_all(p);
    lay_out(p);
}

static void product_clear(struct product *p)
{
    heap_free(p->data);
    heap_free(p->values);
    heap_free(p->scale);
    heap_free(p->q);
    heap_free(p->sum);
    heap_free(p->out);
    heap_free(p->expected);
    free(p->panels); /* aligned: not from the heap's door */
}

/* Rows begin to end-1, told as rows that follow `before` others. */
static void check_rows(struct product *p, size_t before, size_t begin, size_t end, bool panels)
{
    struct weight_rows w = p->w;
    size_t n = p->w.end * p->x.rows;

    w.data = p->data + before * w.row_bytes;
    w.begin = begin - before;
    w.end = end - before;
    w.panels = panels ? p->panels : NULL;
    w.panels_row = panels ? before : 0;
    memset(p->out, 0, n * sizeof *p->out);
    memset(p->expected, 0, n * sizeof *p->expected);
    p->row->run(p->out, p->w.end, &w, &p->x);
    w.panels = NULL;
    plain_row(p->row->dtype)->run(p->expected, p->w.end, &w, &p->x);
    for (size_t i = 0; i < n; i++)
        if (p->out[i] != p->expected[i] &&
            (p->out[i] == p->out[i] || p->expected[i] == p->expected[i]))
            fail_msg("%s%s, %zu x %zu x %zu: [%zu] is %.9g, expected %.9g", p->row->name,
                     panels ? " (panels)" : "", p->x.rows, p->w.end, p->x.width, i,
                     (double)p->out[i], (double)p->expected[i]);
}

static void check_rounded(const struct matmul_row *row, size_t width, size_t n_out, size_t rows,
                          float size)
{
    struct product p;

    product_init(&p, row, width, n_out, rows, size);
    for (size_t panels = 0; panels < (row->panels ? 2 : 1); panels++) {
        check_rows(&p, 0, 1, n_out, panels);
        if (size == 5.0f && row->needs == 0)
            check_meaning(&p.w, &p.x, p.expected);
        if (n_out > 19) {
            check_rows(&p, 0, 16, 18, panels);
            check_rows(&p, 3, 3, 19, panels);
            check_rows(&p, 5, 7, n_out, panels);
        }
    }
    product_clear(&p);
}

/* What no model should have: scales of 0, infinite, not a number, the smallest and largest;
 * activations from 2^-least to 2^most, of 0, infinite, not a number. */
static void spoil(struct product *p, int least, int most)
{
    static const uint16_t halves[] = {0,      0x8000, 1,      0x83ff, 0x0400,
                                      0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e01};
    static const float values[] = {NAN, INFINITY, -INFINITY, FLT_MAX, 1e-40f};
    const struct quant_row *type = p->w.type;
    size_t n_halves, at = halves_of(type->dtype, &n_halves), rows = p->x.rows, n = p->x.width;

    for (size_t b = 0; b < p->w.end * n / type->block_values; b++) {
        uint8_t *block = p->data + b * type->block_bytes;
        if (type->dtype == DTYPE_MXFP4)
            block[0] = (uint8_t)(b % 3 ? next_random(&random_state)
                                       : 100 + next_random(&random_state) % 90);
        for (size_t i = 0; i < n_halves && type->dtype != DTYPE_MXFP4; i++)
            if (next_random(&random_state) % 16 == 0)
                memcpy(block + at + 2 * i, &halves[next_random(&random_state) % 10], 2);
    }
    for (size_t i = 0; i < rows * n; i += 32) {
        int power = least + (int)(next_random(&random_state) % (uint32_t)(most - least + 1));
        fill(p->values + i, 32, next_random(&random_state) % 8 ? ldexpf(1.0f, power) : 0.0f);
        if (most > 100 && next_random(&random_state) % 64 == 0)
            p->values[i + next_random(&random_state) % 32] = values[next_random(&random_state) % 5];
    }
    round_all(p);
    lay_out(p);
}

static void check_spoiled(const struct matmul_row *row)
{
    static const int powers[][2] = {{-20, 20}, {-88, 66}, {-126, 127}};
    struct product p;

    product_init(&p, row, 9 * row->act_block, 33, 37, 1.0f);
    for (size_t k = 0; k < 6; k++) {
        spoil(&p, powers[k / 2][0], powers[k / 2][1]);
        /* Steps that round_row does not make. */
        for (size_t i = 0; k == 1 && i < ACT_STRIPS(p.x.width) * p.x.rows; i++)
            p.scale[i * (ACT_STRIP / p.x.block)] *= 1.01f;
        for (size_t panels = 0; panels < (row->panels ? 2 : 1); panels++)
            check_rows(&p, 0, 0, p.w.end, panels);
    }
    product_clear(&p);
}

static void check_row(const struct matmul_row *row)
{
    static const float sizes[] = {0.0f, 1e-37f, 1e-3f, 1e30f, 1e38f};
    size_t block = row->act_block;
    check_rounded(row, block, 2, 1, 5.0f);
    check_rounded(row, 11 * block, 70, 3, 5.0f);
    check_rounded(row, 8 * block, 41, 37, 5.0f);
    check_rounded(row, block, 17, 70, 5.0f);
    check_rounded(row, block == 32 ? 9 * block : 2 * block, 85, 66, 5.0f);
    for (size_t k = 1; k <= 17; k++)
        check_rounded(row, 3 * block, 20, k, 5.0f);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        check_rounded(row, 9 * block, 33, k % 2 ? 5 : 19, sizes[k]);
    check_spoiled(row);
}

static void test_rounded_products(void **state)
{
    (void)state;
    size_t n;
    const struct matmul_row *rows = matmul_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (cpu_has(rows[i].needs))
            check_row(&rows[i]);
}

#if defined(__x86_64__)
EACH_TYPE(DECLARE_MATMUL, avxvnni_evex)

/* matmul_avxvnni_evex.c, which no machine prefers. */
static void test_avxvnni_products(void **state)
{
    (void)state;
    static const struct matmul_row rows[] = {
        EACH_TYPE(MATMUL_ROW, CPU_AVX2 | CPU_AVX512 | CPU_VNNI, avxvnni_evex)};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!cpu_has(rows[i].needs)) {
            print_message("SKIP: this CPU has no AVX-512 VNNI\n");
            skip();
        }
        check_row(&rows[i]);
    }
}

/* Those with AVX-VNNI stand between those with AVX-512 VNNI and AVX2, for every type. */
static void test_avxvnni_order(void **state)
{
    (void)state;
    const uint32_t avxvnni = CPU_AVX2 | CPU_AVX_VNNI, all = avxvnni | CPU_AVX512 | CPU_VNNI;
    size_t n, n_found = 0;
    const struct matmul_row *rows = matmul_rows(&n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i && rows[i].needs == avxvnni; k++)
            if (rows[k].dtype == rows[i].dtype) {
                assert_int_equal(rows[k].needs & all, CPU_AVX512 | CPU_VNNI);
                n_found++;
            }
    assert_int_equal(n_found, 13);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i && rows[i].needs == CPU_AVX2; k++)
            n_found -= rows[k].dtype == rows[i].dtype && rows[k].needs == avxvnni;
    assert_int_equal(n_found, 0);
}
#endif

/* Float32 activations: the same sums up to the rounding of each step. */
static void check_float(enum dtype dtype, size_t width, size_t n_out, size_t n_rows)
{
    const struct quant_row *type = quant_find(dtype);
    size_t row_bytes = width / type->block_values * type->block_bytes;
    uint8_t *data = heap_array(uint8_t, n_out * row_bytes);
    float *x = heap_array(float, n_rows *width), *values = heap_array(float, n_out *width);
    float *out = heap_array(float, n_rows *n_out), *expected = heap_array(float, n_rows *n_out);

    if (type->from_f32) {
        fill(values, n_out * width, 1.0f);
        type->from_f32(data, values, n_out * width);
    } else {
        make_blocks(data, type, n_out * width / type->block_values);
    }
    type->to_f32(values, data, n_out * width);
    fill(x, n_rows * width, 2.0f);
    struct weight_rows w = {.type = type,
                            .data = data,
                            .row_bytes = row_bytes,
                            .width = width,
                            .begin = 0,
                            .end = n_out};
    struct act_rows a = {.rows = n_rows, .width = width, .x = x};
    matmul_find(dtype, false)->run(out, n_out, &w, &a);
    cpu_set_mask(0);
    matmul_find(dtype, false)->run(expected, n_out, &w, &a);
    cpu_set_mask(UINT32_MAX);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n_out; i++) {
            double size = 0.0, exact = 0.0, bound;
            for (size_t j = 0; j < width; j++) {
                double product = (double)values[i * width + j] * (double)x[r * width + j];
                size += fabs(product);
                exact += product;
            }
            bound = size * 1e-6;
            assert_true(fabs(exact - (double)out[r * n_out + i]) <= bound);
            assert_true(fabs(exact - (double)expected[r * n_out + i]) <= bound);
        }
    heap_free(data);
    heap_free(x);
    heap_free(values);
    heap_free(out);
    heap_free(expected);
}

static void test_float_products(void **state)
{
    (void)state;
    static const enum dtype types[] = {DTYPE_F32,  DTYPE_F16,    DTYPE_BF16,   DTYPE_Q8_0,
                                       DTYPE_Q4_0, DTYPE_Q4_1,   DTYPE_Q5_0,   DTYPE_Q5_1,
                                       DTYPE_Q2_K, DTYPE_Q3_K,   DTYPE_Q4_K,   DTYPE_Q5_K,
                                       DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t block = quant_find(types[i])->block_values;
        check_float(types[i], block, 1, 1);
        check_float(types[i], block == 1 ? 301 : 5 * block, 7, 3);
        check_float(types[i], block == 1 ? 1023 : 9 * block, 6, 19);
    }
}

static void test_types_without_a_row(void **state)
{
    (void)state;
    assert_null(matmul_find(DTYPE_BF16, true));
    assert_non_null(matmul_find(DTYPE_BF16, false));
    cpu_set_mask(0);
    assert_string_equal(matmul_find(DTYPE_Q4_0, true)->name, "matmul_q4_0_c");
    assert_string_equal(kernels_find()->name, "c");
    cpu_set_mask(UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types_without_a_row),
        cmocka_unit_test(test_rounded_products),
#if defined(__x86_64__)
        cmocka_unit_test(test_avxvnni_products),
        cmocka_unit_test(test_avxvnni_order),
#endif
        cmocka_unit_test(test_float_products),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
