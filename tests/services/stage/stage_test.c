/* A stage in a child, a bus in the parent that plays gateway. The stage ("test") repeats what it is
 * told in its job's field "do". */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "proto/codec.h"
#include "proto/link.h"
#include "services/stage/stage.h"
#include "tests/proto/fake_gateway.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOTS 3

/* ---- the stage ---- */

struct rehearsal {
    struct rid rid;
    uint32_t epoch;
    bool held;
    int ticks; /* results still to come from tick */
};

static struct msg reply;
static struct rehearsal slots[SLOTS];

static bool test_open(void **out_self, const struct stage_options *options,
                      struct stage_hello *hello, struct status *st)
{
    static int self;

    if (strcmp(stage_option(options, "colour", "red"), "none") == 0)
        return status_fail(st, STATUS_NOT_FOUND, "no colour");
    *out_self = &self;
    *hello = (struct stage_hello){.model = 77, .numerics = "test-1", .slots = SLOTS};
    return true;
}

static void send_text(struct outbox *out, struct rid rid, uint32_t epoch, const char *text,
                      bool last)
{
    size_t size = strlen(text);

    reply = (struct msg){.head = {.last = last}};
    msg_add_take(&reply, "text", BLOB_U8, &size, 1, blob_copy(text, size));
    outbox_result_take(out, rid, epoch, &reply);
}

static bool test_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                     struct status *st)
{
    struct span what = {0};
    struct rid rid = job->head.rid;

    (void)self;
    (void)field_text(job->head.fields, "do", &what);
    if (span_is(what, "echo")) {
        send_text(out, rid, job->head.epoch, "one", false);
        send_text(out, rid, job->head.epoch, "two", true);
        return true;
    }
    if (span_is(what, "refuse")) {
        *fault = FAULT_REQUEST;
        return status_fail(st, STATUS_UNSUPPORTED, "not this");
    }
    if (span_is(what, "long")) { /* longer than the beats that may be missed */
        for (int i = 0; i < 60; i++) {
            (void)usleep(10000);
            outbox_work(out);
        }
        send_text(out, rid, job->head.epoch, "done", true);
        return true;
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (slots[i].held)
            continue;
        slots[i] = (struct rehearsal){.rid = rid, .epoch = job->head.epoch, .held = true};
        slots[i].ticks = span_is(what, "tick") ? 3 : 0;
        return true;
    }
    return status_fail(st, STATUS_BUSY, "no room");
}

static struct rehearsal *find(struct rid rid, uint32_t epoch)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].held && rid_equal(slots[i].rid, rid) && slots[i].epoch == epoch)
            return &slots[i];
    return NULL;
}

static bool test_more(void *self, const struct msg *more, struct outbox *out, enum fault *fault,
                      struct status *st)
{
    struct rehearsal *slot = find(more->head.rid, more->head.epoch);

    (void)self;
    (void)fault;
    if (!slot)
        return status_fail(st, STATUS_INTERNAL, "not held");
    slot->held = !more->head.last;
    send_text(out, more->head.rid, more->head.epoch, "more", more->head.last);
    return true;
}

static void test_cancel(void *self, struct rid rid, uint32_t epoch)
{
    struct rehearsal *slot = find(rid, epoch);

    (void)self;
    if (slot)
        slot->held = false;
}

static int test_tick(void *self, struct outbox *out)
{
    bool busy = false;

    (void)self;
    for (size_t i = 0; i < SLOTS; i++) {
        if (!slots[i].held || slots[i].ticks == 0)
            continue;
        bool last = --slots[i].ticks == 0;
        slots[i].held = !last;
        send_text(out, slots[i].rid, slots[i].epoch, "tick", last);
        busy = true;
    }
    return busy ? 0 : -1;
}

static size_t test_running(void *self, struct rid *rids, size_t max)
{
    size_t n = 0;

    (void)self;
    for (size_t i = 0; i < SLOTS && n < max; i++)
        if (slots[i].held)
            rids[n++] = slots[i].rid;
    return n;
}

static void test_close(void *self)
{
    (void)self;
}

static const struct stage stage = {
    .name = "test",
    .about = "Does what the test wants.",
    .options = (const struct stage_option_row[]){{"colour", "NAME", "of nothing"}, {0}},
    .open = test_open,
    .job = test_job,
    .more = test_more,
    .cancel = test_cancel,
    .tick = test_tick,
    .running = test_running,
    .close = test_close,
};

/* ---- the gateway ---- */

/* Ends without the parent's exit handlers; what it leaks is the parent's. */
static pid_t start_with(const char *const *options, int stdout_fd)
{
    char *argv[16] = {(char *)"millrace-test"};
    int argc = 1;

    for (; *options; options++)
        argv[argc++] = (char *)*options;
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
    (void)dup2(nothing, STDERR_FILENO);
    (void)dup2(stdout_fd >= 0 ? stdout_fd : nothing, STDOUT_FILENO);
    int status = stage_main(&stage, argc, argv);
    (void)fflush(stdout);
    _exit(status);
}

static int exit_status_of(pid_t pid)
{
    int how = 0;

    for (int i = 0; i < 3000; i++) {
        if (waitpid(pid, &how, WNOHANG) == pid)
            return WIFEXITED(how) ? WEXITSTATUS(how) : -WTERMSIG(how);
        (void)usleep(1000);
    }
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &how, 0);
    return -1000;
}

static int setup(void **state)
{
    (void)state;
    if (!fake_gateway_place())
        return -1;
    /* Before the bus: the child must not have the parent's ZeroMQ. */
    fake.child = start_with((const char *[]){"--bus", fake.address, "--seat", "here/test/0",
                                             "--start=00000000000000ff", NULL},
                            -1);
    return fake_gateway_open() ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return fake_gateway_close() ? 0 : -1;
}

static void tell_kind(enum msg_kind kind)
{
    fake.out = (struct msg){.head = {.kind = kind}};
    tell();
}

static void tell_refuse(enum status_code code)
{
    fake.out = (struct msg){.head = {.kind = MSG_REFUSE, .code = code, .text = "say hello"}};
    tell();
}

static struct rid rid_of(uint8_t n)
{
    return (struct rid){.bytes = {n, 1}};
}

static void tell_job(uint8_t n, uint32_t epoch, const char *what, int64_t ms_left)
{
    struct fields_writer w = {0};
    struct buffer fields = {0};

    fields_text(&w, "do", span_text(what));
    fields_finish(&w, &fields);
    fake.out = (struct msg){
        .head = {.kind = MSG_JOB, .rid = rid_of(n), .epoch = epoch, .ms_left = ms_left}};
    fake.out.head.fields = buffer_span(&fields);
    tell();
    buffer_clear(&fields);
}

static void tell_more(uint8_t n, uint32_t seq, bool last)
{
    fake.out = (struct msg){
        .head = {.kind = MSG_MORE_INPUT, .rid = rid_of(n), .epoch = 1, .seq = seq, .last = last}};
    tell();
}

static void expect_result(uint8_t n, uint32_t epoch, uint32_t seq, bool last, const char *text)
{
    expect(MSG_RESULT);
    assert_true(rid_equal(fake.in.head.rid, rid_of(n)));
    assert_int_equal(fake.in.head.epoch, epoch);
    assert_int_equal(fake.in.head.seq, seq);
    assert_int_equal(fake.in.head.last, last);
    assert_int_equal(fake.in.head.n_blobs, 1);
    assert_true(span_is(span_of(blob_data(fake.in.blobs[0]), blob_size(fake.in.blobs[0])), text));
}

static void expect_failed(uint8_t n, enum status_code code, enum fault fault)
{
    expect(MSG_FAILED);
    assert_true(rid_equal(fake.in.head.rid, rid_of(n)));
    if (fake.in.head.code != code || fake.in.head.fault != fault)
        fail_msg("code %d fault %d: %s", (int)fake.in.head.code, (int)fake.in.head.fault,
                 fake.in.head.text);
}

static void expect_credit(uint32_t n)
{
    expect(MSG_CREDIT);
    assert_int_equal(fake.in.head.n, n);
}

/* ---- the tests ---- */

static void test_options_are_refused_in_words(void **state)
{
    (void)state;
    assert_int_equal(exit_status_of(start_with((const char *[]){"--color", "red", NULL}, -1)), 64);
    assert_int_equal(exit_status_of(start_with((const char *[]){"word", NULL}, -1)), 64);
    assert_int_equal(exit_status_of(start_with((const char *[]){"--colour", NULL}, -1)), 64);
    assert_int_equal(exit_status_of(start_with((const char *[]){"--start", "12", NULL}, -1)), 64);
    assert_int_equal(exit_status_of(start_with((const char *[]){"--seat", "a b", NULL}, -1)), 64);
    assert_int_equal(exit_status_of(start_with((const char *[]){"--colour=none", NULL}, -1)), 1);
    assert_int_equal(exit_status_of(start_with((const char *[]){"--bus", "tcp://*:1", NULL}, -1)),
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
    pid_t pid = start_with((const char *[]){"--help", NULL}, ends[1]);
    (void)close(ends[1]);
    while ((got = read(ends[0], text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    (void)close(ends[0]);
    assert_int_equal(exit_status_of(pid), 0);
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
    assert_int_equal(fake.in.head.slots, SLOTS);
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
    assert_int_equal(exit_status_of(fake.child), STAGE_EXIT_REFUSED);
    fake.child = 0;
}

static void test_jobs_and_credits(void **state)
{
    (void)state;
    welcome(SLOTS);
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
    welcome(SLOTS);
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
    welcome(SLOTS);
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
    welcome(SLOTS);
    for (uint8_t n = 1; n <= SLOTS; n++)
        tell_job(n, 1, "hold", 1000);
    tell_job(9, 1, "echo", 1000);
    expect_failed(9, STATUS_BUSY, FAULT_CAPACITY);
    do
        expect(MSG_BEAT);
    while (fake.in.head.held != SLOTS);
    assert_int_equal(fake.in.head.n_running, SLOTS);
    assert_true(fake.in.head.memory_bytes > 100000);
}

static void test_beats_go_on_during_a_long_job(void **state)
{
    struct status st = {0};
    bool bad;
    int beats = 0;
    uint64_t work = 0;

    (void)state;
    welcome(SLOTS);
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
    welcome(SLOTS);
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
    welcome(SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    tell_refuse(STATUS_UNAVAILABLE);
    welcome(SLOTS); /* hello, and all credit: the job is dropped */
    do
        expect(MSG_BEAT);
    while (fake.in.head.held != 0);
}

static void test_a_gateway_that_was_started_again_is_found(void **state)
{
    struct status st = {0};

    (void)state;
    welcome(SLOTS);
    tell_job(1, 1, "hold", 1000);
    do
        expect(MSG_BEAT);
    while (fake.in.head.held == 0);
    bus_close(fake.bus);
    assert_true(bus_open(&fake.bus, fake.address, &st));
    expect(MSG_BEAT); /* it does not know yet */
    tell_refuse(STATUS_UNAVAILABLE);
    welcome(SLOTS);
    tell_job(1, 2, "echo", 1000);
    expect_result(1, 2, 0, false, "one");
}

static void test_a_gateway_that_stays_away_is_given_up(void **state)
{
    struct status st = {0};

    (void)state;
    welcome(SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    bus_close(fake.bus);
    (void)usleep(700000); /* ten intervals and more */
    assert_true(bus_open(&fake.bus, fake.address, &st));
    welcome(SLOTS);
}

static void test_drain_finishes_what_is_held(void **state)
{
    (void)state;
    welcome(SLOTS);
    tell_job(1, 1, "hold", 1000);
    tell_kind(MSG_DRAIN);
    tell_job(2, 1, "echo", 1000);
    expect_failed(2, STATUS_BUSY, FAULT_CAPACITY);
    tell_more(1, 0, true);
    expect_result(1, 1, 0, true, "more");
    expect(MSG_BYE);
    assert_int_equal(exit_status_of(fake.child), 0);
    fake.child = 0;
}

static void test_a_signal_ends_it_with_bye(void **state)
{
    (void)state;
    welcome(SLOTS);
    tell_job(1, 1, "hold", 1000);
    expect(MSG_BEAT);
    assert_int_equal(kill(fake.child, SIGTERM), 0);
    expect(MSG_BYE);
    assert_int_equal(exit_status_of(fake.child), 0);
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
        pid_t pid = start_with((const char *[]){"--bus", fake.address, "--start",
                                                "0123456789abcdef", "--seat", "here/test/1", NULL},
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

#define WITH_STAGE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

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
