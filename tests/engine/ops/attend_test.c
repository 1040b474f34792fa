/* Attention in any cut, on any number of threads, at any length: the same bits, near the sums in
 * double. */
#include "engine/base/pool.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "engine/ops/ops.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint32_t seed = 20261124;

static double number(const void *page, size_t at, const struct quant_row *type)
{
    float x;
    type->to_f32(&x, (const uint8_t *)page + at * type->block_bytes, 1);
    return (double)x;
}

/* Attention in double over the keys [first, end), from the pages. */
static void attend_double(double *out, const struct attend_shape *s, const struct attend_query *q,
                          const struct quant_row *type, size_t head)
{
    size_t d = s->head_dim, kv = head / (s->heads / s->kv_heads);
    double sum = 0.0;
    memset(out, 0, d * sizeof *out);
    for (size_t j = q->first; j < q->end; j++) {
        size_t page = j / ATTEND_PAGE_KEYS, at = j % ATTEND_PAGE_KEYS;
        size_t head_at = kv * ATTEND_PAGE_KEYS * d;
        double score = 0.0;
        for (size_t i = 0; i < d; i++)
            score += (double)q->q[head * d + i] *
                     number(q->keys[page], head_at + attend_key_place(s->type, at, i), type);
        double p = exp(score); /* scores of this test are small */
        sum += p;
        for (size_t i = 0; i < d; i++)
            out[i] +=
                p * number(q->values[page], head_at + attend_value_place(s->type, d, at, i), type);
    }
    for (size_t i = 0; i < d; i++)
        out[i] /= sum;
}

#define PAGES ((size_t)18) /* a group and a part */
#define QUERIES ((size_t)21)

static void check_attend(struct pool *pool, enum dtype dtype, size_t heads, size_t kv, size_t d)
{
    const struct quant_row *type = quant_find(dtype);
    struct attend_shape shape = {.heads = heads, .kv_heads = kv, .head_dim = d, .type = dtype};
    size_t page_values = kv * ATTEND_PAGE_KEYS * d;
    const void *keys[PAGES], *items[PAGES];
    struct attend_query q[QUERIES];
    float *x = random_floats(&seed, QUERIES * heads * d, 4.0f / (float)d);
    float *out = heap_array(float, QUERIES *heads *d),
          *again = heap_array(float, QUERIES *heads *d);
    struct ops *one = ops_new(NULL, PRECISION_FAST), *many = ops_new(pool, PRECISION_FAST);
    double exact[ATTEND_HEAD_DIM_MAX];

    for (size_t p = 0; p < 2 * PAGES; p++) {
        float *values_of = random_floats(&seed, page_values, 1.0f);
        void *page = heap_new(page_values, type->block_bytes);
        type->from_f32(page, values_of, page_values);
        *(p < PAGES ? &keys[p] : &items[p - PAGES]) = page;
        heap_free(values_of);
    }
    for (size_t i = 0; i < QUERIES; i++) {
        q[i] = (struct attend_query){.q = x + i * heads * d,
                                     .out = out + i * heads * d,
                                     .keys = keys,
                                     .values = items,
                                     .first = i % 3 ? i * 11 : 0,
                                     .end = PAGES * ATTEND_PAGE_KEYS - (i % 4) * 20};
    }
    q[4].end = q[4].first + 1;
    ops_attend(one, &shape, q, QUERIES);
    for (size_t i = 0; i < QUERIES; i++)
        q[i].out = again + i * heads * d;
    ops_attend(many, &shape, q, 6);
    for (size_t i = 6; i < QUERIES; i++)
        ops_attend(many, &shape, q + i, 1); /* split by groups */
    assert_memory_equal(out, again, QUERIES * heads * d * sizeof *out);
    for (size_t i = 0; i < QUERIES; i += 4) {
        attend_double(exact, &shape, &q[i], type, heads - 1);
        for (size_t j = 0; j < d; j++)
            assert_true(fabs(exact[j] - (double)q[i].out[(heads - 1) * d + j]) < 2e-6);
    }
    for (size_t p = 0; p < PAGES; p++) {
        heap_free((void *)(uintptr_t)keys[p]);
        heap_free((void *)(uintptr_t)items[p]);
    }
    heap_free(x);
    heap_free(out);
    heap_free(again);
    ops_free(one);
    ops_free(many);
}

static void test_attend_cuts(void **state)
{
    (void)state;
    static const uint32_t masks[] = {0, CPU_AVX2, UINT32_MAX};
    for (size_t threads = 2; threads <= 4; threads += 2) {
        struct pool *pool = pool_new(threads);
        for (size_t m = 0; m < sizeof masks / sizeof *masks; m++) {
            cpu_set_mask(masks[m]);
            check_attend(pool, DTYPE_F32, 6, 2, 8);
            if (masks[m] == 0) /* slow */
                continue;
            check_attend(pool, DTYPE_F16, 16, 1, 64);
            check_attend(pool, DTYPE_F16, 3, 3, 16);
        }
        pool_free(pool);
    }
    cpu_set_mask(UINT32_MAX);
}

/* The keys of one query bit by bit, in calls of 1, 2, 4 ... groups: the same numbers. */
static void check_some(const struct ops *ops, const struct attend_shape *shape,
                       struct attend_query q, const float *expected)
{
    size_t n = shape->heads * shape->head_dim, step = ATTEND_GROUP_KEYS;
    float *memory = heap_array(float, 2 * n + 2 * shape->heads);
    struct attend_part seen = {memory, memory + n, memory + n + shape->heads};

    q.out = memory + n + 2 * shape->heads;
    for (size_t at = 0; at<q.end; at += step, step *= at> step ? 2 : 1)
        ops_attend_some(ops, shape, &q, &seen, at, at + step);
    assert_memory_equal(q.out, expected, n * sizeof *expected);
    heap_free(memory);
}

/* A token at the end of the longest context: 4096 pages, here the same two in turn. */
static void test_attend_at_262144(void **state)
{
    enum { N = 4096, D = 8, HEADS = 2 };
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16};
    struct pool *pool = pool_new(2);
    struct ops *one = ops_new(NULL, PRECISION_FAST), *two = ops_new(pool, PRECISION_FAST);
    const void **keys = heap_array(const void *, N), **values = heap_array(const void *, N);
    float *x = random_floats(&seed, (size_t)HEADS * D, 1.0f),
          *page = random_floats(&seed, (size_t)4 * ATTEND_PAGE_KEYS * D, 1.0f);
    (void)state;
    for (size_t t = 0; t < 2; t++) {
        const struct quant_row *type = quant_find(dtypes[t]);
        struct attend_shape shape = {
            .heads = HEADS, .kv_heads = 1, .head_dim = D, .type = dtypes[t]};
        size_t bytes = attend_head_bytes(dtypes[t], D);
        uint8_t *memory = heap_new(4, bytes);
        float out[HEADS * D], again[HEADS * D];
        double exact[ATTEND_HEAD_DIM_MAX];
        type->from_f32(memory, page, (size_t)4 * ATTEND_PAGE_KEYS * D);
        for (size_t p = 0; p < N; p++) {
            keys[p] = memory + p % 2 * bytes;
            values[p] = memory + (2 + p % 2) * bytes;
        }
        struct attend_query q = {.q = x, .keys = keys, .values = values, .out = out, .end = 262144};
        ops_attend(one, &shape, &q, 1);
        q.out = again;
        ops_attend(two, &shape, &q, 1);
        assert_memory_equal(out, again, sizeof out);
        check_some(one, &shape, q, out);
        check_some(two, &shape, q, out);
        attend_double(exact, &shape, &q, type, 1);
        for (size_t i = 0; i < D; i++)
            assert_true(fabs(exact[i] - (double)out[D + i]) < 3e-6);
        heap_free(memory);
    }
    heap_free((void *)keys);
    heap_free((void *)values);
    heap_free(x);
    heap_free(page);
    ops_free(one);
    ops_free(two);
    pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend_cuts),
        cmocka_unit_test(test_attend_at_262144),
    };
    print_message("seed %u\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
