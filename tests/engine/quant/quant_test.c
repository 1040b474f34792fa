/* Storage types: bit for bit as the reference has them, and back. */
#include "engine/quant/quant.h"
#include "engine/weights/weights.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const uint32_t readable[] = {
    DTYPE_F32,  DTYPE_F16,    DTYPE_BF16,   DTYPE_Q8_0,  DTYPE_Q4_0, DTYPE_Q4_1,
    DTYPE_Q5_0, DTYPE_Q5_1,   DTYPE_Q2_K,   DTYPE_Q3_K,  DTYPE_Q4_K, DTYPE_Q5_K,
    DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4,
};
#define TYPES (sizeof readable / sizeof *readable)

static void test_table(void **state)
{
    (void)state;
    assert_null(quant_find(9));
    assert_null(quant_find(UINT32_MAX));
    assert_string_equal(quant_name(9), "q8_1"); /* known, not read here */
    assert_string_equal(quant_name(4), "unknown");
    assert_string_equal(quant_name(UINT32_MAX), "unknown");
    for (size_t i = 0; i < TYPES; i++) {
        const struct quant_row *row = quant_find(readable[i]);
        assert_non_null(row);
        assert_string_equal(row->name, quant_name(readable[i]));
        assert_non_null(row->to_f32);
    }
    assert_null(quant_find(DTYPE_I32)->to_f32);
}

/* tests/golden/dequant.gguf: raw blocks and their values. */
static void test_golden_blocks(void **state)
{
    (void)state;
    struct weights *w = NULL;
    struct status st = {0};
    if (!weights_open(&w, "tests/golden/dequant.gguf", &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < TYPES; i++) {
        const struct quant_row *row = quant_find(readable[i]);
        char name[40];
        float out[512];
        (void)snprintf(name, sizeof name, "%s.bytes", row->name);
        const struct tensor_view *bytes = weights_find(w, name);
        (void)snprintf(name, sizeof name, "%s.values", row->name);
        const struct tensor_view *values = weights_find(w, name);
        assert_non_null(bytes);
        assert_non_null(values);
        size_t n = values->dims[0];
        assert_true(n <= 512 && n / row->block_values * row->block_bytes == bytes->dims[0]);
        row->to_f32(out, bytes->data, n);
        assert_memory_equal(out, values->data, n * sizeof *out);
    }
    weights_close(w);
}

static void test_every_half(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) {
        float value = quant_f16_to_f32((uint16_t)half);
        uint16_t back = quant_f32_to_f16(value);
        if (isnan(value))
            assert_int_equal(back, half | 0x200);
        else
            assert_int_equal(back, half);
    }
}

/* Between two neighbours: nearest, the even one when in the middle. */
static void test_half_rounding(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7bff; half++) {
        float low = quant_f16_to_f32((uint16_t)half);
        float high = quant_f16_to_f32((uint16_t)(half + 1));
        float middle = low + (high - low) * 0.5f; /* exact */
        assert_int_equal(quant_f32_to_f16(middle), half & 1 ? half + 1 : half);
        assert_int_equal(quant_f32_to_f16(nextafterf(middle, 0.0f)), half);
        assert_int_equal(quant_f32_to_f16(nextafterf(middle, 1e6f)), half + 1);
        assert_int_equal(quant_f32_to_f16(-middle), (half & 1 ? half + 1 : half) | 0x8000);
    }
    assert_int_equal(quant_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(quant_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(quant_f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(quant_f32_to_f16(1e-30f), 0);
    assert_int_equal(quant_f32_to_f16(1e-42f), 0);
}

/* What was written from floats is near them, and is written again the same. */
static void test_round_trip(void **state)
{
    (void)state;
    enum { N = 256 };
    float in[N], out[N], again[N];
    uint8_t blocks[4 * N], twice[4 * N];
    uint32_t seed = 1;
    for (size_t i = 0; i < N; i++)
        in[i] = random_float(&seed);
    memset(in + 32, 0, 32 * sizeof *in); /* a block of zeros */
    for (size_t i = 0; i < TYPES; i++) {
        const struct quant_row *row = quant_find(readable[i]);
        static const float steps[TYPES] = {0.0f, 0x1p-12f, 0x1p-9f, 0.0042f, 0.13f};
        if (!row->from_f32)
            continue;
        row->from_f32(blocks, in, N);
        row->to_f32(out, blocks, N);
        for (size_t j = 0; j < N; j++)
            if (!(fabsf(out[j] - in[j]) <= steps[i]))
                fail_msg("%s: %g became %g", row->name, (double)in[j], (double)out[j]);
        row->from_f32(twice, out, N);
        row->to_f32(again, twice, N);
        for (size_t j = 0; j < N; j++)
            assert_true(fabsf(again[j] - out[j]) <= steps[i] * 0.1f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),      cmocka_unit_test(test_golden_blocks),
        cmocka_unit_test(test_every_half), cmocka_unit_test(test_half_rounding),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
