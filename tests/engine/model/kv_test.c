/* Keys and values: budget, pages of the window, what is let go. */
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/quant/quant.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* The layers of the 12B: spec model.md section 6.2. */
static struct hparams hparams_12b(void)
{
    struct hparams hp = {.layers = 48, .heads = 16, .window = 1024};

    for (size_t i = 0; i < hp.layers; i++)
        hp.layer[i] = (i + 1) % 6 ? (struct hparams_layer){true, true, 8, 256}
                                  : (struct hparams_layer){false, false, 1, 512};
    return hp;
}

static struct hparams hparams_small(void)
{
    struct hparams hp = {.layers = 3, .heads = 2, .window = 100};

    hp.layer[0] = (struct hparams_layer){true, true, 2, 8};
    hp.layer[1] = (struct hparams_layer){false, false, 1, 16};
    hp.layer[2] = (struct hparams_layer){true, true, 1, 8};
    return hp;
}

static void test_budget(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL, *none = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F16, 0);
    size_t bytes = kv_line_bytes(kv, 1000);

    (void)state;
    assert_false(kv_line_new(&none, kv, 1, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    kv_free(kv);
    kv = kv_new(&hp, DTYPE_F16, bytes);
    assert_false(kv_line_new(&none, kv, 1025, &st));
    assert_null(none);
    assert_true(kv_line_new(&line, kv, 1000, &st));
    assert_int_equal(kv_reserved_bytes(kv), bytes);
    assert_false(kv_line_new(&none, kv, 1, &st));
    kv_widen(kv, 640); /* for passes, not for lines */
    assert_int_equal(kv_reserved_bytes(kv), bytes);
    assert_false(kv_line_new(&none, kv, 1, &st));
    kv_narrow(kv, 640);
    kv_line_free(line);
    assert_int_equal(kv_reserved_bytes(kv), 0);
    /* Pages of full layers that are not needed make room for sliding ones. */
    for (size_t tokens = 1; tokens <= 1000; tokens += 111) {
        assert_true(kv_line_new(&line, kv, tokens, &st));
        kv_line_extend(line, tokens < 160 ? tokens : 160);
        kv_line_free(line);
    }
    kv_free(kv);
}

static void test_bytes_of_the_12b(void **state)
{
    struct hparams hp = hparams_12b();
    struct kv *kv = kv_new(&hp, DTYPE_F16, 0);

    (void)state;
    assert_int_equal(kv_page_bytes(kv, KV_SLIDING), 64 * 327680);
    assert_int_equal(kv_page_bytes(kv, KV_FULL), 64 * 16384);
    assert_int_equal(kv_line_bytes(kv, 64), 64 * (327680 + 16384));
    /* 1023 older positions and 64 new ones lie in 18 pages at most. */
    assert_int_equal(kv_line_bytes(kv, 8192), 8192 * 16384 + 18 * 64 * 327680);
    kv_free(kv);
}

static void test_write_and_read(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F32, (size_t)1 << 20);
    float key[16], value[16];

    (void)state;
    assert_true(kv_line_new(&line, kv, 200, &st));
    kv_line_extend(line, 130);
    for (size_t i = 0; i < 16; i++) {
        key[i] = (float)i;
        value[i] = -(float)i;
    }
    kv_line_write(line, 0, 70, key, value);
    kv_line_write(line, 1, 129, value, key);
    /* Position 70 is row 6 of page 1; the second head comes after the 64 rows of the first. */
    const float *keys = kv_line_keys(line, 0)[1], *values = kv_line_values(line, 0)[1];
    assert_memory_equal(keys + (size_t)6 * 8, key, 8 * sizeof *key);
    assert_memory_equal(keys + (size_t)(64 + 6) * 8, key + 8, 8 * sizeof *key);
    assert_memory_equal(values + (size_t)(64 + 6) * 8, value + 8, 8 * sizeof *key);
    keys = kv_line_keys(line, 1)[2];
    assert_memory_equal(keys + (size_t)1 * 16, value, 16 * sizeof *key);
    assert_null(kv_line_keys(line, 0)[3]);
    kv_line_free(line);
    kv_free(kv);
}

/* After each step exactly the pages that a later query can see are there. */
static void test_window(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F16, (size_t)1 << 22);
    size_t length = 0;

    (void)state;
    kv_widen(kv, 500);
    assert_true(kv_line_new(&line, kv, 5000, &st));
    for (size_t step = 1; length + step <= 5000; step = step % 300 + 7) {
        kv_line_extend(line, length + step);
        if (step % 2 == 0) {
            kv_line_trim(line, length, length); /* given up */
            continue;
        }
        length += step;
        kv_line_trim(line, length, length);
        for (size_t page = 0; page < (5000 + 63) / 64; page++) {
            bool full = page * 64 < length;
            bool sliding = full && page * 64 + 63 + hp.window > length;
            assert_int_equal(kv_line_keys(line, 1)[page] != NULL, full);
            assert_int_equal(kv_line_keys(line, 0)[page] != NULL, sliding);
            assert_int_equal(kv_line_values(line, 2)[page] != NULL, sliding);
        }
        assert_true(kv_pages_used(kv, KV_SLIDING) <= 3);
        assert_int_equal(kv_pages_used(kv, KV_FULL), (length + 63) / 64);
    }
    kv_line_free(line);
    assert_int_equal(kv_pages_used(kv, KV_FULL), 0);
    kv_narrow(kv, 500);
    kv_free(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_bytes_of_the_12b),
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
