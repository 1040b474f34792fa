/* The sampler against its definition, written out naively; its random numbers are pinned. */
#include "engine/base/heap.h"
#include "engine/run/sampler.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOCABULARY 300

static void test_refuses(void **state)
{
    const struct sampling wrong[] = {
        {.temperature = -1, .top_p = 1},       {.temperature = NAN, .top_p = 1},
        {.temperature = INFINITY, .top_p = 1}, {.temperature = 1, .top_p = 1.5F},
        {.temperature = 1, .top_p = NAN},      {.temperature = 1, .top_p = -0.1F},
        {.temperature = 1, .min_p = 2},        {.temperature = 1, .min_p = NAN},
    };
    const struct sampling right = {.temperature = 0, .top_k = 0, .top_p = 0, .min_p = 1};
    struct status st = {0};

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(sampling_check(&wrong[i], &st));
        assert_int_equal(st.code, STATUS_INVALID);
    }
    assert_true(sampling_check(&right, &st));
}

/* A resumed stream must go on as it began, also on a newer version of the program. */
static void test_uniform_is_pinned(void **state)
{
    double sum = 0;

    (void)state;
    assert_true(sampler_uniform(0, 0) == 0x1.4e0dba5e9a32fp-1);
    assert_true(sampler_uniform(1, 0) == 0x1.7906ac21d0e58p-2);
    assert_true(sampler_uniform(UINT64_MAX, 12345) == 0x1.291ad9135a27cp-3);
    for (uint64_t i = 0; i < 100000; i++) {
        double u = sampler_uniform(7, i);
        assert_true(u >= 0 && u < 1);
        assert_true(u != sampler_uniform(8, i) && u != sampler_uniform(7, i + 1));
        sum += u;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.005);
}

static int descending(const void *a, const void *b)
{
    const float *x = *(const float *const *)a, *y = *(const float *const *)b;

    if (*x != *y)
        return *x > *y ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* As HF does it: sort all, cut at k, then at p of the sum, then at min_p of the best. */
static int32_t naive(const float *logits, const struct sampling *s, uint64_t index)
{
    const float *order[VOCABULARY];
    double p[VOCABULARY], total = 0, sum = 0, kept_sum = 0, u;
    size_t n = 0, kept = 0;

    for (size_t i = 0; i < VOCABULARY; i++)
        if (logits[i] > -INFINITY)
            order[n++] = &logits[i];
    qsort(order, n, sizeof *order, descending);
    if (s->temperature == 0)
        return (int32_t)(order[0] - logits);
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    for (size_t i = 0; i < n; i++) {
        p[i] = exp(((double)*order[i] - (double)*order[0]) / (double)s->temperature);
        total += p[i];
    }
    for (; kept < n; kept++) {
        if (kept > 0 && (sum / total >= (double)s->top_p || p[kept] < (double)s->min_p))
            break;
        sum += p[kept];
    }
    u = sampler_uniform(s->seed, index) * sum;
    for (size_t i = 0; i < kept; i++) {
        kept_sum += p[i];
        if (u < kept_sum)
            return (int32_t)(order[i] - logits);
    }
    return (int32_t)(order[kept - 1] - logits);
}

static void test_against_definition(void **state)
{
    const struct sampling kinds[] = {
        {.temperature = 0, .top_k = 64, .top_p = 0.95F},
        {.temperature = 1, .top_p = 1},
        {.temperature = 1, .top_k = 64, .top_p = 0.95F},
        {.temperature = 0.7F, .top_k = 1, .top_p = 1},
        {.temperature = 2, .top_k = 0, .top_p = 0.5F},
        {.temperature = 1, .top_k = 5, .top_p = 0},
        {.temperature = 1.3F, .top_k = 1000, .top_p = 1, .min_p = 0.2F},
        {.temperature = 0.01F, .top_k = 40, .top_p = 0.9F, .min_p = 0.05F},
    };
    struct sampler *sampler = sampler_new(VOCABULARY);
    float logits[VOCABULARY];

    (void)state;
    for (uint64_t round = 0; round < 4000; round++) {
        struct sampling s = kinds[round % (sizeof kinds / sizeof *kinds)];
        s.seed = round;
        for (uint64_t i = 0; i < VOCABULARY; i++) /* coarse: many are equal */
            logits[i] = (float)floor(sampler_uniform(round, 1000 + i) * 40) / 4;
        logits[round % VOCABULARY] = -INFINITY;
        logits[round * 7 % VOCABULARY] = -INFINITY;
        assert_int_equal(sampler_pick(sampler, logits, &s, round), naive(logits, &s, round));
    }
    sampler_free(sampler);
}

static void test_broken_logits(void **state)
{
    struct sampler *sampler = sampler_new(4), *large = sampler_new(VOCABULARY);
    struct sampling s = {.temperature = 1, .top_k = 2, .top_p = 1};
    float far[VOCABULARY];
    const float nans[] = {NAN, NAN, NAN, NAN}, one[] = {NAN, -INFINITY, -3, NAN};
    const float infinite[] = {1, INFINITY, INFINITY, NAN};

    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        s.temperature = i % 2 ? 1.0F : 0.0F;
        assert_int_equal(sampler_pick(sampler, nans, &s, i), 0);
        assert_int_equal(sampler_pick(sampler, one, &s, i), 2);
        int32_t id = sampler_pick(sampler, infinite, &s, i);
        assert_true(id == 1 || id == 2);
        for (size_t at = 0; at < VOCABULARY; at++) {
            for (size_t k = 0; k < VOCABULARY; k++)
                far[k] = k == at ? -3.0F : k % 2 ? NAN : -INFINITY;
            assert_int_equal(sampler_pick(large, far, &s, i), at);
        }
    }
    sampler_free(sampler);
    sampler_free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_uniform_is_pinned),
        cmocka_unit_test(test_against_definition),
        cmocka_unit_test(test_broken_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
