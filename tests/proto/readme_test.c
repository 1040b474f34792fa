/* The stage that proto/README.md shows, cut out of it and run by Python against our bus. */
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

#define PYTHON "/usr/bin/python3" /* Debian's, which has the packages */

static char script[80];

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
    (void)state;
    if (!fake_gateway_place())
        return -1;
    (void)snprintf(script, sizeof script, "%s/upper.py", fake.directory);
    return fake_gateway_open() ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(script);
    return fake_gateway_close() ? 0 : -1;
}

static void welcome_upper(void)
{
    welcome(4);
    expect(MSG_BEAT);
}

static void tell_job(uint8_t n, const char *text)
{
    size_t size = strlen(text);

    fake.out = (struct msg){
        .head = {.kind = MSG_JOB, .rid.bytes = {n}, .epoch = n + 1U, .ms_left = 60000}};
    msg_add_take(&fake.out, "other", BLOB_I32, (size_t[]){1}, 1, blob_new(4));
    if (size)
        msg_add_take(&fake.out, "text", BLOB_U8, &size, 1, blob_copy(text, size));
    tell();
}

static void expect_text(uint8_t n, const char *text)
{
    expect(MSG_RESULT);
    assert_int_equal(fake.in.head.rid.bytes[0], n);
    assert_int_equal(fake.in.head.epoch, n + 1);
    assert_int_equal(fake.in.head.seq, 0);
    assert_true(fake.in.head.last);
    int at = msg_find(&fake.in, "text", 0);
    assert_int_equal(at, 0);
    assert_true(span_is(span_of(blob_data(fake.in.blobs[at]), blob_size(fake.in.blobs[at])), text));
    expect(MSG_CREDIT);
    assert_int_equal(fake.in.head.n, 1);
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
    fake.child = fork();
    if (fake.child == 0) {
        (void)execl(PYTHON, PYTHON, script, fake.address, (char *)NULL);
        _exit(127);
    }
    welcome_upper();
    tell_job(1, "gr\u00fc\u00df dich, m\u00fchlrad");
    expect_text(1, "GR\u00dcSS DICH, M\u00dcHLRAD");
    tell_job(2, ""); /* without the blob that it wants */
    expect(MSG_FAILED);
    assert_int_equal(fake.in.head.fault, FAULT_REQUEST);
    assert_int_equal(fake.in.head.code, STATUS_INVALID);
    expect(MSG_CREDIT);
    tell_job(3, "\xff"); /* no text */
    expect(MSG_FAILED);
    expect(MSG_CREDIT);
    fake.out =
        (struct msg){.head = {.kind = MSG_REFUSE, .code = STATUS_UNAVAILABLE, .text = "hello?"}};
    tell();
    welcome_upper();
    tell_job(4, "again");
    expect_text(4, "AGAIN");
    fake.out = (struct msg){.head = {.kind = MSG_DRAIN}};
    tell();
    expect(MSG_BYE);
    assert_int_equal(waitpid(fake.child, &how, 0), fake.child);
    fake.child = 0;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_stage_in_the_readme, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
