#include "tests/services/stage/rehearsal.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "proto/codec.h"
#include "services/stage/stage.h"
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

/* ---- the stage ---- */

struct held {
    struct rid rid;
    uint32_t epoch;
    bool held;
    int ticks; /* results still to come from tick */
};

static struct msg reply;
static struct held slots[REHEARSAL_SLOTS];

static bool test_open(void **out_self, const struct stage_options *options,
                      struct stage_hello *hello, struct status *st)
{
    static int self;

    if (strcmp(stage_option(options, "colour", "red"), "none") == 0)
        return status_fail(st, STATUS_NOT_FOUND, "no colour");
    *out_self = &self;
    *hello = (struct stage_hello){.model = 77, .numerics = "test-1", .slots = REHEARSAL_SLOTS};
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
    for (size_t i = 0; i < REHEARSAL_SLOTS; i++) {
        if (slots[i].held)
            continue;
        slots[i] = (struct held){.rid = rid, .epoch = job->head.epoch, .held = true};
        slots[i].ticks = span_is(what, "tick") ? 3 : 0;
        return true;
    }
    return status_fail(st, STATUS_BUSY, "no room");
}

static struct held *find(struct rid rid, uint32_t epoch)
{
    for (size_t i = 0; i < REHEARSAL_SLOTS; i++)
        if (slots[i].held && rid_equal(slots[i].rid, rid) && slots[i].epoch == epoch)
            return &slots[i];
    return NULL;
}

static bool test_more(void *self, const struct msg *more, struct outbox *out, enum fault *fault,
                      struct status *st)
{
    struct held *slot = find(more->head.rid, more->head.epoch);

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
    struct held *slot = find(rid, epoch);

    (void)self;
    if (slot)
        slot->held = false;
}

static int test_tick(void *self, struct outbox *out)
{
    bool busy = false;

    (void)self;
    for (size_t i = 0; i < REHEARSAL_SLOTS; i++) {
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
    for (size_t i = 0; i < REHEARSAL_SLOTS && n < max; i++)
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

pid_t rehearsal_start(const char *const *options, int stdout_fd)
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

int rehearsal_exit_status(pid_t pid)
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

int rehearsal_setup(void **state)
{
    (void)state;
    if (!fake_gateway_place())
        return -1;
    /* Before the bus: the child must not have the parent's ZeroMQ. */
    fake.child = rehearsal_start((const char *[]){"--bus", fake.address, "--seat", "here/test/0",
                                                  "--start=00000000000000ff", NULL},
                                 -1);
    return fake_gateway_open() ? 0 : -1;
}

int rehearsal_teardown(void **state)
{
    (void)state;
    return fake_gateway_close() ? 0 : -1;
}

void tell_kind(enum msg_kind kind)
{
    fake.out = (struct msg){.head = {.kind = kind}};
    tell();
}

void tell_refuse(enum status_code code)
{
    fake.out = (struct msg){.head = {.kind = MSG_REFUSE, .code = code, .text = "say hello"}};
    tell();
}

struct rid rid_of(uint8_t n)
{
    return (struct rid){.bytes = {n, 1}};
}

void tell_job(uint8_t n, uint32_t epoch, const char *what, int64_t ms_left)
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

void tell_more(uint8_t n, uint32_t seq, bool last)
{
    fake.out = (struct msg){
        .head = {.kind = MSG_MORE_INPUT, .rid = rid_of(n), .epoch = 1, .seq = seq, .last = last}};
    tell();
}

void expect_result(uint8_t n, uint32_t epoch, uint32_t seq, bool last, const char *text)
{
    expect(MSG_RESULT);
    assert_true(rid_equal(fake.in.head.rid, rid_of(n)));
    assert_int_equal(fake.in.head.epoch, epoch);
    assert_int_equal(fake.in.head.seq, seq);
    assert_int_equal(fake.in.head.last, last);
    assert_int_equal(fake.in.head.n_blobs, 1);
    assert_true(span_is(span_of(blob_data(fake.in.blobs[0]), blob_size(fake.in.blobs[0])), text));
}

void expect_failed(uint8_t n, enum status_code code, enum fault fault)
{
    expect(MSG_FAILED);
    assert_true(rid_equal(fake.in.head.rid, rid_of(n)));
    if (fake.in.head.code != code || fake.in.head.fault != fault)
        fail_msg("code %d fault %d: %s", (int)fake.in.head.code, (int)fake.in.head.fault,
                 fake.in.head.text);
}

void expect_credit(uint32_t n)
{
    expect(MSG_CREDIT);
    assert_int_equal(fake.in.head.n, n);
}
