/* The stage that proto/README.md shows, cut out of it and run by Python against our bus. */
#include "engine/base/clock.h"
#include "proto/link.h"
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

#define PYTHON "/usr/bin/python3" /* Debian's, which has the packages */

static char directory[64];
static char address[LINK_ADDRESS_MAX];
static char script[80];
static struct bus *bus;
static uint32_t peer;
static pid_t child;
static struct msg in;
static struct msg out;

static bool has_python(void)
{
    return system(PYTHON " -c 'import msgpack, zmq' 2>/dev/null") == 0;
}

/* The text between the first ```python and the next ```. */
static size_t write_script(void)
{
    struct status st = {0};
    struct buffer readme = {0};
    size_t lines = 0;

    if (!bytes_read_file(&readme, "proto/README.md", 1 << 20, &st))
        fail_msg("%s", st.text);
    buffer_append_byte(&readme, 0);
    char *begin = strstr((char *)readme.data, "```python\n");
    assert_non_null(begin);
    begin += strlen("```python\n");
    char *end = strstr(begin, "```\n");
    assert_non_null(end);
    int fd = open(script, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_true(write(fd, begin, (size_t)(end - begin)) == end - begin);
    (void)close(fd);
    for (const char *c = begin; c < end; c++)
        lines += *c == '\n';
    buffer_clear(&readme);
    return lines;
}

static int setup(void **state)
{
    struct status st = {0};

    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/millrace-readme-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    (void)snprintf(address, sizeof address, "ipc://%s/bus", directory);
    (void)snprintf(script, sizeof script, "%s/upper.py", directory);
    return bus_open(&bus, address, &st) ? 0 : -1;
}

static int teardown(void **state)
{
    char path[80];

    (void)state;
    msg_clear(&in);
    bus_close(bus);
    if (child > 0) {
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
    }
    (void)snprintf(path, sizeof path, "%s/bus", directory);
    (void)unlink(path);
    (void)unlink(script);
    return rmdir(directory);
}

static void expect(enum msg_kind kind)
{
    struct status st = {0};
    bool bad = false;

    for (int64_t end = clock_now_us() + 10000000; clock_now_us() < end;) {
        msg_clear(&in);
        if (!bus_receive(bus, &in, &peer, &bad, &st)) {
            (void)usleep(1000);
            continue;
        }
        if (bad)
            fail_msg("bad message: %s", st.text);
        if (in.head.kind == MSG_BEAT && kind != MSG_BEAT)
            continue;
        if (in.head.kind != kind)
            fail_msg("%s came, %s was due", msg_kind_name(in.head.kind), msg_kind_name(kind));
        return;
    }
    fail_msg("%s did not come", msg_kind_name(kind));
}

static void tell(void)
{
    struct status st = {0};

    if (!bus_send_take(bus, peer, &out, &st))
        fail_msg("%s", st.text);
}

static void welcome(void)
{
    expect(MSG_HELLO);
    assert_string_equal(in.head.stage, "upper");
    out = (struct msg){.head = {.kind = MSG_WELCOME, .interval_ms = 50}};
    tell();
    expect(MSG_CREDIT);
    assert_int_equal(in.head.n, 4);
    expect(MSG_BEAT);
}

static void tell_job(uint8_t n, const char *text)
{
    size_t size = strlen(text);

    out = (struct msg){
        .head = {.kind = MSG_JOB, .rid.bytes = {n}, .epoch = n + 1U, .ms_left = 60000}};
    msg_add_take(&out, "other", BLOB_I32, (size_t[]){1}, 1, blob_new(4));
    if (size)
        msg_add_take(&out, "text", BLOB_U8, &size, 1, blob_copy(text, size));
    tell();
}

static void expect_text(uint8_t n, const char *text)
{
    expect(MSG_RESULT);
    assert_int_equal(in.head.rid.bytes[0], n);
    assert_int_equal(in.head.epoch, n + 1);
    assert_int_equal(in.head.seq, 0);
    assert_true(in.head.last);
    int at = msg_find(&in, "text", 0);
    assert_int_equal(at, 0);
    assert_true(span_is(span_of(blob_data(in.blobs[at]), blob_size(in.blobs[at])), text));
    expect(MSG_CREDIT);
    assert_int_equal(in.head.n, 1);
}

static void test_the_stage_in_the_readme(void **state)
{
    int how = 0;

    (void)state;
    if (!has_python()) {
        print_message("%s with msgpack and zmq is not there\n", PYTHON);
        skip();
    }
    assert_true(write_script() <= 50);
    child = fork();
    if (child == 0) {
        (void)execl(PYTHON, PYTHON, script, address, (char *)NULL);
        _exit(127);
    }
    welcome();
    tell_job(1, "gr\u00fc\u00df dich, m\u00fchlrad");
    expect_text(1, "GR\u00dcSS DICH, M\u00dcHLRAD");
    tell_job(2, ""); /* without the blob that it wants */
    expect(MSG_FAILED);
    assert_int_equal(in.head.fault, FAULT_REQUEST);
    assert_int_equal(in.head.code, STATUS_INVALID);
    expect(MSG_CREDIT);
    tell_job(3, "\xff"); /* no text */
    expect(MSG_FAILED);
    expect(MSG_CREDIT);
    out = (struct msg){.head = {.kind = MSG_REFUSE, .code = STATUS_UNAVAILABLE, .text = "hello?"}};
    tell();
    welcome();
    tell_job(4, "again");
    expect_text(4, "AGAIN");
    out = (struct msg){.head = {.kind = MSG_DRAIN}};
    tell();
    expect(MSG_BYE);
    assert_int_equal(waitpid(child, &how, 0), child);
    child = 0;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_stage_in_the_readme, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
