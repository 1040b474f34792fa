#include "tests/proto/fake_gateway.h"
#include "engine/base/clock.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_US 10000000

struct fake_gateway fake;

bool fake_gateway_place(void)
{
    fake = (struct fake_gateway){0};
    (void)snprintf(fake.directory, sizeof fake.directory, "/tmp/millrace-gateway-XXXXXX");
    if (!mkdtemp(fake.directory))
        return false;
    (void)snprintf(fake.address, sizeof fake.address, "ipc://%s/bus", fake.directory);
    return true;
}

bool fake_gateway_open(void)
{
    struct status st = {0};

    if (bus_open(&fake.bus, fake.address, &st))
        return true;
    print_error("%s\n", st.text);
    return false;
}

bool fake_gateway_close(void)
{
    char path[80];

    msg_clear(&fake.in);
    bus_close(fake.bus);
    fake.bus = NULL;
    if (fake.child > 0) {
        (void)kill(fake.child, SIGKILL);
        (void)waitpid(fake.child, NULL, 0);
    }
    (void)snprintf(path, sizeof path, "%s/bus", fake.directory);
    (void)unlink(path);
    return rmdir(fake.directory) == 0;
}

void expect(enum msg_kind kind)
{
    struct status st = {0};
    bool bad = false;

    for (int64_t end = clock_now_us() + WAIT_US; clock_now_us() < end;) {
        msg_clear(&fake.in);
        if (!bus_receive(fake.bus, &fake.in, &fake.peer, &bad, &st)) {
            (void)usleep(1000);
            continue;
        }
        if (bad)
            fail_msg("bad message: %s", st.text);
        if (fake.in.head.kind == MSG_BEAT && kind != MSG_BEAT)
            continue;
        if (fake.in.head.kind != kind)
            fail_msg("%s came, %s was due; %s", msg_kind_name(fake.in.head.kind),
                     msg_kind_name(kind), fake.in.head.text);
        return;
    }
    fail_msg("%s did not come", msg_kind_name(kind));
}

void tell(void)
{
    struct status st = {0};

    if (!bus_send_take(fake.bus, fake.peer, &fake.out, &st))
        fail_msg("%s", st.text);
}

void welcome(uint32_t credits)
{
    expect(MSG_HELLO);
    fake.out = (struct msg){.head = {.kind = MSG_WELCOME, .interval_ms = 50}};
    tell();
    expect(MSG_CREDIT);
    assert_int_equal(fake.in.head.n, credits);
}
