/* The decoder against golden cases: exact arithmetic, within the tolerance each case states. */
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "tests/engine/model/golden.h"
#include "tests/engine/model/random_model.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS_MAX 256

static double tolerance_of(const struct weights *c)
{
    struct status st = {0};
    double tolerance = 0;

    if (!weights_f64(c, "golden.tolerance", &tolerance, &st))
        fail_msg("%s", st.text);
    return tolerance;
}

static void model_of(const struct weights *c, char *out, size_t size)
{
    struct span name;
    struct status st = {0};

    if (!weights_string(c, "golden.model", &name, &st))
        fail_msg("%s", st.text);
    (void)snprintf(out, size, "%.*s", (int)name.size, (const char *)name.data);
}

/* The experts that were chosen, as float numbers. */
static void compare_chosen(const struct weights *c, const char *name, const float *values, size_t n)
{
    size_t n_expected = 0;
    const int32_t *expected = golden_i32(c, name, &n_expected);

    assert_int_equal(n, n_expected);
    for (size_t i = 0; i < n; i++)
        if ((float)expected[i] != values[i])
            fail_msg("%s: '%s'[%zu] is %g, not %d", weights_path(c), name, i, (double)values[i],
                     expected[i]);
}

static void compare(const struct weights *c, const char *name, const float *values, size_t n)
{
    size_t n_expected = 0;
    const float *expected = golden_f32(c, name, &n_expected);
    double distance, tolerance = tolerance_of(c);

    assert_int_equal(n, n_expected);
    distance = golden_distance(values, expected, n);
    print_message("    %-24s %.2g of %.2g\n", name, distance, tolerance);
    if (!(distance <= tolerance))
        fail_msg("%s: '%s' differs by %g, allowed %g", weights_path(c), name, distance, tolerance);
}

/* Tokens, and for media the embedding of the case in the slots. */
static size_t inputs_of(const struct weights *c, struct model_input *inputs)
{
    size_t n = 0, n_types = 0, n_blocks = 0, n_values = 0;
    const int32_t *ids = golden_i32(c, "tokens", &n);
    const int32_t *types = NULL, *blocks = NULL;
    const float *embedding = NULL;

    assert_true(n <= ROWS_MAX);
    if (weights_find(c, "types")) {
        types = golden_i32(c, "types", &n_types);
        blocks = golden_i32(c, "block", &n_blocks);
        embedding = golden_f32(c, "embedding", &n_values);
        assert_true(n_types == n && n_blocks == n);
    }
    for (size_t i = 0; i < n; i++) {
        inputs[i] = (struct model_input){.id = ids[i], .block = -1};
        if (types && types[i] != 0)
            inputs[i].soft = embedding + i * (n_values / n);
        if (blocks)
            inputs[i].block = blocks[i];
    }
    return n;
}

struct trace {
    const struct weights *c;
    size_t compared;
};

static void watch(void *context, size_t layer, const char *name, const float *values, size_t rows,
                  size_t width)
{
    struct trace *trace = context;
    char full[64];

    (void)snprintf(full, sizeof full, "layer.%zu.%s", layer, name);
    if (strcmp(name, "embedding") == 0 || strcmp(name, "hidden") == 0)
        (void)snprintf(full, sizeof full, "%s", name);
    if (!weights_find(trace->c, full))
        return;
    if (strcmp(name, "experts") == 0)
        compare_chosen(trace->c, full, values, rows * width);
    else
        compare(trace->c, full, values, rows * width);
    trace->compared++;
}

/* Returns how many tensors beside the logits were compared. */
static size_t check_case(const char *name, const int32_t *chunks, size_t n_chunks)
{
    struct weights *c = golden_case_open(name);
    struct trace trace = {.c = c};
    struct model_input inputs[ROWS_MAX];
    struct golden_model m;
    struct golden_reading reading = {.inputs = inputs,
                                     .n = inputs_of(c, inputs),
                                     .chunks = chunks,
                                     .n_chunks = n_chunks,
                                     .budget_us = 1,
                                     .watch = chunks ? NULL : watch,
                                     .watch_context = &trace};
    char file[128];
    float *logits;
    size_t n;

    model_of(c, file, sizeof file);
    golden_model_open(&m, file, true, 1);
    n = reading.n * model_hparams(m.model)->vocabulary;
    logits = heap_array(float, n);
    golden_read(m.model, &reading, logits);
    compare(c, "logits", logits, n);
    heap_free(logits);
    golden_model_close(&m);
    weights_close(c);
    return trace.compared;
}

static void test_nano_q4_0(void **state)
{
    (void)state;
    (void)check_case("text-nano-q4_0", NULL, 0);
}

static void test_nano_q8_0(void **state)
{
    (void)state;
    (void)check_case("text-nano-q8_0", NULL, 0);
}

static void test_nano_f32(void **state)
{
    (void)state;
    assert_int_equal(check_case("text-nano-f32", NULL, 0), 15);
}

static void test_nano_bf16(void **state)
{
    (void)state;
    (void)check_case("text-nano-bf16", NULL, 0);
}

static void test_nano_f16(void **state)
{
    (void)state;
    (void)check_case("text-nano-f16", NULL, 0);
}

static void test_small_q6_k(void **state)
{
    (void)state;
    (void)check_case("text-small-q6_k", NULL, 0);
}

static void test_small_mixture(void **state)
{
    (void)state;
    (void)check_case("text-small-q4_0-q6_k", NULL, 0);
}

/* Probabilities, choice and weights of the experts in a sliding and a full layer, beside the rest.
 */
static void test_nano_moe(void **state)
{
    const int32_t chunks[] = {1, 7, 13, 0};

    (void)state;
    assert_int_equal(check_case("text-nano-moe-q4_0", NULL, 0), 22);
    (void)check_case("text-nano-moe-q4_0", chunks, 4);
}

static void test_nano_moe_f32(void **state)
{
    (void)state;
    assert_int_equal(check_case("text-nano-moe-f32", NULL, 0), 22);
}

static void watch_ties(void *context, size_t layer, const char *name, const float *values,
                       size_t rows, size_t width)
{
    (void)layer;
    if (strcmp(name, "experts") != 0)
        return;
    assert_int_equal(width, 2);
    for (size_t r = 0; r < rows; r++)
        assert_true(values[2 * r] == 0 && values[2 * r + 1] == 1);
    ++*(size_t *)context;
}

/* Of experts that are equally likely those of lower number are taken. */
struct told {
    size_t times, done, all;
};

static void tell(void *context, size_t done, size_t all)
{
    struct told *told = context;

    assert_true(done <= all && done >= told->done);
    *told = (struct told){.times = told->times + 1, .done = done, .all = all};
}

/* The file is cut off between opening it and laying out: refused, by one thread or two. */
static void test_cut_off(void **state)
{
    const struct random_model shape = {.type = DTYPE_Q4_0, .experts = true, .seed = 4};
    struct told told = {0};
    const struct model_options options = {.context_max = 64,
                                          .kv_bytes = (size_t)16 << 20,
                                          .progress = tell,
                                          .progress_context = &told};
    struct pool *two = pool_new(2);
    struct weights *w = NULL;
    struct model *m = NULL;
    struct status st = {0};
    char path[RANDOM_MODEL_PATH];

    (void)state;
    random_model_write(path, &shape);
    assert_true(weights_open(&w, path, &st) && model_open(&m, w, NULL, &options, &st));
    assert_false(model_memory_short(m));
    assert_int_equal(model_laid_out_bytes(m), told.all);
    model_close(m);
    m = NULL;
    /* Behind all that is read through the mapping when a model is opened. */
    const struct tensor_view *cut = weights_find(w, "blk.1.ffn_gate_up_exps.weight");
    const struct tensor_view *last = weights_at(w, weights_tensors(w) - 1);
    size_t rest = (size_t)((const uint8_t *)last->data - (const uint8_t *)cut->data);
    assert_int_equal(truncate(path, (off_t)(weights_size_bytes(w) - rest)), 0);
    for (size_t threads = 1; told.times > 0 && threads <= 2; threads++) {
        assert_int_equal(told.done, told.all);
        told.done = 0;
        assert_false(model_open(&m, w, threads > 1 ? two : NULL, &options, &st));
        assert_null(m);
        assert_int_equal(st.code, STATUS_CORRUPT);
        assert_non_null(strstr(st.text, "became shorter since it was opened"));
        told.done = told.all;
    }
    if (told.times == 0)
        print_message("skipped: this CPU's kernels read matrices as they are stored\n");
    weights_close(w);
    pool_free(two);
    (void)unlink(path);
}

static void test_ties(void **state)
{
    const struct random_model shape = {
        .type = DTYPE_Q8_0, .experts = true, .router_ties = true, .seed = 3};
    const struct model_options options = {.context_max = 64, .kv_bytes = (size_t)16 << 20};
    struct model_input inputs[5];
    struct weights *w = NULL;
    struct model *m = NULL;
    struct status st = {0};
    size_t seen = 0;
    char path[RANDOM_MODEL_PATH];
    float *logits = heap_array(float, (size_t)5 * RANDOM_MODEL_VOCABULARY);

    (void)state;
    random_model_write(path, &shape);
    assert_true(weights_open(&w, path, &st) && model_open(&m, w, NULL, &options, &st));
    for (size_t i = 0; i < 5; i++)
        inputs[i] = (struct model_input){.id = (int32_t)i * 17, .block = -1};
    const struct golden_reading reading = {
        .inputs = inputs, .n = 5, .budget_us = 1, .watch = watch_ties, .watch_context = &seen};
    golden_read(m, &reading, logits);
    assert_int_equal(seen, model_hparams(m)->layers);
    heap_free(logits);
    model_close(m);
    weights_close(w);
    (void)unlink(path);
}

static void test_image(void **state)
{
    (void)state;
    assert_int_equal(check_case("image", NULL, 0), 1);
}

static void test_audio(void **state)
{
    (void)state;
    assert_int_equal(check_case("audio", NULL, 0), 1);
}

static void test_mixed(void **state)
{
    struct weights *c = golden_case_open("mixed");
    size_t n = 0;
    const int32_t *chunks = golden_i32(c, "chunks", &n);

    (void)state;
    (void)check_case("mixed", NULL, 0);
    (void)check_case("mixed", chunks, n);
    weights_close(c);
}

static void test_chunks(void **state)
{
    struct weights *c = golden_case_open("chunks");
    const struct tensor_view *t = weights_find(c, "chunks");
    const int32_t *chunks;
    size_t n = 0;

    (void)state;
    assert_non_null(t);
    chunks = golden_i32(c, "chunks", &n);
    for (size_t row = 0; row < t->dims[1]; row++)
        (void)check_case("chunks", chunks + row * t->dims[0], t->dims[0]);
    weights_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nano_q4_0),     cmocka_unit_test(test_nano_q8_0),
        cmocka_unit_test(test_nano_f32),      cmocka_unit_test(test_nano_bf16),
        cmocka_unit_test(test_nano_f16),      cmocka_unit_test(test_small_q6_k),
        cmocka_unit_test(test_small_mixture), cmocka_unit_test(test_image),
        cmocka_unit_test(test_audio),         cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_chunks),        cmocka_unit_test(test_nano_moe),
        cmocka_unit_test(test_nano_moe_f32),  cmocka_unit_test(test_ties),
        cmocka_unit_test(test_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
