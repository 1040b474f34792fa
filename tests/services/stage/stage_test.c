/* A stage in a child, a bus in the parent that plays gateway. */
#include "engine/base/clock.h"
#include "services/stage/stage.h"
#include "tests/services/stage/rehearsal.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_options_are_refused_in_words(void **state)
{
    (void)state;
    assert_int_equal(
        rehearsal_exit_status(rehearsal_start((const char *[]){"--color", "red", NULL}, -1)), 64);
    assert_int_equal(rehearsal_exit_status(rehearsal_start((const char *[]){"word", NULL}, -1)),
                     64);
    assert_int_equal(rehearsal_exit_status(rehearsal_start((const char *[]){"--colour", NULL}, -1)),
                     64);
    assert_int_equal(
        rehearsal_exit_status(rehearsal_start((const char *[]){"--start", "12", NULL}, -1)), 64);
    assert_int_equal(
        rehearsal_exit_status(rehearsal_start((const char *[]){"--seat", "a b", NULL}, -1)), 64);
    assert_int_equal(
        rehearsal_exit_status(rehearsal_start((const char *[]){"--colour=none", NULL}, -1)), 1);
    assert_int_equal(
        rehearsal_exit_status(rehearsal_start((const char *[]){"--bus", "tcp://*:1", NULL}, -1)),
        1);
}

static void test_help_says_what_it_does(void **state)
{
    int ends[2];
    char text[4096];
    size_t n = 0;
    ssize_t got;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = rehearsal_start((const char *[]){"--help", NULL}, ends[1]);
    (void)close(ends[1]);
    while ((got = read(ends[0], text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    (void)close(ends[0]);
    assert_int_equal(rehearsal_exit_status(pid), 0);
    assert_non_null(strstr(text, "Does what the test wants."));
    assert_non_null(strstr(text, "--colour NAME"));
    assert_non_null(strstr(text, "--bus ADDRESS"));
}

static void test_hello_says_who_it_is(void **state)
{
    (void)state;
    expect(MSG_HELLO);
    assert_string_equal(fake.in.head.stage, "test");
    assert_string_equal(fake.in.head.seat, "here/test/0");
    assert_string_equal(fake.in.head.numerics, "test-1");
    assert_int_equal(fake.in.head.start, 0xff);
    assert_int_equal(fake.in.head.model, 77);
    assert_int_equal(fake.in.head.slots, REHEARSAL_SLOTS);
    assert_int_equal(fake.in.head.wire_min, WIRE_VERSION);
    int64_t begin = clock_now_us();
    expect(MSG_HELLO); /* nobody answered: once more, a second later */
    assert_true(clock_now_us() - begin > 800000);
}

static void test_refused_is_status_2(void **state)
{
    (void)state;
    expect(MSG_HELLO);
    tell_refuse(STATUS_UNAVAILABLE); /* not an answer to hello */
    expect(MSG_HELLO);
    tell_refuse(STATUS_DENIED);
    assert_int_equal(rehearsal_exit_status(fake.child), STAGE_EXIT_REFUSED);
    fake.child = 0;
}

static void test_jobs_and_credits(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "echo", 1000);
    expect_result(1, 1, 0, false, "one");
    expect_result(1, 1, 1, true, "two");
    expect_credit(1);
    tell_job(2, 9, "refuse", 1000);
    expect_failed(2, STATUS_UNSUPPORTED, FAULT_REQUEST);
    assert_string_equal(fake.in.head.text, "not this");
    assert_int_equal(fake.in.head.epoch, 9);
    expect_credit(1);
    tell_job(3, 1, "echo", 0);
    expect_failed(3, STATUS_DEADLINE, FAULT_REQUEST);
    expect_credit(1);
    tell_job(4, 1, "tick", 1000);
    expect_result(4, 1, 0, false, "tick");
    expect_result(4, 1, 1, false, "tick");
    expect_result(4, 1, 2, true, "tick");
    expect_credit(1);
}

static void test_more_has_no_gaps(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    tell_more(1, 0, false);
    expect_result(1, 1, 0, false, "more");
    tell_more(1, 1, true);
    expect_result(1, 1, 1, true, "more");
    expect_credit(1);
    tell_more(1, 2, true); /* of a job that has ended: nothing */
    tell_job(2, 1, "hold", 1000);
    tell_more(2, 1, false);
    expect_failed(2, STATUS_CORRUPT, FAULT_STAGE);
    expect_credit(1);
}

static void test_cancel_and_newer_epochs(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    fake.out = (struct msg){.head = {.kind = MSG_CANCEL, .rid = rid_of(1), .epoch = 7}};
    tell(); /* another epoch: nothing */
    fake.out = (struct msg){.head = {.kind = MSG_CANCEL, .rid = rid_of(1), .epoch = 1}};
    tell();
    expect_credit(1);
    tell(); /* `out` is empty now: a hello without anything in it, which harms nobody */
    tell_job(2, 1, "hold", 1000);
    tell_job(2, 2, "echo", 1000); /* the older is over */
    expect_result(2, 2, 0, false, "one");
    expect_result(2, 2, 1, true, "two");
    expect_credit(2);
}

static void test_without_credit_there_is_no_room(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    for (uint8_t n = 1; n <= REHEARSAL_SLOTS; n++)
        tell_job(n, 1, "hold", 1000);
    tell_job(9, 1, "echo", 1000);
    expect_failed(9, STATUS_BUSY, FAULT_CAPACITY);
    do
        expect(MSG_BEAT);
    while (fake.in.head.held != REHEARSAL_SLOTS);
    assert_int_equal(fake.in.head.n_running, REHEARSAL_SLOTS);
    assert_true(fake.in.head.memory_bytes > 100000);
}

static void test_beats_go_on_during_a_long_job(void **state)
{
    struct status st = {0};
    bool bad;
    int beats = 0;
    uint64_t work = 0;

    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "long", 5000);
    for (int64_t end = clock_now_us() + 3000000; clock_now_us() < end; (void)usleep(1000)) {
        msg_clear(&fake.in);
        if (!bus_receive(fake.bus, &fake.in, &fake.peer, &bad, &st))
            continue;
        if (fake.in.head.kind == MSG_RESULT)
            break;
        beats +=
            fake.in.head.kind == MSG_BEAT && fake.in.head.held == 1 && fake.in.head.work > work;
        work = fake.in.head.work;
    }
    assert_int_equal(fake.in.head.kind, MSG_RESULT);
    assert_true(beats >= 5);
}

static void test_blobs_that_do_not_fit_fail_the_job(void **state)
{
    struct status st = {0};

    (void)state;
    welcome(REHEARSAL_SLOTS);
    fake.out =
        (struct msg){.head = {.kind = MSG_JOB, .rid = rid_of(1), .epoch = 1, .ms_left = 1000}};
    msg_add_take(&fake.out, "x", BLOB_U8, (size_t[]){4}, 1, blob_new(4));
    fake.out.head.blobs[0].dims[0] = 5; /* a lie */
    assert_true(bus_send_take(fake.bus, fake.peer, &fake.out, &st));
    expect_failed(1, STATUS_CORRUPT, FAULT_REQUEST);
    expect_credit(1);
    tell_job(2, 1, "echo", 1000);
    expect_result(2, 1, 0, false, "one");
}

static void test_a_gateway_that_forgot_is_told_again(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    tell_refuse(STATUS_UNAVAILABLE);
    welcome(REHEARSAL_SLOTS); /* hello, and all credit: the job is dropped */
    do
        expect(MSG_BEAT);
    while (fake.in.head.held != 0);
}

static void test_a_gateway_that_was_started_again_is_found(void **state)
{
    struct status st = {0};

    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    do
        expect(MSG_BEAT);
    while (fake.in.head.held == 0);
    bus_close(fake.bus);
    assert_true(bus_open(&fake.bus, fake.address, &st));
    expect(MSG_BEAT); /* it does not know yet */
    tell_refuse(STATUS_UNAVAILABLE);
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 2, "echo", 1000);
    expect_result(1, 2, 0, false, "one");
}

static void test_a_gateway_that_stays_away_is_given_up(void **state)
{
    struct status st = {0};

    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    bus_close(fake.bus);
    (void)usleep(700000); /* ten intervals and more */
    assert_true(bus_open(&fake.bus, fake.address, &st));
    welcome(REHEARSAL_SLOTS);
}

static void test_drain_finishes_what_is_held(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    tell_kind(MSG_DRAIN);
    tell_job(2, 1, "echo", 1000);
    expect_failed(2, STATUS_BUSY, FAULT_CAPACITY);
    tell_more(1, 0, true);
    expect_result(1, 1, 0, true, "more");
    expect(MSG_BYE);
    assert_int_equal(rehearsal_exit_status(fake.child), 0);
    fake.child = 0;
}

static void test_a_signal_ends_it_with_bye(void **state)
{
    (void)state;
    welcome(REHEARSAL_SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    assert_int_equal(kill(fake.child, SIGTERM), 0);
    expect(MSG_BYE);
    assert_int_equal(rehearsal_exit_status(fake.child), 0);
    fake.child = 0;
}

static void test_it_ends_with_its_supervisor(void **state)
{
    int ends[2];
    pid_t grandchild = 0;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    pid_t supervisor = fork();
    if (supervisor == 0) {
        pid_t pid =
            rehearsal_start((const char *[]){"--bus", fake.address, "--start", "0123456789abcdef",
                                             "--seat", "here/test/1", NULL},
                            -1);
        (void)!write(ends[1], &pid, sizeof pid);
        (void)pause();
        _exit(0);
    }
    assert_true(read(ends[0], &grandchild, sizeof grandchild) == sizeof grandchild);
    for (;;) { /* both are there */
        expect(MSG_HELLO);
        if (strcmp(fake.in.head.seat, "here/test/1") == 0)
            break;
    }
    (void)kill(supervisor, SIGKILL);
    (void)waitpid(supervisor, NULL, 0);
    bool gone = false;
    for (int i = 0; i < 2000 && !gone; i++, (void)usleep(1000)) {
        char path[64];
        char text[256] = "";
        (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)grandchild);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)!read(fd, text, sizeof text - 1);
            (void)close(fd);
        }
        gone = fd < 0 || strstr(text, ") Z ") != NULL;
    }
    assert_true(gone);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

#define WITH_STAGE(test) cmocka_unit_test_setup_teardown(test, rehearsal_setup, rehearsal_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_are_refused_in_words),
        cmocka_unit_test(test_help_says_what_it_does),
        WITH_STAGE(test_hello_says_who_it_is),
        WITH_STAGE(test_refused_is_status_2),
        WITH_STAGE(test_jobs_and_credits),
        WITH_STAGE(test_more_has_no_gaps),
        WITH_STAGE(test_cancel_and_newer_epochs),
        WITH_STAGE(test_without_credit_there_is_no_room),
        WITH_STAGE(test_beats_go_on_during_a_long_job),
        WITH_STAGE(test_blobs_that_do_not_fit_fail_the_job),
        WITH_STAGE(test_a_gateway_that_forgot_is_told_again),
        WITH_STAGE(test_a_gateway_that_was_started_again_is_found),
        WITH_STAGE(test_a_gateway_that_stays_away_is_given_up),
        WITH_STAGE(test_drain_finishes_what_is_held),
        WITH_STAGE(test_a_signal_ends_it_with_bye),
        WITH_STAGE(test_it_ends_with_its_supervisor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
