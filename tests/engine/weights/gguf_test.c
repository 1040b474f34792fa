/* GGUF files that are refused: cut off, flipped, too large, wrong. */
#include "tests/engine/weights/files.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The file must be refused with that code and a text that holds `field`. */
static void refuse(struct buffer *b, enum status_code code, const char *field)
{
    struct weights *w = NULL;
    struct status st = {0};
    assert_false(files_open(b, &w, &st));
    if (st.code != code || !strstr(st.text, field))
        fail_msg("expected %s and '%s', got %s: %s", status_name(code), field, status_name(st.code),
                 st.text);
    assert_null(w);
    buffer_clear(b);
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct buffer b = {0};
    gguf_sample(&b);
    size_t whole = b.size;
    for (size_t n = 0; n < whole; n++) {
        struct weights *w = NULL;
        struct status st = {0};
        b.size = n;
        assert_false(files_open(&b, &w, &st));
        assert_true(st.text[0] != 0);
    }
    buffer_clear(&b);
}

static void test_every_bit_flipped(void **state)
{
    (void)state;
    struct buffer b = {0};
    size_t opened = 0, refused = 0;
    gguf_sample(&b);
    size_t header = b.size - 32 - 160 - 5;
    for (size_t bit = 0; bit < header * 8; bit++) {
        struct weights *w = NULL;
        struct status st = {0};
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (files_open(&b, &w, &st)) {
            files_touch(w);
            opened++;
        } else {
            refused++;
        }
        weights_close(w);
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    buffer_clear(&b);
    assert_true(opened > 0 && refused > 500);
}

/* Several bytes at once, seeded. */
static void test_random_damage(void **state)
{
    (void)state;
    struct buffer whole = {0}, b = {0};
    uint32_t seed = 20261124;
    gguf_sample(&whole);
    print_message("seed %u\n", seed);
    for (size_t i = 0; i < 3000; i++) {
        struct weights *w = NULL;
        struct status st = {0};
        buffer_reset(&b);
        buffer_append(&b, whole.data, whole.size);
        for (size_t k = 0; k < 1 + i % 4; k++) {
            size_t at = next_random(&seed) % b.size;
            b.data[at] = (uint8_t)next_random(&seed);
        }
        if (files_open(&b, &w, &st))
            files_touch(w);
        weights_close(w);
    }
    buffer_clear(&whole);
    buffer_clear(&b);
}

static void test_huge_counts(void **state)
{
    (void)state;
    struct buffer b = {0};
    gguf_head(&b, UINT64_MAX, 0);
    refuse(&b, STATUS_LIMIT, "tensor count");
    gguf_head(&b, 0, 1 << 20);
    refuse(&b, STATUS_LIMIT, "metadata count");
    gguf_head(&b, 65536, 65536);
    refuse(&b, STATUS_CORRUPT, "more than the file can hold");
    gguf_head(&b, 0, 1);
    gguf_put(&b, UINT64_MAX, 8);
    gguf_put(&b, 0, 8);
    refuse(&b, STATUS_LIMIT, "key: length");
    gguf_head(&b, 0, 1);
    gguf_string(&b, "k");
    gguf_put(&b, 8, 4);
    gguf_put(&b, UINT64_MAX, 8);
    refuse(&b, STATUS_CORRUPT, "'k'");
    for (uint32_t type = 0; type < 13; type++) { /* an array of too many of each type */
        gguf_head(&b, 0, 1);
        gguf_string(&b, "k");
        gguf_put(&b, 9, 4);
        gguf_put(&b, type, 4);
        gguf_put(&b, type % 2 ? UINT64_MAX : 1 << 24, 8);
        gguf_put(&b, UINT64_MAX, 8);
        refuse(&b,
               type == 9  ? STATUS_UNSUPPORTED
               : type % 2 ? STATUS_LIMIT
                          : STATUS_CORRUPT,
               "'k'");
    }
}

static void tensor_file(struct buffer *b, uint64_t width, uint64_t rows, uint32_t type,
                        uint64_t offset)
{
    gguf_head(b, 1, 0);
    gguf_tensor(b, "t", width, rows, type, offset);
    gguf_pad(b);
    for (size_t i = 0; i < 64; i++)
        gguf_put(b, 0, 1);
}

static void test_tensors_refused(void **state)
{
    (void)state;
    struct buffer b = {0};
    tensor_file(&b, 0, 1, DTYPE_F32, 0);
    refuse(&b, STATUS_CORRUPT, "dims[0]");
    tensor_file(&b, 1ull << 62, 8, DTYPE_F32, 0);
    refuse(&b, STATUS_CORRUPT, "dims[1]");
    tensor_file(&b, 1ull << 61, 2, DTYPE_F32, 0);
    refuse(&b, STATUS_CORRUPT, "'t': dims");
    tensor_file(&b, 33, 1, DTYPE_Q8_0, 0);
    refuse(&b, STATUS_CORRUPT, "dims[0] is 33");
    tensor_file(&b, 16, 1, DTYPE_F32, 8);
    refuse(&b, STATUS_CORRUPT, "offset 8");
    tensor_file(&b, 17, 1, DTYPE_F32, 0);
    refuse(&b, STATUS_CORRUPT, "beyond the end");
    tensor_file(&b, 16, 1, DTYPE_F32, 32);
    refuse(&b, STATUS_CORRUPT, "beyond the end");
    tensor_file(&b, 16, 1, DTYPE_F32, UINT64_MAX - 31);
    refuse(&b, STATUS_CORRUPT, "beyond the end");
    tensor_file(&b, 256, 1, 19, 0);
    refuse(&b, STATUS_UNSUPPORTED, "'t': type 19 (iq1_s)");
    tensor_file(&b, 256, 1, 4, 0);
    refuse(&b, STATUS_UNSUPPORTED, "unknown");
    gguf_head(&b, 2, 0);
    gguf_tensor(&b, "t", 1, 1, DTYPE_I8, 0);
    gguf_tensor(&b, "t", 1, 1, DTYPE_I8, 0);
    gguf_pad(&b);
    gguf_put(&b, 0, 1);
    refuse(&b, STATUS_CORRUPT, "tensor 't' occurs twice");
}

static void test_keys_refused(void **state)
{
    (void)state;
    struct buffer b = {0};
    gguf_head(&b, 0, 2);
    gguf_u32(&b, "k", 1);
    gguf_u32(&b, "k", 2);
    refuse(&b, STATUS_CORRUPT, "metadata 'k' occurs twice");
    const uint32_t alignments[] = {0, 1, 4, 24, 33, 1u << 31};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        gguf_head(&b, 0, 1);
        gguf_u32(&b, "general.alignment", alignments[i]);
        refuse(&b, STATUS_CORRUPT, "general.alignment");
    }
    gguf_head(&b, 0, 1);
    gguf_string(&b, "general.alignment");
    gguf_put(&b, 8, 4);
    gguf_string(&b, "32");
    refuse(&b, STATUS_CORRUPT, "general.alignment");
    gguf_head(&b, 0, 1);
    gguf_put(&b, 3, 8);
    buffer_append(&b, "a\0b", 3);
    gguf_put(&b, 4, 4);
    gguf_put(&b, 0, 8);
    refuse(&b, STATUS_CORRUPT, "zero byte");
    gguf_head(&b, 0, 1);
    gguf_string(&b, "k");
    gguf_put(&b, 7, 4);
    gguf_put(&b, 2, 1);
    refuse(&b, STATUS_CORRUPT, "bool of 2");
    gguf_head(&b, 0, 1);
    gguf_string(&b, "k");
    gguf_put(&b, 13, 4);
    gguf_put(&b, 2, 8);
    refuse(&b, STATUS_CORRUPT, "value type 13");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_truncation), cmocka_unit_test(test_every_bit_flipped),
        cmocka_unit_test(test_random_damage),    cmocka_unit_test(test_huge_counts),
        cmocka_unit_test(test_tensors_refused),  cmocka_unit_test(test_keys_refused),
    };
    return cmocka_run_group_tests(tests, files_folder_make, files_folder_remove);
}
