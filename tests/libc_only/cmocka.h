/* cmocka.h - what our tests use of cmocka, for builds that have no library but libc: programs for
 * other processors. Output as cmocka's own. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(function)                                                                 \
    {                                                                                              \
        .name = #function, .run = (function)                                                       \
    }
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    stand_in_run(tests, sizeof(tests) / sizeof *(tests), setup, teardown)

/* setup and teardown may be NULL. Returns how many tests failed. */
int stand_in_run(const struct CMUnitTest *tests, size_t n, int (*setup)(void **state),
                 int (*teardown)(void **state));
/* Ends the running test. */
_Noreturn void stand_in_end(int skipped);

#define print_message(...) ((void)printf(__VA_ARGS__))
#define skip() stand_in_end(1)
#define fail() stand_in_end(0)
#define fail_msg(...)                                                                              \
    ((void)printf("%s:%d: ", __FILE__, __LINE__), (void)printf(__VA_ARGS__), (void)putchar('\n'),  \
     stand_in_end(0))
#define stand_in_check(holds, what) ((holds) ? (void)0 : fail_msg("%s", what))
#define assert_true(x) stand_in_check(x, "not true: " #x)
#define assert_false(x) stand_in_check(!(x), "not false: " #x)
#define assert_null(x) stand_in_check(!(x), "not NULL: " #x)
#define assert_non_null(x) stand_in_check(x, "NULL: " #x)
#define assert_int_equal(a, b)                                                                     \
    stand_in_check((uintmax_t)(a) == (uintmax_t)(b), "not equal: " #a ", " #b)
#define assert_ptr_equal(a, b) stand_in_check((a) == (b), "not equal: " #a ", " #b)
#define assert_string_equal(a, b) stand_in_check(strcmp(a, b) == 0, "not equal: " #a ", " #b)
#define assert_memory_equal(a, b, n) stand_in_check(memcmp(a, b, n) == 0, "not equal: " #a ", " #b)
