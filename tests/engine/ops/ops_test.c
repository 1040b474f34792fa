/* The verbs against golden numbers, and the rule that a number depends on nothing but itself. */
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "engine/ops/ops.h"
#include "engine/weights/weights.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE 1e-5f /* of tests/golden/kernels.gguf */

static uint32_t seed = 20261124;

/* ---- golden numbers, for the kernel set in force ---- */

struct golden {
    struct weights *w;
    struct ops *ops;
};

static const struct tensor_view *view(const struct golden *g, const char *name)
{
    const struct tensor_view *t = weights_find(g->w, name);
    if (!t)
        fail_msg("golden: no '%s'", name);
    return t;
}

static const float *floats(const struct golden *g, const char *name)
{
    assert_int_equal(view(g, name)->type->dtype, DTYPE_F32);
    return view(g, name)->data;
}

static size_t values(const struct tensor_view *t)
{
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

static void compare(const struct golden *g, const char *name, const float *found, float tolerance)
{
    const float *expected = floats(g, name);
    float worst = 0.0f;
    for (size_t i = 0; i < values(view(g, name)); i++) {
        float difference = fabsf(found[i] - expected[i]);
        if (!(difference <= tolerance))
            fail_msg("%s, %s: [%zu] is %.9g, expected %.9g", ops_name(g->ops), name, i,
                     (double)found[i], (double)expected[i]);
        worst = difference > worst ? difference : worst;
    }
    print_message("%s, %s: worst %.2g\n", ops_name(g->ops), name, (double)worst);
}

static void golden_elements(const struct golden *g)
{
    const struct tensor_view *x = view(g, "rms.x");
    float *out = heap_array(float, 10000);
    ops_rmsnorm(g->ops, out, x->data, floats(g, "rms.weight"), x->dims[1], x->dims[0], 1e-6f);
    compare(g, "rms.out", out, TOLERANCE);
    ops_rmsnorm(g->ops, out, x->data, NULL, x->dims[1], x->dims[0], 1e-6f);
    compare(g, "rms.out_plain", out, TOLERANCE);
    ops_gelu_mul(g->ops, out, floats(g, "gelu.x"), NULL, view(g, "gelu.x")->dims[0]);
    compare(g, "gelu.out", out, TOLERANCE);
    memcpy(out, floats(g, "softcap.x"), view(g, "softcap.x")->size_bytes);
    ops_softcap(g->ops, out, view(g, "softcap.x")->dims[0], 30.0f);
    compare(g, "softcap.out", out, TOLERANCE);
    heap_free(out);
}

static void golden_rope(const struct golden *g, const char *kind, float theta, bool partly)
{
    char name[40];
    float divisors[256], frequencies[256];
    const struct tensor_view *positions = view(g, "rope.positions");
    size_t rows = positions->dims[0];

    (void)snprintf(name, sizeof name, "rope.%s.x", kind);
    const struct tensor_view *x = view(g, name);
    size_t d = x->dims[0], half = d / 2;
    for (size_t j = 0; j < half; j++)
        divisors[j] = j < half / 4 ? 1.0f : 1e30f;
    ops_rope_frequencies(frequencies, d, theta, partly ? divisors : NULL);
    (void)snprintf(name, sizeof name, "rope.%s.freq", kind);
    compare(g, name, frequencies, 0.0f);

    float *cos = heap_array(float, rows *half), *sin = heap_array(float, rows *half);
    ops_rope_angles(cos, sin, positions->data, rows, frequencies, half);
    (void)snprintf(name, sizeof name, "rope.%s.cos", kind);
    compare(g, name, cos, 1e-7f);
    (void)snprintf(name, sizeof name, "rope.%s.sin", kind);
    compare(g, name, sin, 1e-7f);

    float *turned = heap_array(float, values(x));
    memcpy(turned, x->data, x->size_bytes);
    ops_rope(g->ops, turned, cos, sin, rows, x->dims[1], half);
    (void)snprintf(name, sizeof name, "rope.%s.out", kind);
    compare(g, name, turned, TOLERANCE);
    heap_free(cos);
    heap_free(sin);
    heap_free(turned);
}

/* [tokens][kv][d] -> one page, the rest filled with what must not be read. */
static float *make_page(const struct tensor_view *t, bool value)
{
    size_t d = t->dims[0], kv = t->dims[1];
    float *page = heap_array(float, kv *ATTEND_PAGE_KEYS *d);
    for (size_t i = 0; i < kv * ATTEND_PAGE_KEYS * d; i++)
        page[i] = NAN;
    for (size_t n = 0; n < t->dims[2] * kv * d; n++) {
        size_t at = n / (kv * d), head = n / d % kv * ATTEND_PAGE_KEYS * d;
        page[head + (value ? attend_value_place(DTYPE_F32, d, at, n % d)
                           : attend_key_place(DTYPE_F32, at, n % d))] = ((const float *)t->data)[n];
    }
    return page;
}

static void golden_attention(const struct golden *g, const char *kind)
{
    char name[40];
    const struct tensor_view *q = view(g, "attention.q"), *k = view(g, "attention.k");
    (void)snprintf(name, sizeof name, "attention.%s.mask", kind);
    const struct tensor_view *mask = view(g, name);
    size_t d = q->dims[0], heads = q->dims[1], rows = q->dims[2], keys = mask->dims[0];
    struct attend_shape shape = {
        .heads = heads, .kv_heads = k->dims[1], .head_dim = d, .type = DTYPE_F32};
    float *k_page = make_page(k, false), *v_page = make_page(view(g, "attention.v"), true);
    float *out = heap_array(float, rows *heads *d);
    struct attend_query queries[16];
    const void *k_pages[1] = {k_page}, *v_pages[1] = {v_page};

    assert_true(rows <= 16 && keys <= ATTEND_PAGE_KEYS);
    for (size_t i = 0; i < rows; i++) {
        const uint8_t *allowed = (const uint8_t *)mask->data + i * keys;
        size_t first = 0, end = keys;
        while (!allowed[first])
            first++;
        while (!allowed[end - 1])
            end--;
        queries[i] = (struct attend_query){.q = (const float *)q->data + i * heads * d,
                                           .out = out + i * heads * d,
                                           .keys = k_pages,
                                           .values = v_pages,
                                           .first = first,
                                           .end = end};
    }
    ops_attend(g->ops, &shape, queries, rows);
    (void)snprintf(name, sizeof name, "attention.%s.out", kind);
    compare(g, name, out, TOLERANCE);
    heap_free(k_page);
    heap_free(v_page);
    heap_free(out);
}

static void golden_all(uint32_t cpu_mask)
{
    struct golden g = {0};
    struct status st = {0};
    cpu_set_mask(cpu_mask);
    if (!weights_open(&g.w, "tests/golden/kernels.gguf", &st))
        fail_msg("%s", st.text);
    g.ops = ops_new(NULL, PRECISION_EXACT);
    golden_elements(&g);
    golden_rope(&g, "sliding", 1e4f, false);
    golden_rope(&g, "full", 1e6f, true);
    golden_attention(&g, "sliding");
    golden_attention(&g, "full");
    ops_free(g.ops);
    weights_close(g.w);
    cpu_set_mask(UINT32_MAX);
}

static void test_golden_best_set(void **state)
{
    (void)state;
    golden_all(UINT32_MAX);
}

static void test_golden_c(void **state)
{
    (void)state;
    golden_all(0);
}

/* ---- one row, many rows, any cut, any number of threads: the same bits ---- */

static void make_weights(struct tensor_view *t, enum dtype dtype, size_t width, size_t rows)
{
    const struct quant_row *type = quant_find(dtype);
    size_t size = width / type->block_values * type->block_bytes * rows;
    uint8_t *data = heap_array(uint8_t, size);
    if (type->from_f32) {
        float *x = random_floats(&seed, width * rows, 1.0f);
        type->from_f32(data, x, width * rows);
        heap_free(x);
    } else {
        for (size_t i = 0; i < size; i++)
            data[i] = (uint8_t)(random_float(&seed) * 128.0f);
        for (size_t i = 208; i < size; i += 210) { /* q6_k: a sane scale */
            uint16_t half = quant_f32_to_f16(0.01f * random_float(&seed));
            memcpy(data + i, &half, sizeof half);
        }
    }
    *t = (struct tensor_view){.name = "w",
                              .type = type,
                              .n_dims = 2,
                              .dims = {width, rows, 1, 1},
                              .data = data,
                              .size_bytes = size};
}

static const enum dtype weight_types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16,
                                          DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q6_K};

static void lay_out(struct ops *ops, const struct tensor_view *w)
{
    struct status st = {0};

    if (!ops_lay_out(ops, &(struct ops_tensors){.views = &w, .n = 1}, NULL, NULL, &st))
        fail_msg("%s", st.text);
}

/* A matrix that no memory holds stays as it is; none of it was read. */
static void test_memory_short(void **state)
{
    const struct matmul_row *kernel = matmul_find(DTYPE_Q4_0, true);
    const struct tensor_view w = {.name = "w",
                                  .type = quant_find(DTYPE_Q4_0),
                                  .n_dims = 2,
                                  .dims = {256, (size_t)1 << 40, 1, 1},
                                  .data = state,
                                  .size_bytes = ((size_t)1 << 40) * 144};
    const struct tensor_view *views[] = {&w};
    struct ops *ops = ops_new(NULL, PRECISION_FAST);
    struct status st = {0};

    bool done = ops_lay_out(ops, &(struct ops_tensors){.views = views, .n = 1}, NULL, NULL, &st);
    assert_int_equal(done, !kernel || !kernel->panels);
    assert_true(done || st.code == STATUS_LIMIT);
    ops_free(ops);
}

static void check_cuts(struct pool *pool, enum precision precision, enum dtype dtype, bool laid_out,
                       size_t ROWS)
{
    const size_t WIDTH = 768, OUT = 77;
    struct tensor_view w;
    struct ops *whole = ops_new(NULL, precision), *split = ops_new(pool, precision);
    struct activations *a = activations_new(ROWS, WIDTH);
    float *x = random_floats(&seed, ROWS * WIDTH, 3.0f);
    float *expected = heap_array(float, ROWS *OUT), *found = heap_array(float, ROWS *OUT);

    make_weights(&w, dtype, WIDTH, OUT);
    activations_set(a, x, ROWS, WIDTH);
    if (laid_out)
        lay_out(split, &w);
    ops_matmul(whole, expected, OUT, &w, 0, OUT, a);
    ops_matmul(split, found, OUT, &w, 0, 5, a);
    ops_matmul(split, found, OUT, &w, 5, 70, a);
    ops_matmul(split, found, OUT, &w, 70, OUT, a);
    assert_memory_equal(found, expected, ROWS * OUT * sizeof *found);
    struct tensor_view part = w; /* rows 7 to OUT-1 as a matrix of their own */
    part.data = (const uint8_t *)w.data + 7 * (w.size_bytes / OUT);
    part.dims[1] = OUT - 7;
    part.size_bytes -= 7 * (w.size_bytes / OUT);
    memset(found, 0, ROWS * OUT * sizeof *found);
    ops_matmul(split, found, OUT - 7, &part, 0, OUT - 7, a);
    for (size_t r = 0; r < ROWS; r++)
        assert_memory_equal(found + r * (OUT - 7), expected + r * OUT + 7,
                            (OUT - 7) * sizeof *found);
    memset(found, 0, ROWS * OUT * sizeof *found);
    for (size_t first = 0, n = 1; first < ROWS; first += n, n = 1 + (n + ROWS / 5) % (ROWS / 2)) {
        n = n < ROWS - first ? n : ROWS - first;
        activations_set(a, x + first * WIDTH, n, WIDTH);
        ops_matmul(split, found + first * OUT, OUT, &w, 0, OUT, a);
    }
    assert_memory_equal(found, expected, ROWS * OUT * sizeof *found);
    ops_row(found, &w, OUT - 1); /* a row by itself, times x: near the product */
    double sum = 0.0, size = 0.0;
    for (size_t j = 0; j < WIDTH; j++) {
        sum += (double)found[j] * (double)x[j];
        size += fabs((double)found[j] * (double)x[j]);
    }
    double bound = precision == PRECISION_EXACT ? 1e-6 * size : 0.01 * size;
    assert_true(fabs(sum - (double)expected[OUT - 1]) <= bound);
    heap_free((void *)(uintptr_t)w.data);
    heap_free(x);
    heap_free(expected);
    heap_free(found);
    activations_free(a);
    ops_free(whole);
    ops_free(split);
}

static void test_matmul_cuts(void **state)
{
    (void)state;
    struct pool *pool = pool_new(3);
    static const uint32_t masks[] = {0, CPU_AVX2, UINT32_MAX};
    for (size_t mask = 0; mask < sizeof masks / sizeof *masks; mask++) {
        cpu_set_mask(masks[mask]);
        for (size_t i = 0; i < sizeof weight_types / sizeof *weight_types; i++) {
            check_cuts(pool, PRECISION_EXACT, weight_types[i], false, 13);
            check_cuts(pool, PRECISION_FAST, weight_types[i], false, 13);
            check_cuts(pool, PRECISION_FAST, weight_types[i], true, 13);
            check_cuts(pool, PRECISION_FAST, weight_types[i], true, 150);
        }
    }
    cpu_set_mask(UINT32_MAX);
    pool_free(pool);
}

/* What is made on the way into products against the verbs one after the other. */
static void check_on_the_way(struct pool *pool, enum precision precision, enum dtype dtype,
                             enum dtype next, size_t rows)
{
    enum { WIDTH = 256, MIDDLE = 768, OUT = 24, CUT = OPS_GATED_MULTIPLE };
    struct ops *whole = ops_new(NULL, precision), *split = ops_new(pool, precision);
    struct tensor_view gate, up, down;
    struct activations *x = activations_new(rows, WIDTH), *y = activations_new(rows, MIDDLE);
    float *in = random_floats(&seed, rows * WIDTH, 3.0f);
    float *weight = random_floats(&seed, WIDTH, 1.0f);
    float *norm = heap_array(float, rows *WIDTH), *made = heap_array(float, rows *MIDDLE);
    float *a = heap_array(float, rows *MIDDLE), *b = heap_array(float, rows *MIDDLE);
    float *expected = heap_array(float, rows *OUT), *found = heap_array(float, rows *OUT);

    make_weights(&gate, dtype, WIDTH, MIDDLE);
    make_weights(&up, dtype, WIDTH, MIDDLE);
    make_weights(&down, next, MIDDLE, OUT);
    ops_rmsnorm(whole, norm, in, weight, rows, WIDTH, 1e-6f);
    activations_set(x, norm, rows, WIDTH);
    ops_matmul(whole, a, MIDDLE, &gate, 0, MIDDLE, x);
    ops_matmul(whole, b, MIDDLE, &up, 0, MIDDLE, x);
    ops_gelu_mul(whole, a, a, b, rows * MIDDLE);
    activations_set(y, a, rows, MIDDLE);
    ops_matmul(whole, expected, OUT, &down, 0, OUT, y);

    memset(norm, 0, rows * WIDTH * sizeof *norm);
    activations_set_norm(x, norm, in, weight, rows, WIDTH, 1e-6f);
    ops_gated_begin(split, y, made, rows, &down);
    ops_gated(split, y, &gate, &up, 0, CUT, x);
    ops_gated(split, y, &gate, &up, CUT, MIDDLE, x);
    ops_matmul(split, found, OUT, &down, 0, OUT, y);
    assert_memory_equal(found, expected, rows * OUT * sizeof *found);

    memcpy(norm, in, rows * WIDTH * sizeof *norm);
    ops_add_norm(split, norm, in, weight, rows, WIDTH, 1e-6f, 0.7f);
    ops_rmsnorm(whole, a, in, weight, rows, WIDTH, 1e-6f);
    for (size_t i = 0; i < rows * WIDTH; i++)
        assert_true(norm[i] == (in[i] + a[i]) * 0.7f);
    heap_free((void *)(uintptr_t)gate.data);
    heap_free((void *)(uintptr_t)up.data);
    heap_free((void *)(uintptr_t)down.data);
    float *const all[] = {in, weight, norm, made, a, b, expected, found};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        heap_free(all[i]);
    activations_free(x);
    activations_free(y);
    ops_free(whole);
    ops_free(split);
}

static void test_on_the_way(void **state)
{
    (void)state;
    struct pool *pool = pool_new(3);
    static const size_t rows[] = {1, 5, 64, 131, 200};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        check_on_the_way(pool, PRECISION_FAST, DTYPE_Q4_0, DTYPE_Q4_0, rows[i]);
        check_on_the_way(pool, PRECISION_FAST, DTYPE_Q8_0, DTYPE_Q6_K, rows[i]);
        check_on_the_way(pool, PRECISION_FAST, DTYPE_Q6_K, DTYPE_BF16, rows[i]);
        check_on_the_way(pool, PRECISION_EXACT, DTYPE_BF16, DTYPE_Q4_0, rows[i]);
    }
    pool_free(pool);
}

/* ---- exp, tanh, cos, sin ---- */

/* Sums to one, keeps the order, and stands scores that exp alone would not. */
static void test_softmax(void **state)
{
    float x[2][3] = {{1000, 999, -1000}, {-3, -3, -3}};

    (void)state;
    ops_softmax(x[0], 2, 3);
    assert_true(fabs(x[0][0] - 1 / (1 + exp(-1))) < 1e-6 && x[0][2] == 0);
    assert_true(fabs(x[0][0] + x[0][1] - 1.0) < 1e-6);
    assert_true(x[1][0] == x[1][1] && x[1][1] == x[1][2]);
    assert_true(fabs(x[1][0] - 1.0 / 3) < 1e-7);
}

static void test_gelu_and_softcap(void **state)
{
    (void)state;
    for (uint32_t mask = 0; mask < 2; mask++) {
        cpu_set_mask(mask ? UINT32_MAX : 0);
        struct ops *ops = ops_new(NULL, PRECISION_EXACT);
        for (int i = -15000; i < 15000; i++) {
            float x = (float)i * 0.0137f, y, gelu;
            y = x;
            ops_softcap(ops, &y, 1, 30.0f);
            assert_true(fabs((double)y - 30.0 * tanh((double)x / 30.0)) < 6e-6);
            ops_gelu_mul(ops, &gelu, &x, NULL, 1);
            double inner = 0.79788456080286536 * ((double)x + 0.044715 * pow((double)x, 3.0));
            double expected = 0.5 * (double)x * (1.0 + tanh(inner));
            assert_true(fabs((double)gelu - expected) < 3e-7 * (1.0 + fabs(expected)));
        }
        ops_free(ops);
    }
    cpu_set_mask(UINT32_MAX);
}

static void test_angles(void **state)
{
    (void)state;
    enum { N = 1000 };
    float frequencies[N], cos_of[N], sin_of[N];
    static const int32_t positions[] = {0, 1, 8, 29, 1000, 65535, 131071, 262142, 262143};
    for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
        int32_t position = positions[p];
        for (size_t j = 0; j < N; j++)
            frequencies[j] = fabsf(random_float(&seed));
        ops_rope_angles(cos_of, sin_of, &position, 1, frequencies, N);
        for (size_t j = 0; j < N; j++) {
            double angle = (double)((float)position * frequencies[j]);
            assert_true(fabs((double)cos_of[j] - cos(angle)) < 1e-7);
            assert_true(fabs((double)sin_of[j] - sin(angle)) < 1e-7);
        }
    }
}

static void test_argmax(void **state)
{
    (void)state;
    assert_int_equal(ops_argmax((const float[]){1.0f, 3.0f, 3.0f, 2.0f}, 4), 1);
    assert_int_equal(ops_argmax((const float[]){NAN, -INFINITY, -1.0f, NAN}, 4), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_best_set), cmocka_unit_test(test_golden_c),
        cmocka_unit_test(test_matmul_cuts),     cmocka_unit_test(test_on_the_way),
        cmocka_unit_test(test_softmax),         cmocka_unit_test(test_gelu_and_softcap),
        cmocka_unit_test(test_angles),          cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_memory_short),
    };
    print_message("seed %u\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
