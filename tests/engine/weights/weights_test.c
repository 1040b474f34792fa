/* Model files: what is not there, then what is read from GGUF files. */
#include "engine/base/clock.h"
#include "tests/engine/weights/files.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static void test_not_there(void **state)
{
    (void)state;
    struct weights *w = NULL;
    struct status st = {0};
    assert_false(weights_open(&w, files_path("none.gguf"), &st));
    assert_int_equal(st.code, STATUS_NOT_FOUND);
    assert_false(weights_open(&w, files_path(""), &st));
    assert_int_equal(st.code, STATUS_INVALID);
    files_write("empty.gguf", "", 0);
    assert_false(weights_open(&w, files_path("empty.gguf"), &st));
    assert_int_equal(st.code, STATUS_CORRUPT);
    files_write("text.gguf", "hello", 5);
    assert_false(weights_open(&w, files_path("text.gguf"), &st));
    assert_non_null(strstr(st.text, "magic"));
}

static void test_sample(void **state)
{
    (void)state;
    struct buffer b = {0};
    struct weights *w = NULL;
    struct status st = {0};
    struct span text, texts[3];
    int64_t whole[3];
    uint64_t u;
    double f;
    bool flag;

    gguf_sample(&b);
    if (!files_open(&b, &w, &st))
        fail_msg("%s", st.text);
    files_touch(w);
    assert_int_equal(weights_size_bytes(w), b.size);
    assert_true(weights_string(w, "general.architecture", &text, &st));
    assert_true(span_is(text, "sample"));
    assert_true(weights_f64(w, "a.float", &f, &st) && f == 1.5);
    assert_true(weights_f64(w, "a.signed", &f, &st) && f == -7.0);
    assert_true(weights_u64(w, "a.large", &u, &st) && u == UINT64_MAX);
    assert_true(weights_bool(w, "a.bool", &flag, &st) && flag);
    assert_int_equal(weights_array_length(w, "a.strings"), 3);
    assert_true(weights_array_strings(w, "a.strings", 3, texts, &st));
    assert_true(span_is(texts[0], "one") && texts[1].size == 0 && span_is(texts[2], "three\n"));
    assert_true(weights_array_i64(w, "a.bools", 3, whole, &st));
    assert_true(whole[0] == 1 && whole[1] == 0 && whole[2] == 1);
    assert_false(weights_u64(w, "a.signed", &u, &st));
    assert_false(weights_u64(w, "a.float", &u, &st));
    assert_false(weights_f64(w, "a.large", &f, &st));
    assert_false(weights_u64(w, "none", &u, &st));
    assert_non_null(strstr(st.text, "'none' is missing"));
    assert_false(weights_array_strings(w, "a.strings", 2, texts, &st));
    assert_false(weights_array_i64(w, "a.strings", 3, whole, &st));

    const float *vector;
    const struct tensor_view *t;
    assert_true(weights_borrow_f32(w, "vector", 3, &vector, &st));
    assert_true(vector[0] == 2.0f && vector[2] == 2.0f);
    assert_false(weights_borrow_f32(w, "vector", 4, &vector, &st));
    assert_non_null(strstr(st.text, "dims are [3, 1], expected [4]"));
    assert_true(weights_borrow(w, "matrix", (size_t[]){64, 2}, 2, &t, &st));
    assert_int_equal(t->size_bytes, 136);
    assert_int_equal(((const uint8_t *)t->data)[135], 135);
    assert_false(weights_borrow(w, "matrix", (size_t[]){2, 64}, 2, &t, &st));
    assert_false(weights_borrow(w, "none", (size_t[]){1}, 1, &t, &st));
    assert_null(weights_find(w, "none"));
    weights_close(w);
    buffer_clear(&b);
}

static void test_read(void **state)
{
    struct buffer b = {0};
    struct weights *w = NULL;
    struct status st = {0};
    uint8_t found[136];

    (void)state;
    gguf_sample(&b);
    assert_true(files_open(&b, &w, &st));
    const struct tensor_view *t = weights_find(w, "matrix");
    struct tensor_view elsewhere = *t;
    elsewhere.data = b.data;
    assert_true(weights_read(w, &elsewhere, 0, 4, found, &st)); /* in no file */
    assert_memory_equal(found, "GGUF", 4);
    assert_true(weights_read(NULL, t, 135, 1, found, &st));
    assert_int_equal(found[0], 135);
    for (size_t at = 0; at <= sizeof found; at += 17) {
        assert_true(weights_read(w, t, at, sizeof found - at, found, &st));
        assert_memory_equal(found, (const uint8_t *)t->data + at, sizeof found - at);
    }
    /* Cut off in the middle of the matrix, behind our back. */
    assert_int_equal(truncate(files_path("case.gguf"), (off_t)(b.size - 5 - 160 + 64)), 0);
    assert_true(weights_read(w, t, 0, 64, found, &st));
    assert_false(weights_read(w, t, 0, 65, found, &st));
    assert_int_equal(st.code, STATUS_CORRUPT);
    assert_non_null(strstr(st.text, "tensor 'matrix'"));
    assert_non_null(strstr(st.text, "case.gguf' became shorter"));
    weights_close(w);
    buffer_clear(&b);
}

static void write_piece(const char *file, const char *tensor, uint32_t no, uint32_t count,
                        uint32_t tensors)
{
    struct buffer b = {0};
    gguf_head(&b, 1, 3);
    gguf_u32(&b, "split.no", no);
    gguf_u32(&b, "split.count", count);
    gguf_u32(&b, "split.tensors.count", tensors);
    gguf_tensor(&b, tensor, 8, 1, DTYPE_I8, 0);
    gguf_pad(&b);
    gguf_put(&b, 0x0101010101010101u * (no + 1), 8);
    files_write(file, b.data, b.size);
    buffer_clear(&b);
}

static void test_split_files(void **state)
{
    (void)state;
    struct weights *w = NULL;
    struct status st = {0};
    uint64_t no;
    write_piece("m-00001-of-00003.gguf", "a", 0, 3, 3);
    write_piece("m-00002-of-00003.gguf", "b", 1, 3, 3);
    assert_false(weights_open(&w, files_path("m-00001-of-00003.gguf"), &st));
    assert_int_equal(st.code, STATUS_NOT_FOUND);
    assert_non_null(strstr(st.text, "m-00003-of-00003.gguf"));
    write_piece("m-00003-of-00003.gguf", "c", 2, 3, 3);
    if (!weights_open(&w, files_path("m-00001-of-00003.gguf"), &st))
        fail_msg("%s", st.text);
    files_touch(w);
    assert_int_equal(weights_tensors(w), 3);
    assert_int_equal(*(const uint8_t *)weights_find(w, "c")->data, 3);
    assert_true(weights_u64(w, "split.no", &no, &st) && no == 0);
    weights_close(w);
    w = NULL;
    assert_false(weights_open(&w, files_path("m-00002-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "give the first one"));
    write_piece("m-00003-of-00003.gguf", "a", 2, 3, 3); /* the same name again */
    assert_false(weights_open(&w, files_path("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "'a' occurs twice"));
    write_piece("m-00003-of-00003.gguf", "c", 1, 3, 3); /* another number */
    assert_false(weights_open(&w, files_path("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "piece 3: split.no"));
    write_piece("m-00001-of-00003.gguf", "a", 0, 3, 9);
    write_piece("m-00003-of-00003.gguf", "c", 2, 3, 3);
    assert_false(weights_open(&w, files_path("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "split.tensors.count"));
    write_piece("other.gguf", "a", 0, 3, 3);
    assert_false(weights_open(&w, files_path("other.gguf"), &st));
    assert_non_null(strstr(st.text, "must be named"));
}

/* As many descriptors as are allowed at first are not enough; the system allows more. */
static void test_more_files_than_are_open_usually(void **state)
{
    struct weights *w = NULL;
    struct status st = {0};
    struct rlimit usual, few;
    char name[64];

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        char tensor[] = {(char)('a' + i), 0};
        (void)snprintf(name, sizeof name, "many-%05u-of-00020.gguf", i + 1);
        write_piece(name, tensor, i, 20, 20);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    int next = dup(STDIN_FILENO);
    assert_true(next >= 0);
    (void)close(next);
    few = (struct rlimit){.rlim_cur = (rlim_t)next + 10, .rlim_max = usual.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    bool opened = weights_open(&w, files_path("many-00001-of-00020.gguf"), &st);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    if (!opened)
        fail_msg("%s", st.text);
    assert_int_equal(weights_tensors(w), 20);
    weights_close(w);
}

/* 262,144 strings and 514,906 merges open fast (15.8 MB file, where it is present). */
static void test_real_vocabulary(void **state)
{
    (void)state;
    const char *golden = getenv("MILLRACE_GOLDEN");
    char path[300];
    struct weights *w = NULL;
    struct status st = {0};
    (void)snprintf(path, sizeof path, "%s/gemma-4-vocab.gguf",
                   golden ? golden : "../shared/golden");
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    int64_t begin = clock_now_us();
    if (!weights_open(&w, path, &st))
        fail_msg("%s", st.text);
    int64_t took = clock_now_us() - begin;
    assert_int_equal(weights_array_length(w, "tokenizer.ggml.tokens"), 262144);
    files_touch(w);
    weights_close(w);
    print_message("opened in %.1f ms\n", (double)took / 1e3);
    assert_true(took < 500000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_there),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_split_files),
        cmocka_unit_test(test_more_files_than_are_open_usually),
        cmocka_unit_test(test_real_vocabulary),
    };
    return cmocka_run_group_tests(tests, files_folder_make, files_folder_remove);
}
