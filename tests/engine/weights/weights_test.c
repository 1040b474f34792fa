/* Model files: what is refused (cut off, flipped, too large), then what is read. */
#include "engine/base/clock.h"
#include "engine/weights/weights.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- files made here ---- */

/* In memory where there is such a place: thousands of small files are written. */
static char folder[] = "/dev/shm/millrace-weights-XXXXXX";

static void put(struct buffer *b, uint64_t value, size_t bytes)
{
    buffer_append(b, &value, bytes); /* little-endian */
}

static void put_string(struct buffer *b, const char *text)
{
    put(b, strlen(text), 8);
    buffer_append_text(b, text);
}

static void put_head(struct buffer *b, uint64_t tensors, uint64_t keys)
{
    buffer_append_text(b, "GGUF");
    put(b, 3, 4);
    put(b, tensors, 8);
    put(b, keys, 8);
}

static void put_u32(struct buffer *b, const char *key, uint32_t value)
{
    put_string(b, key);
    put(b, 4, 4);
    put(b, value, 4);
}

static void put_tensor(struct buffer *b, const char *name, uint64_t width, uint64_t rows,
                       uint32_t type, uint64_t offset)
{
    put_string(b, name);
    put(b, 2, 4);
    put(b, width, 8);
    put(b, rows, 8);
    put(b, type, 4);
    put(b, offset, 8);
}

static void pad(struct buffer *b)
{
    while (b->size % 32)
        buffer_append_byte(b, 0);
}

static const char *path_of(const char *name)
{
    static char path[200];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A small file with a value of every kind. */
static void put_sample(struct buffer *b)
{
    put_head(b, 3, 8);
    put_string(b, "general.architecture");
    put(b, 8, 4);
    put_string(b, "sample");
    put_u32(b, "general.alignment", 32);
    put_string(b, "a.signed");
    put(b, 5, 4);
    put(b, (uint32_t)-7, 4);
    put_string(b, "a.float");
    put(b, 6, 4);
    put(b, 0x3fc00000, 4); /* 1.5 */
    put_string(b, "a.bool");
    put(b, 7, 4);
    put(b, 1, 1);
    put_string(b, "a.bools");
    put(b, 9, 4);
    put(b, 7, 4);
    put(b, 3, 8);
    put(b, 0x010001, 3);
    put_string(b, "a.strings");
    put(b, 9, 4);
    put(b, 8, 4);
    put(b, 3, 8);
    put_string(b, "one");
    put_string(b, "");
    put_string(b, "three\n");
    put_string(b, "a.large");
    put(b, 10, 4);
    put(b, UINT64_MAX, 8);
    put_tensor(b, "vector", 3, 1, DTYPE_F32, 0);
    put_tensor(b, "matrix", 64, 2, DTYPE_Q8_0, 32);
    put_tensor(b, "bytes", 5, 1, DTYPE_I8, 192);
    pad(b);
    for (int i = 0; i < 3; i++)
        put(b, 0x40000000, 4); /* 2.0 */
    pad(b);
    for (int i = 0; i < 2 * 2 * 34; i++)
        put(b, (uint64_t)i & 255, 1);
    pad(b);
    put(b, 0x0504030201, 5);
}

static bool open_bytes(const struct buffer *b, struct weights **out, struct status *st)
{
    write_file("case.gguf", b->data, b->size);
    return weights_open(out, path_of("case.gguf"), st);
}

/* The file must be refused with that code and a text that holds `field`. */
static void refuse(struct buffer *b, enum status_code code, const char *field)
{
    struct weights *w = NULL;
    struct status st = {0};
    assert_false(open_bytes(b, &w, &st));
    if (st.code != code || !strstr(st.text, field))
        fail_msg("expected %s and '%s', got %s: %s", status_name(code), field, status_name(st.code),
                 st.text);
    assert_null(w);
    buffer_clear(b);
}

/* Look at everything an opened file offers. */
static void touch_all(const struct weights *w)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < weights_tensors(w); i++) {
        const struct tensor_view *t = weights_at(w, i);
        const uint8_t *data = t->data;
        assert_ptr_equal(weights_find(w, t->name), t);
        sum = (uint8_t)(sum + data[0] + data[t->size_bytes - 1]);
    }
    for (size_t i = 0; i < weights_keys(w); i++) {
        char value[40];
        const char *key;
        struct status st = {0};
        struct span text;
        weights_show_key(w, i, &key, value, sizeof value);
        assert_true(strlen(value) < sizeof value);
        assert_true(weights_has(w, key));
        if (weights_string(w, key, &text, &st) && text.size)
            sum = (uint8_t)(sum + text.data[text.size - 1]);
    }
}

/* ---- refused ---- */

static void test_not_there(void **state)
{
    (void)state;
    struct weights *w = NULL;
    struct status st = {0};
    assert_false(weights_open(&w, path_of("none.gguf"), &st));
    assert_int_equal(st.code, STATUS_NOT_FOUND);
    assert_false(weights_open(&w, folder, &st));
    assert_int_equal(st.code, STATUS_INVALID);
    write_file("empty.gguf", "", 0);
    assert_false(weights_open(&w, path_of("empty.gguf"), &st));
    assert_int_equal(st.code, STATUS_CORRUPT);
    write_file("text.gguf", "hello", 5);
    assert_false(weights_open(&w, path_of("text.gguf"), &st));
    assert_non_null(strstr(st.text, "magic"));
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct buffer b = {0};
    put_sample(&b);
    size_t whole = b.size;
    for (size_t n = 0; n < whole; n++) {
        struct weights *w = NULL;
        struct status st = {0};
        b.size = n;
        assert_false(open_bytes(&b, &w, &st));
        assert_true(st.text[0] != 0);
    }
    buffer_clear(&b);
}

static void test_every_bit_flipped(void **state)
{
    (void)state;
    struct buffer b = {0};
    size_t opened = 0, refused = 0;
    put_sample(&b);
    size_t header = b.size - 32 - 160 - 5;
    for (size_t bit = 0; bit < header * 8; bit++) {
        struct weights *w = NULL;
        struct status st = {0};
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (open_bytes(&b, &w, &st)) {
            touch_all(w);
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
    uint64_t seed = 20261124;
    put_sample(&whole);
    print_message("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < 3000; i++) {
        struct weights *w = NULL;
        struct status st = {0};
        buffer_reset(&b);
        buffer_append(&b, whole.data, whole.size);
        for (size_t k = 0; k < 1 + i % 4; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            b.data[(seed >> 33) % b.size] = (uint8_t)(seed >> 20);
        }
        if (open_bytes(&b, &w, &st))
            touch_all(w);
        weights_close(w);
    }
    buffer_clear(&whole);
    buffer_clear(&b);
}

static void test_huge_counts(void **state)
{
    (void)state;
    struct buffer b = {0};
    put_head(&b, UINT64_MAX, 0);
    refuse(&b, STATUS_LIMIT, "tensor count");
    put_head(&b, 0, 1 << 20);
    refuse(&b, STATUS_LIMIT, "metadata count");
    put_head(&b, 65536, 65536);
    refuse(&b, STATUS_CORRUPT, "more than the file can hold");
    put_head(&b, 0, 1);
    put(&b, UINT64_MAX, 8);
    put(&b, 0, 8);
    refuse(&b, STATUS_LIMIT, "key: length");
    put_head(&b, 0, 1);
    put_string(&b, "k");
    put(&b, 8, 4);
    put(&b, UINT64_MAX, 8);
    refuse(&b, STATUS_CORRUPT, "'k'");
    for (uint32_t type = 0; type < 13; type++) { /* an array of too many of each type */
        put_head(&b, 0, 1);
        put_string(&b, "k");
        put(&b, 9, 4);
        put(&b, type, 4);
        put(&b, type % 2 ? UINT64_MAX : 1 << 24, 8);
        put(&b, UINT64_MAX, 8);
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
    put_head(b, 1, 0);
    put_tensor(b, "t", width, rows, type, offset);
    pad(b);
    for (size_t i = 0; i < 64; i++)
        put(b, 0, 1);
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
    put_head(&b, 2, 0);
    put_tensor(&b, "t", 1, 1, DTYPE_I8, 0);
    put_tensor(&b, "t", 1, 1, DTYPE_I8, 0);
    pad(&b);
    put(&b, 0, 1);
    refuse(&b, STATUS_CORRUPT, "tensor 't' occurs twice");
}

static void test_keys_refused(void **state)
{
    (void)state;
    struct buffer b = {0};
    put_head(&b, 0, 2);
    put_u32(&b, "k", 1);
    put_u32(&b, "k", 2);
    refuse(&b, STATUS_CORRUPT, "metadata 'k' occurs twice");
    const uint32_t alignments[] = {0, 1, 4, 24, 33, 1u << 31};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        put_head(&b, 0, 1);
        put_u32(&b, "general.alignment", alignments[i]);
        refuse(&b, STATUS_CORRUPT, "general.alignment");
    }
    put_head(&b, 0, 1);
    put_string(&b, "general.alignment");
    put(&b, 8, 4);
    put_string(&b, "32");
    refuse(&b, STATUS_CORRUPT, "general.alignment");
    put_head(&b, 0, 1);
    put(&b, 3, 8);
    buffer_append(&b, "a\0b", 3);
    put(&b, 4, 4);
    put(&b, 0, 8);
    refuse(&b, STATUS_CORRUPT, "zero byte");
    put_head(&b, 0, 1);
    put_string(&b, "k");
    put(&b, 7, 4);
    put(&b, 2, 1);
    refuse(&b, STATUS_CORRUPT, "bool of 2");
    put_head(&b, 0, 1);
    put_string(&b, "k");
    put(&b, 13, 4);
    put(&b, 2, 8);
    refuse(&b, STATUS_CORRUPT, "value type 13");
}

/* ---- read ---- */

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

    put_sample(&b);
    if (!open_bytes(&b, &w, &st))
        fail_msg("%s", st.text);
    touch_all(w);
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
    put_sample(&b);
    assert_true(open_bytes(&b, &w, &st));
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
    assert_int_equal(truncate(path_of("case.gguf"), (off_t)(b.size - 5 - 160 + 64)), 0);
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
    put_head(&b, 1, 3);
    put_u32(&b, "split.no", no);
    put_u32(&b, "split.count", count);
    put_u32(&b, "split.tensors.count", tensors);
    put_tensor(&b, tensor, 8, 1, DTYPE_I8, 0);
    pad(&b);
    put(&b, 0x0101010101010101u * (no + 1), 8);
    write_file(file, b.data, b.size);
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
    assert_false(weights_open(&w, path_of("m-00001-of-00003.gguf"), &st));
    assert_int_equal(st.code, STATUS_NOT_FOUND);
    assert_non_null(strstr(st.text, "m-00003-of-00003.gguf"));
    write_piece("m-00003-of-00003.gguf", "c", 2, 3, 3);
    if (!weights_open(&w, path_of("m-00001-of-00003.gguf"), &st))
        fail_msg("%s", st.text);
    touch_all(w);
    assert_int_equal(weights_tensors(w), 3);
    assert_int_equal(*(const uint8_t *)weights_find(w, "c")->data, 3);
    assert_true(weights_u64(w, "split.no", &no, &st) && no == 0);
    weights_close(w);
    w = NULL;
    assert_false(weights_open(&w, path_of("m-00002-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "give the first one"));
    write_piece("m-00003-of-00003.gguf", "a", 2, 3, 3); /* the same name again */
    assert_false(weights_open(&w, path_of("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "'a' occurs twice"));
    write_piece("m-00003-of-00003.gguf", "c", 1, 3, 3); /* another number */
    assert_false(weights_open(&w, path_of("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "piece 3: split.no"));
    write_piece("m-00001-of-00003.gguf", "a", 0, 3, 9);
    write_piece("m-00003-of-00003.gguf", "c", 2, 3, 3);
    assert_false(weights_open(&w, path_of("m-00001-of-00003.gguf"), &st));
    assert_non_null(strstr(st.text, "split.tensors.count"));
    write_piece("other.gguf", "a", 0, 3, 3);
    assert_false(weights_open(&w, path_of("other.gguf"), &st));
    assert_non_null(strstr(st.text, "must be named"));
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
    touch_all(w);
    weights_close(w);
    print_message("opened in %.1f ms\n", (double)took / 1e3);
    assert_true(took < 500000);
}

static int make_folder(void **state)
{
    (void)state;
    if (access("/dev/shm", W_OK) != 0)
        (void)strcpy(folder, "/tmp/millrace-weights-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const files[] = {"case.gguf",
                                        "empty.gguf",
                                        "text.gguf",
                                        "other.gguf",
                                        "m-00001-of-00003.gguf",
                                        "m-00002-of-00003.gguf",
                                        "m-00003-of-00003.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        (void)unlink(path_of(files[i]));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_there),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_bit_flipped),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_huge_counts),
        cmocka_unit_test(test_tensors_refused),
        cmocka_unit_test(test_keys_refused),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_split_files),
        cmocka_unit_test(test_real_vocabulary),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
