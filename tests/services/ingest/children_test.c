/* children_test.c - the keeper against decoders that die, hang and lie. */
#include "engine/base/clock.h"
#include "services/ingest/children.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HOSTILE "tests/services/ingest/hostile_decoder.py"

static const struct decode_request picture = {.want = WANT_PICTURE, .budget = 4, .tile_px = 8};
static const struct decode_request video = {
    .want = WANT_VIDEO, .budget = 4, .tile_px = 8, .frames_max = 3, .sound_s = 1, .fps = 1};

/* Wait for what happens next, at most `ms`. */
static void rest(struct children *c, int ms)
{
    int fds[CHILDREN_MAX];
    struct pollfd polls[CHILDREN_MAX];
    const size_t n = children_descriptors(c, fds, CHILDREN_MAX);
    for (size_t i = 0; i < n; i++)
        polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    const int wait_ms = children_wait_ms(c);
    (void)poll(polls, (nfds_t)n, wait_ms >= 0 && wait_ms < ms ? wait_ms : ms);
}

static void give_as(struct children *c, const struct decode_request *request, uint64_t ticket,
                    const char *file)
{
    struct status st = {0};
    struct children_end end;
    const int64_t until_us = clock_now_us() + 20 * 1000000LL;
    while (!children_ready(c) && clock_now_us() < until_us) {
        rest(c, 200);
        assert_false(children_poll(c, &end));
    }
    assert_true(children_ready(c));
    assert_true(children_give(c, ticket, request, span_text(file), &st));
}

static void give(struct children *c, uint64_t ticket, const char *file)
{
    give_as(c, &picture, ticket, file);
}

static struct children_end next_end(struct children *c)
{
    struct children_end end = {0};
    const int64_t until_us = clock_now_us() + 20 * 1000000LL;
    while (!children_poll(c, &end)) {
        assert_true(clock_now_us() < until_us);
        rest(c, 200);
    }
    return end;
}

static int open_files(void)
{
    int n = 0;
    for (int fd = 0; fd < 200; fd++)
        n += fcntl(fd, F_GETFD) != -1;
    return n;
}

/* Every deed of the hostile decoder but the good one fails, in words; the next item works. */
static void test_lies(void **state)
{
    (void)state;
    static const struct {
        const char *deed, *words;
        bool died;
    } cases[] = {
        {"k", "signal 11", true},     {"e", "exit status 3", true}, {"s", "not believed", false},
        {"b", "not believed", false}, {"t", "not believed", false}, {"o", "not believed", false},
        {"n", "not believed", false}, {"c", "?[31mxxx", false},     {"z", "ended on it", true},
        {"p", "not believed", false}, {"w", "ended on it", true},
    };
    struct status st = {0};
    struct children *c;
    const int before = open_files();
    assert_true(children_new(&c, HOSTILE, 2, 20000, &st));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        give(c, 100 + i, cases[i].deed);
        const struct children_end end = next_end(c);
        assert_int_equal(end.ticket, 100 + i);
        assert_false(end.ok);
        assert_int_equal(end.died, cases[i].died);
        if (!strstr(end.st.text, cases[i].words))
            fail_msg("deed %s: '%s'", cases[i].deed, end.st.text);
        assert_null(end.bytes.data);
    }
    give(c, 1, "g");
    struct children_end end = next_end(c);
    assert_true(end.ok);
    assert_int_equal(end.height, 8);
    assert_int_equal(end.width, 16);
    assert_int_equal(end.bytes.size, 8 * 16 * 3);
    buffer_clear(&end.bytes);
    children_free(c);
    assert_int_equal(open_files(), before);
}

/* A result of a video: as many frames, times and samples as were wanted, and no more. */
static void test_lies_about_a_video(void **state)
{
    (void)state;
    struct status st = {0};
    struct children *c;
    assert_true(children_new(&c, HOSTILE, 2, 20000, &st));
    static const char *const lies[] = {"4 frames",    "many in file", "long",   "loud",
                                       "a byte more", "0 frames",     "picture"};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char deed[32];
        (void)snprintf(deed, sizeof deed, "v%s", lies[i]);
        give_as(c, &video, i, deed);
        const struct children_end end = next_end(c);
        if (end.ok || !strstr(end.st.text, "not believed"))
            fail_msg("%s: '%s'", lies[i], end.st.text);
    }
    give_as(c, &video, 9, "vtruth");
    struct children_end end = next_end(c);
    assert_true(end.ok);
    assert_int_equal(end.frames, 3);
    assert_int_equal(end.samples, 16000);
    assert_int_equal(end.length_ms, 3210);
    assert_int_equal(end.bytes.size, 3 * (8 * 16 * 3 + 4) + 64000);
    assert_string_equal(end.note, "left ?out");
    buffer_clear(&end.bytes);
    children_free(c);
}

static void test_hangs(void **state)
{
    (void)state;
    struct status st = {0};
    struct children *c;
    assert_true(children_new(&c, HOSTILE, 1, 300, &st));
    give(c, 7, "h");
    const struct children_end end = next_end(c);
    assert_false(end.ok);
    assert_int_equal(end.st.code, STATUS_LIMIT);
    assert_non_null(strstr(end.st.text, "took more than"));
    children_free(c);
}

static void test_cancelled_has_no_end(void **state)
{
    (void)state;
    struct status st = {0};
    struct children *c;
    assert_true(children_new(&c, HOSTILE, 2, 20000, &st));
    give(c, 7, "h");
    children_cancel(c, 7);
    give(c, 8, "g");
    struct children_end end = next_end(c);
    assert_int_equal(end.ticket, 8);
    buffer_clear(&end.bytes);
    children_free(c);
}

/* A program that cannot be started, and one that starts and ends at once. */
static void test_broken(void **state)
{
    (void)state;
    struct status st = {0};
    struct children *c;
    struct children_end end;
    assert_false(children_new(&c, "/does/not/exist", 1, 20000, &st));
    assert_int_equal(st.code, STATUS_SYSTEM);
    assert_true(children_new(&c, "/bin/false", 1, 20000, &st));
    for (int i = 0; i < 100 && !children_broken(c); i++) {
        rest(c, 100);
        assert_false(children_poll(c, &end));
    }
    assert_non_null(children_broken(c));
    assert_non_null(strstr(children_broken(c)->text, "exit status 1"));
    children_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lies),   cmocka_unit_test(test_lies_about_a_video),
        cmocka_unit_test(test_hangs),  cmocka_unit_test(test_cancelled_has_no_end),
        cmocka_unit_test(test_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
