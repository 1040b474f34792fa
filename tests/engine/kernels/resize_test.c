/* resize_test.c - every set's resampling against `_c`: the same bytes, whatever the sizes. */
#include "engine/base/heap.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SEED 11
#define ROWS_MAX ((size_t)19)

static uint32_t random_state = SEED;

static uint32_t random_below(uint32_t n)
{
    return next_random(&random_state) % n;
}

/* Weights as an antialiased cubic has them, some negative. Dyadic ones meet exact halves. */
static void taps_random(struct resize_taps *taps, size_t out, size_t in, size_t stride, bool dyadic)
{
    *taps = (struct resize_taps){.out = out,
                                 .stride = stride,
                                 .first = heap_array(size_t, out),
                                 .n = heap_array(size_t, out),
                                 .weight = heap_array(double, out *stride),
                                 .rounded = heap_array(float, out *stride)};
    for (size_t i = 0; i < out; i++) {
        const size_t n = 1 + random_below((uint32_t)(in < stride ? in : stride));
        double *weight = taps->weight + i * stride, sum = 0.0, size = 0.0;
        taps->n[i] = n;
        taps->first[i] = random_below((uint32_t)(in - n + 1));
        for (size_t j = 0; j < n; j++) {
            weight[j] = dyadic ? (random_below(40) - 8.0) / (16.0 * (double)n)
                               : (random_below(1000) - 150.0) / 1000.0;
            sum += weight[j];
            size += fabs(weight[j]);
        }
        for (size_t j = 0; j < n; j++) {
            if (!dyadic)
                weight[j] /= sum > 0.6 * size ? sum : size;
            taps->rounded[i * stride + j] = (float)weight[j];
        }
    }
}

static void taps_clear(struct resize_taps *taps)
{
    heap_free(taps->first);
    heap_free(taps->n);
    heap_free(taps->weight);
    heap_free(taps->rounded);
}

/* Noise, or only the ends of the range, where sums are clipped. Exactly as large as it must be, so
 * that the address sanitizer sees a byte too many. */
static uint8_t *picture(size_t size, bool ends)
{
    uint8_t *data = heap_array(uint8_t, size);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(ends ? 255 * random_below(2) : random_below(256));
    return data;
}

static void check_across(const struct kernel_set *set, const struct kernel_set *plain, size_t width,
                         size_t out, size_t rows, bool dyadic)
{
    struct resize_taps taps;
    taps_random(&taps, out, width, 1 + random_below(12), dyadic);
    const size_t stride = RESIZE_STRIDE(out);
    uint8_t *in = picture(rows * width * 3, random_below(4) == 0);
    uint8_t *got = heap_array(uint8_t, rows * stride);
    uint8_t *expected = heap_array(uint8_t, rows * stride);
    float *scratch = heap_array(float, RESIZE_SCRATCH(width));
    set->resize_across(got, stride, in, width, rows, &taps, scratch);
    plain->resize_across(expected, stride, in, width, rows, &taps, scratch);
    for (size_t r = 0; r < rows; r++)
        if (memcmp(got + r * stride, expected + r * stride, out * 3) != 0)
            fail_msg("%s: across, %zu -> %zu px, row %zu of %zu", set->name, width, out, r, rows);
    heap_free(scratch);
    heap_free(expected);
    heap_free(got);
    heap_free(in);
    taps_clear(&taps);
}

static void check_down(const struct kernel_set *set, const struct kernel_set *plain, size_t height,
                       size_t width, size_t out, bool dyadic)
{
    struct resize_taps taps;
    taps_random(&taps, out, height, 1 + random_below(12), dyadic);
    const size_t stride = RESIZE_STRIDE(width);
    uint8_t *in = picture(height * stride, random_below(4) == 0);
    uint8_t *got = heap_array(uint8_t, width * 3), *expected = heap_array(uint8_t, width * 3);
    for (size_t y = 0; y < out; y++) {
        set->resize_down(got, width * 3, in, stride, &taps, y);
        plain->resize_down(expected, width * 3, in, stride, &taps, y);
        if (memcmp(got, expected, width * 3) != 0)
            fail_msg("%s: down, %zu -> %zu rows of %zu px, row %zu", set->name, height, out, width,
                     y);
    }
    heap_free(expected);
    heap_free(got);
    heap_free(in);
    taps_clear(&taps);
}

static void test_sets_agree(void **state)
{
    (void)state;
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n), *plain = &sets[n - 1];
    for (size_t i = 0; i < n - 1; i++) {
        if (!cpu_has(sets[i].needs))
            continue;
        for (size_t round = 0; round < 300; round++) {
            const size_t width = 1 + random_below(70), out = 1 + random_below(70);
            check_across(&sets[i], plain, width, out, 1 + random_below(RESIZE_ROWS), round & 1);
            check_down(&sets[i], plain, 1 + random_below(ROWS_MAX), width, out, round & 1);
        }
    }
}

/* Half a level goes up, and sums outside of 0 .. 255 stay at the ends. */
static void test_rounding(void **state)
{
    (void)state;
    static size_t first[] = {0}, count[] = {2};
    static double weight[4][2] = {{0.5, 0.5}, {1.5, -0.5}, {1.25, -0.25}, {0.5, 0.498}};
    static const uint8_t pixels[4][2] = {{10, 11}, {255, 0}, {0, 255}, {255, 255}};
    static const uint8_t expected[4] = {11, 255, 0, 254};
    uint8_t in[2 * RESIZE_STRIDE(1)], out[3];
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 4 && cpu_has(sets[i].needs); k++) {
            float rounded[2] = {(float)weight[k][0], (float)weight[k][1]};
            struct resize_taps taps = {first, count, weight[k], rounded, 1, 2};
            memset(in, pixels[k][0], RESIZE_STRIDE(1));
            memset(in + RESIZE_STRIDE(1), pixels[k][1], RESIZE_STRIDE(1));
            sets[i].resize_down(out, 3, in, RESIZE_STRIDE(1), &taps, 0);
            for (size_t c = 0; c < 3; c++)
                assert_int_equal(out[c], expected[k]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_sets_agree),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
