/* The foundation: status, heap guard, arena, bytes, UTF-8, pool. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "engine/base/arena.h"
#include "engine/base/bytes.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/base/pages.h"
#include "engine/base/pool.h"
#include "engine/base/schedule.h"
#include "engine/base/status.h"
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_status_keeps_the_outermost_first(void **state)
{
    (void)state;
    struct status st = {0};

    assert_false(status_fail(&st, STATUS_CORRUPT, "shorter than %d bytes", 4));
    assert_false(status_wrap(&st, "header"));
    assert_false(status_wrap(&st, "weights '%s'", "a.gguf"));
    assert_int_equal(st.code, STATUS_CORRUPT);
    assert_string_equal(st.text, "weights 'a.gguf': header: shorter than 4 bytes");
    for (int i = 0; i < 100; i++)
        assert_false(status_wrap(&st, "a long, long, long, long, long, long outer part %d", i));
    assert_true(strlen(st.text) < sizeof st.text);
    assert_string_equal(status_name(STATUS_POISON), "poison");
    assert_string_equal(status_name((enum status_code)999), "unknown");
}

static void test_quotes_of_the_log_hold(void **state)
{
    char text[2000];

    (void)state;
    assert_string_equal(log_quoted("").text, "\"\"");
    assert_string_equal(log_quoted("a b=c").text, "\"a b=c\"");
    assert_string_equal(log_quoted("a\" b=\\").text, "\"a\\\" b=\\\\\"");
    memset(text, '"', sizeof text);
    for (size_t n = 0; n < sizeof text; n++) {
        text[n] = 0;
        struct log_quoted quoted = log_quoted(text);
        size_t size = strlen(quoted.text);
        assert_true(size == 2 * n + 2 || (size < sizeof quoted.text && size >= 500));
        assert_int_equal(size % 2, 0);
        assert_int_equal(quoted.text[size - 1], '"');
        text[n] = '"';
    }
}

static void allocate_under_guard(void)
{
    (void)close(STDERR_FILENO);
    heap_guard_on("test");
    heap_free(heap_new(1, 1));
}

static void overflow(void)
{
    (void)close(STDERR_FILENO);
    heap_free(heap_new((size_t)1 << 40, (size_t)1 << 40));
}

static bool aborts(void (*body)(void))
{
    pid_t child = fork();
    int how = 0;

    if (child == 0) {
        body();
        _exit(0);
    }
    (void)waitpid(child, &how, 0);
    return WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT;
}

static void test_heap_guard_and_overflow_abort(void **state)
{
    (void)state;
    assert_true(aborts(allocate_under_guard));
    assert_true(aborts(overflow));
}

static void test_arena_is_bounded_and_aligned(void **state)
{
    (void)state;
    struct arena arena;

    arena_init(&arena, 1000);
    assert_null(arena_try(&arena, 1001, 1));
    assert_null(arena_try(&arena, (size_t)1 << 33, (size_t)1 << 33));
    char *a = arena_array(&arena, char, 10);
    char *b = arena_array(&arena, char, 10);
    assert_int_equal((uintptr_t)a % ARENA_ALIGN, 0);
    assert_true(b >= a + 10);
    assert_null(arena_try(&arena, 950, 1));
    arena_reset(&arena);
    assert_non_null(arena_try(&arena, 900, 1));
    arena_clear(&arena);
}

static void test_buffer_grows(void **state)
{
    (void)state;
    struct buffer buffer = {0};

    for (int i = 0; i < 1000; i++)
        buffer_printf(&buffer, "%d,", i % 10);
    assert_int_equal(buffer.size, 2000);
    assert_memory_equal(buffer.data + 1996, "8,9,", 4);
    buffer_clear(&buffer);
    assert_null(buffer.data);
}

static void test_numbers(void **state)
{
    (void)state;
    static const char *const refused[] = {"",    " 1",  "1 ", "-1", "+1",
                                          "0x1", "1e1", "4",  "10", "18446744073709551616"};
    uint64_t value = 99;

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_false(span_number(span_text(refused[i]), 5, 9, &value));
    assert_false(span_number(span_of(NULL, 0), 0, UINT64_MAX, &value));
    assert_int_equal(value, 99);
    assert_true(span_number(span_text("007"), 5, 9, &value));
    assert_int_equal(value, 7);
    assert_true(span_number(span_text("18446744073709551615"), 0, UINT64_MAX, &value));
    assert_true(value == UINT64_MAX);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80", "\xC0\x80",         "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
        "\xF5", "\xF0\x80\x80\x80", "\xE2\x82", "\xFF"};
    uint8_t bytes[4];
    uint32_t back;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(utf8_valid_prefix((const uint8_t *)bad[i], strlen(bad[i])), 0);
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        if (code >= 0xD800 && code <= 0xDFFF)
            continue;
        size_t n = utf8_encode(code, bytes);
        assert_int_equal(utf8_decode(bytes, n, &back), n);
        assert_int_equal(back, code);
        assert_int_equal(utf8_decode(bytes, n - 1, &back), 0);
    }
}

#define POOL_N ((size_t)10007)
#define POOL_THREADS 4

struct covered {
    unsigned char seen[POOL_N];
    size_t ends[POOL_THREADS]; /* of each thread's last piece */
    size_t back[POOL_THREADS]; /* pieces that lie before the thread's last one */
};

static void count(void *context, size_t begin, size_t end, size_t thread)
{
    struct covered *c = context;

    for (size_t i = begin; i < end; i++)
        c->seen[i]++;
    c->back[thread] += begin < c->ends[thread];
    c->ends[thread] = end;
}

static void test_pool_covers_every_element_once(void **state)
{
    (void)state;
    static struct covered c;

    for (size_t threads = 1; threads <= POOL_THREADS; threads++) {
        struct pool *pool = pool_new(threads);
        for (size_t round = 0; round < 400; round++) {
            bool in_order = round % 2;
            memset(&c, 0, sizeof c);
            (in_order ? pool_run_in_order : pool_run)(pool, POOL_N, round / 2 * 7 + 1, count, &c);
            for (size_t i = 0; i < POOL_N; i++)
                assert_int_equal(c.seen[i], 1);
            for (size_t i = 0; in_order && i < threads; i++)
                assert_int_equal(c.back[i], 0);
        }
        pool_free(pool);
    }
}

static void test_files_have_a_limit(void **state)
{
    (void)state;
    struct buffer out = {0};
    struct status st = {0};

    assert_false(bytes_read_file(&out, "/does/not/exist", 10, &st));
    assert_int_equal(st.code, STATUS_SYSTEM);
    assert_false(bytes_read_file(&out, "/proc/self/maps", 10, &st));
    assert_int_equal(st.code, STATUS_TOO_LARGE);
    assert_null(out.data);
    assert_true(bytes_read_file(&out, "/proc/self/maps", 1 << 24, &st));
    assert_true(out.size > 10);
    buffer_clear(&out);
}

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_memory_ends_where_a_group_says(void **state)
{
    (void)state;
    char root[] = "/tmp/millrace-groups-XXXXXX", outer[64], inner[80], command[96];

    assert_non_null(mkdtemp(root));
    (void)snprintf(outer, sizeof outer, "%s/a", root);
    (void)snprintf(inner, sizeof inner, "%s/a/b", root);
    assert_int_equal(mkdir(outer, 0700), 0);
    assert_int_equal(mkdir(inner, 0700), 0);
    assert_true(pages_group_bytes(root, "/a/b") == UINT64_MAX);
    put(inner, "memory.max", "max\n");
    put(inner, "memory.current", "500\n");
    assert_true(pages_group_bytes(root, "/a/b") == UINT64_MAX);
    put(outer, "memory.max", "1000\n");
    put(outer, "memory.current", "700\n");
    put(outer, "memory.stat", "anon 400\nfile 300\nfile_mapped 9\n");
    assert_true(pages_group_bytes(root, "/a/b") == 600);
    assert_true(pages_group_bytes(root, "/") == UINT64_MAX);
    put(inner, "memory.max", "800\n");
    assert_true(pages_group_bytes(root, "/a/b") == 300);
    put(inner, "memory.current", "900\n");
    assert_true(pages_group_bytes(root, "/a/b") == 0);
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
    assert_true(pages_available_bytes() > 0);
}

/* ---- a pool that gives way ---- */

static atomic_uint pieces_done;
static atomic_bool watching;

/* Counts how often it had the core between two pieces. */
static void *watch_pieces(void *context)
{
    unsigned *turns = context, seen = 0;

    while (atomic_load(&watching)) {
        unsigned now = atomic_load(&pieces_done);
        *turns += now != seen;
        seen = now;
        (void)sched_yield();
    }
    return NULL;
}

static void piece(void *context, size_t begin, size_t end, size_t thread)
{
    int64_t until_us = clock_now_us() + 20;

    (void)context, (void)begin, (void)end, (void)thread;
    while (clock_now_us() < until_us)
        continue;
    (void)atomic_fetch_add(&pieces_done, 1);
}

/* How often somebody else had this core while 2000 pieces were done. */
static unsigned turns_of_another(struct pool *pool, int64_t way_us)
{
    unsigned turns = 0;
    pthread_t other;

    atomic_store(&watching, true);
    assert_int_equal(pthread_create(&other, NULL, watch_pieces, &turns), 0);
    pool_give_way(pool, way_us);
    pool_run(pool, 2000, 1, piece, NULL);
    atomic_store(&watching, false);
    (void)pthread_join(other, NULL);
    return turns;
}

/* On one core, which both want: the system changes over a few times in 40 ms by itself. */
static void test_a_pool_gives_way_between_pieces(void **state)
{
    cpu_set_t all, one;
    size_t cpu = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    for (size_t threads = 1; threads <= 2; threads++) {
        struct pool *pool = pool_new(threads);
        unsigned usual = turns_of_another(pool, 0);
        unsigned given = turns_of_another(pool, INT64_C(60000000));
        print_message("%zu threads: %u turns, given way %u\n", threads, usual, given);
        assert_true(given > 100 && given > 2 * usual);
        pool_free(pool);
    }
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* Only the niceness can be asked for everywhere. In a child: it cannot be taken back. */
static void test_who_computes_stands_behind(void **state)
{
    int how = -1, begin = getpriority(PRIO_PROCESS, 0);
    int behind = begin + 10 < 19 ? begin + 10 : 19;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        schedule_at_once();
        int first = getpriority(PRIO_PROCESS, 0);
        schedule_behind();
        _exit(first != begin ? 1 : getpriority(PRIO_PROCESS, 0) != behind ? 2 : 0);
    }
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_keeps_the_outermost_first),
        cmocka_unit_test(test_quotes_of_the_log_hold),
        cmocka_unit_test(test_heap_guard_and_overflow_abort),
        cmocka_unit_test(test_arena_is_bounded_and_aligned),
        cmocka_unit_test(test_buffer_grows),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_pool_covers_every_element_once),
        cmocka_unit_test(test_files_have_a_limit),
        cmocka_unit_test(test_memory_ends_where_a_group_says),
        cmocka_unit_test(test_a_pool_gives_way_between_pieces),
        cmocka_unit_test(test_who_computes_stands_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
