/* What is no product and no attention: the same bits in every set, on sizes that do not divide. */
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "tests/random.h"
#include <assert.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SEED 7
static uint32_t random_state = SEED;

static void fill(float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * random_float(&random_state);
}

enum { LONGEST = 517 };

struct numbers {
    float x[LONGEST + 1], y[LONGEST + 1], z[LONGEST + 1];
};

static void make_numbers(struct numbers *n, float size)
{
    fill(n->x, LONGEST, size);
    fill(n->y, LONGEST, 1.0f);
    fill(n->z, LONGEST, 1.0f);
    n->x[LONGEST] = n->y[LONGEST] = n->z[LONGEST] = 42.0f; /* must stay */
}

static void same(const char *what, const struct kernel_set *set, const float *a, const float *b)
{
    for (size_t i = 0; i <= LONGEST; i++)
        if (a[i] != b[i] && (a[i] == a[i] || b[i] == b[i])) /* a NaN is a NaN */
            fail_msg("%s, %s: [%zu] is %.9g, expected %.9g", set->name, what, i, (double)a[i],
                     (double)b[i]);
}

static void check_elements(const struct kernel_set *set, const struct kernel_set *plain, size_t n,
                           float size)
{
    struct numbers a, b;
    make_numbers(&a, size);
    b = a;
    set->rmsnorm(a.y, a.x, a.z, n, 1e-6f);
    plain->rmsnorm(b.y, b.x, b.z, n, 1e-6f);
    same("rmsnorm", set, a.y, b.y);
    set->rmsnorm(a.x, a.x, NULL, n, 1e-6f);
    plain->rmsnorm(b.x, b.x, NULL, n, 1e-6f);
    same("rmsnorm in place", set, a.x, b.x);
    make_numbers(&a, size);
    b = a;
    set->add_norm(a.x, a.y, a.z, n, 1e-6f, 0.7f);
    plain->add_norm(b.x, b.y, b.z, n, 1e-6f, 0.7f);
    same("add_norm", set, a.x, b.x);
    set->gelu_mul(a.x, a.x, a.z, n);
    plain->gelu_mul(b.x, b.x, b.z, n);
    same("gelu_mul", set, a.x, b.x);
    make_numbers(&a, size);
    b = a;
    set->gelu_mul(a.z, a.x, NULL, n);
    plain->gelu_mul(b.z, b.x, NULL, n);
    same("gelu", set, a.z, b.z);
    set->softcap(a.x, n, 1.5f);
    plain->softcap(b.x, n, 1.5f);
    same("softcap", set, a.x, b.x);
    make_numbers(&a, size);
    b = a;
    set->rope(a.x, a.y, a.z, n < 40 ? 2 : 1, n / 4);
    plain->rope(b.x, b.y, b.z, n < 40 ? 2 : 1, n / 4);
    same("rope", set, a.x, b.x);
}

/* The largest value fits, and would not with the next smaller step. */
static void check_step(float step, const float *x, size_t block)
{
    float largest = 0.0f;
    int exponent;
    for (size_t i = 0; i < block; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    if (block != 32) {
        assert_true(step == largest / 127.0f);
        return;
    }
    float part = frexpf(step, &exponent) * (float)(1 << ACT_STEP_BITS);
    if (step >= FLT_MIN)
        assert_true(part == floorf(part));
    assert_true(step >= largest / 127.0f);
    assert_true(step == 0.0f || step < FLT_MIN ||
                ldexpf(part - 1.0f, exponent - ACT_STEP_BITS) < largest / 127.0f);
}

static void check_rounding(const struct kernel_set *set, const struct kernel_set *plain,
                           size_t block, float size)
{
    enum { N = 768 };
    float x[N], scale[2][N / 32];
    int8_t q[2][N];
    int32_t sum[2][N / 16];
    assert(block == 32 || block == 256);
    memset(scale, 0, sizeof scale);
    memset(sum, 0, sizeof sum);
    fill(x, N, size);
    for (size_t i = 0; i < block; i++) /* halves: to the even one */
        x[i] = i ? (float)i * 0.5f - 4.0f : 127.0f;
    memset(x + block, 0, block * sizeof *x); /* nothing at all */
    x[N - 1] = NAN;
    set->round_row(q[0], scale[0], sum[0], x, N, block);
    plain->round_row(q[1], scale[1], sum[1], x, N, block);
    assert_memory_equal(q[0], q[1], N);
    assert_memory_equal(scale[0], scale[1], sizeof scale[0]);
    assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
    assert_true(scale[0][0] == 1.0f && q[0][0] == 127 && q[0][9] == 0 && q[0][11] == 2);
    for (size_t b = 1; b < N / block; b++)
        check_step(scale[0][b], x + b * block, block);
    for (size_t i = 0; i < N - 1; i++) {
        float step = scale[0][i / block];
        if (step < ACT_STEP_MIN)
            assert_int_equal(q[0][i], 0);
        else
            assert_true(fabsf(step * (float)q[0][i] - x[i]) <= step * 0.5001f);
    }
}

static void test_sets_agree(void **state)
{
    (void)state;
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n), *plain = &sets[n - 1];
    assert_int_equal(plain->needs, 0);
    for (size_t i = 0; i < n; i++) {
        if (!cpu_has(sets[i].needs))
            continue;
        for (size_t length = 4; length <= LONGEST; length = length * 2 + 5) {
            check_elements(&sets[i], plain, length, 0.3f);
            check_elements(&sets[i], plain, length, 30.0f);
            check_elements(&sets[i], plain, length, 1e30f);
        }
        check_elements(&sets[i], plain, LONGEST, 4.0f);
        static const float sizes[] = {1e-38f, 1e-30f, 1e-10f, 0.1f, 1.0f, 30.0f, 1e10f, 1e37f};
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            check_rounding(&sets[i], plain, 32, sizes[k]);
            check_rounding(&sets[i], plain, 256, sizes[k]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets_agree),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
