/* Messages and counted bytes. */
#include "proto/msg.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct msg msg;

/* Add a blob whose bytes do not fit what is said of them: our bug, so it must abort. */
static void add_a_lie(void)
{
    (void)close(STDERR_FILENO);
    msg_add_take(&msg, "x", BLOB_I32, (size_t[]){2}, 1, blob_new(7));
}

static void add_too_many(void)
{
    (void)close(STDERR_FILENO);
    for (size_t i = 0; i <= BLOBS_MAX; i++)
        msg_add_take(&msg, "x", BLOB_U8, (size_t[]){0}, 1, blob_new(0));
}

static void drop_twice(void)
{
    struct blob *blob = blob_new(4);

    (void)close(STDERR_FILENO);
    blob_drop(blob);
    blob_drop(blob); /* NOLINT(clang-analyzer-unix.Malloc): the point of it */
}

static bool aborts(void (*body)(void))
{
    int how = 0;
    pid_t child = fork();

    if (child == 0) {
        body();
        _exit(0);
    }
    (void)waitpid(child, &how, 0);
    return !WIFEXITED(how) || WEXITSTATUS(how) != 0;
}

static void test_what_cannot_be_aborts(void **state)
{
    (void)state;
    assert_true(aborts(add_a_lie));
    assert_true(aborts(add_too_many));
#if defined(__SANITIZE_ADDRESS__)
    assert_true(aborts(drop_twice));
#else
    (void)drop_twice; /* only a sanitizer is sure to see it */
#endif
}

static int released;

static void release(void *context)
{
    released += *(int *)context;
}

static void test_bytes_go_with_their_last_user(void **state)
{
    static uint64_t foreign[2];
    int weight = 7;

    (void)state;
    struct blob *blob = blob_wrap(foreign, sizeof foreign, release, &weight);
    assert_ptr_equal(blob_data(blob), foreign);
    assert_int_equal(blob_size(blob), 16);
    assert_ptr_equal(blob_keep(blob), blob);
    blob_drop(blob);
    assert_int_equal(released, 0);
    blob_drop(blob);
    assert_int_equal(released, 7);
    blob_drop(NULL);
    blob = blob_copy("abc", 3);
    assert_int_equal((uintptr_t)blob_data(blob) % 8, 0);
    assert_memory_equal(blob_data(blob), "abc", 3);
    blob_drop(blob);
}

static void test_blobs_are_found_by_name(void **state)
{
    (void)state;
    msg_add_take(&msg, "image.rgb", BLOB_U8, (size_t[]){2, 1, 3}, 3, blob_new(6));
    msg_add_take(&msg, "ids", BLOB_I32, (size_t[]){2}, 1, blob_new(8));
    msg_add_take(&msg, "image.rgb", BLOB_U8, (size_t[]){0}, 1, blob_new(0));
    assert_int_equal(msg_find(&msg, "ids", 0), 1);
    assert_int_equal(msg_find(&msg, "ids", 1), -1);
    assert_int_equal(msg_find(&msg, "image.rgb", 0), 0);
    assert_int_equal(msg_find(&msg, "image.rgb", 1), 2);
    assert_int_equal(msg_find(&msg, "image", 0), -1);
    msg_clear(&msg);
    assert_int_equal(msg.head.n_blobs, 0);
    msg_clear(&msg);
}

static void test_names(void **state)
{
    struct rid rid = {.bytes = {0x00, 0x1f, 0xa0, [15] = 0xff}};
    struct rid other = rid;

    (void)state;
    assert_string_equal(rid_hex(rid).text, "001fa0000000000000000000000000ff");
    assert_true(rid_equal(rid, other));
    other.bytes[15] = 0;
    assert_false(rid_equal(rid, other));
    assert_string_equal(msg_kind_name(MSG_MORE_INPUT), "more");
    assert_string_equal(msg_kind_name(MSG_BYE), "bye");
    assert_string_equal(msg_kind_name(MSG_KINDS), "unknown");
    assert_int_equal(blob_type_size(BLOB_BF16), 2);
    assert_int_equal(blob_type_size(BLOB_F32), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_cannot_be_aborts),
        cmocka_unit_test(test_bytes_go_with_their_last_user),
        cmocka_unit_test(test_blobs_are_found_by_name),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
