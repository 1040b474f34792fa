/* Bus and link in one process, over ipc in a directory of its own. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "proto/codec.h"
#include "proto/link.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

static char directory[64];
static char address[LINK_ADDRESS_MAX];
static struct msg in; /* large */
static struct msg out;

static int setup(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/millrace-link-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    (void)snprintf(address, sizeof address, "ipc://%s/bus", directory);
    return 0;
}

static int teardown(void **state)
{
    char path[80];

    (void)state;
    (void)snprintf(path, sizeof path, "%s/bus", directory);
    (void)unlink(path);
    return rmdir(directory);
}

static void pause_ms(int ms)
{
    (void)usleep((useconds_t)ms * 1000);
}

/* One message at the bus, waited for at most two seconds. */
static bool receive_bus(struct bus *bus, uint32_t *peer, bool *bad, struct status *st)
{
    for (int64_t end = clock_now_us() + 2000000; clock_now_us() < end; pause_ms(1))
        if (bus_receive(bus, &in, peer, bad, st))
            return true;
    return false;
}

static bool receive_link(struct link *link, bool *bad, struct status *st)
{
    for (int64_t end = clock_now_us() + 2000000; clock_now_us() < end;) {
        bool there = link_wait(link, NULL, 0, NULL, 100);
        if (link_receive(link, &in, bad, st))
            return true;
        assert_false(there);
    }
    return false;
}

static void wait_connected(struct link *link)
{
    for (int i = 0; i < 2000 && !link_can_send(link); i++)
        pause_ms(1);
    assert_true(link_can_send(link));
}

static void send_link(struct link *link)
{
    struct status st = {0};

    if (!link_send_take(link, &out, &st))
        fail_msg("%s", st.text);
}

/* Connect and let the bus give a number. */
static uint32_t introduce(struct bus *bus, struct link *link)
{
    struct status st = {0};
    uint32_t peer = BUS_PEER_NONE;
    bool bad = true;

    wait_connected(link);
    out = (struct msg){.head = {.kind = MSG_BYE}};
    send_link(link);
    assert_true(receive_bus(bus, &peer, &bad, &st));
    assert_false(bad);
    msg_clear(&in);
    return peer;
}

static void refuse(const char *wrong, const char *word)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *link = NULL;

    assert_false(bus_open(&bus, wrong, &st));
    if (!strstr(st.text, word))
        fail_msg("'%s' does not say '%s'", st.text, word);
    assert_false(link_open(&link, wrong, &st));
    if (!strstr(st.text, word))
        fail_msg("'%s' does not say '%s'", st.text, word);
}

static void test_addresses_that_are_refused(void **state)
{
    char long_path[200];
    char open_path[LINK_ADDRESS_MAX];

    (void)state;
    refuse("", "neither");
    refuse("inproc://x", "neither");
    refuse("ipc://bus", "absolute");
    refuse("ipc://*", "absolute");
    refuse("ipc://@hidden", "absolute");
    refuse("ipc:///bus", "absolute");
    refuse("ipc:///no/such/directory/bus", "No such file");
    refuse("tcp://192.168.1.1:7000", "unencrypted");
    refuse("tcp://*:7000", "unencrypted");
    refuse("tcp://localhost:7000", "unencrypted");
    refuse("tcp://127.0.0.1:0", "port");
    refuse("tcp://127.0.0.1:99999", "port");
    refuse("tcp://127.0.0.1", "port");
    memset(long_path, 'a', sizeof long_path);
    memcpy(long_path, "ipc:///tmp/a/", 13);
    long_path[120] = 0;
    refuse(long_path, "allowed are 107");
    long_path[120] = 'a';
    long_path[199] = 0;
    refuse(long_path, "longer");
    assert_int_equal(chmod(directory, 0755), 0);
    (void)snprintf(open_path, sizeof open_path, "%s", address);
    refuse(open_path, "0700");
    assert_int_equal(chmod(directory, 0700), 0);
}

static void test_the_directory_is_made_for_us_alone(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct stat info;
    char inner[80];
    char inner_address[LINK_ADDRESS_MAX];
    char socket_path[96];

    (void)state;
    (void)snprintf(inner, sizeof inner, "%s/inner", directory);
    (void)snprintf(inner_address, sizeof inner_address, "ipc://%s/bus", inner);
    (void)snprintf(socket_path, sizeof socket_path, "%s/bus", inner);
    assert_true(bus_open(&bus, inner_address, &st));
    assert_int_equal(stat(inner, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    /* A second gateway would take the socket file away from the first. */
    struct bus *second = NULL;
    assert_false(bus_open(&second, inner_address, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    bus_close(bus);
    assert_true(bus_open(&bus, inner_address, &st));
    bus_close(bus);
    (void)unlink(socket_path);
    assert_int_equal(rmdir(inner), 0);
}

static void test_nothing_is_queued_for_a_gateway_that_is_not_there(void **state)
{
    struct status st = {0};
    struct link *link = NULL;

    (void)state;
    assert_true(link_open(&link, address, &st));
    assert_false(link_can_send(link));
    out = (struct msg){.head = {.kind = MSG_BYE}};
    assert_false(link_send_take(link, &out, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    assert_false(link_wait(link, NULL, 0, NULL, 0));
    link_close(link);
}

/* Byte i of test blob b. */
static uint8_t pattern(size_t b, size_t i)
{
    return (uint8_t)(i * 31 + b * 7 + i / 251);
}

static void test_a_message_goes_both_ways_with_its_blobs(void **state)
{
    static const size_t sizes[] = {0, 1, 33, 4096, 4100, 9001, 3000000};
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *link = NULL;
    struct buffer fields = {0};
    struct fields_writer w = {0};
    uint32_t peer = 0;
    bool bad = true;
    int64_t answer = 0;

    (void)state;
    assert_true(bus_open(&bus, address, &st));
    assert_true(link_open(&link, address, &st));
    uint32_t known = introduce(bus, link);
    fields_int(&w, "answer", 42);
    fields_finish(&w, &fields);
    out = (struct msg){.head = {.kind = MSG_RESULT, .epoch = 3, .seq = 5, .last = true}};
    out.head.fields = buffer_span(&fields);
    memset(out.head.rid.bytes, 0xab, 16);
    for (size_t b = 0; b < sizeof sizes / sizeof *sizes; b++) {
        struct blob *blob = blob_new(sizes[b]);
        for (size_t i = 0; i < sizes[b]; i++)
            blob_data(blob)[i] = pattern(b, i);
        msg_add_take(&out, "piece", BLOB_U8, &sizes[b], 1, blob);
    }
    send_link(link);
    buffer_clear(&fields);
    for (int turn = 0; turn < 2; turn++) { /* what came in goes back as it is, and again */
        if (turn == 0)
            assert_true(receive_bus(bus, &peer, &bad, &st));
        else
            assert_true(receive_link(link, &bad, &st));
        assert_false(bad);
        assert_int_equal(peer, known);
        assert_int_equal(in.head.kind, MSG_RESULT);
        assert_int_equal(in.head.seq, 5);
        assert_true(field_int(in.head.fields, "answer", &answer));
        assert_int_equal(answer, 42);
        assert_int_equal(in.head.n_blobs, sizeof sizes / sizeof *sizes);
        for (size_t b = 0; b < in.head.n_blobs; b++) {
            assert_int_equal(blob_size(in.blobs[b]), sizes[b]);
            assert_int_equal((uintptr_t)blob_data(in.blobs[b]) % 8, 0);
            for (size_t i = 0; i < sizes[b]; i++)
                if (blob_data(in.blobs[b])[i] != pattern(b, i))
                    fail_msg("blob %zu differs at %zu", b, i);
        }
        if (turn == 0)
            assert_true(bus_send_take(bus, peer, &in, &st));
    }
    msg_clear(&in);
    link_close(link);
    bus_close(bus);
}

/* A peer that speaks ZeroMQ but not us. */
struct stranger {
    void *context, *socket;
};

static void stranger_open(struct stranger *stranger)
{
    stranger->context = zmq_ctx_new();
    stranger->socket = zmq_socket(stranger->context, ZMQ_DEALER);
    int linger = 0;
    (void)zmq_setsockopt(stranger->socket, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_connect(stranger->socket, address), 0);
}

static void stranger_close(struct stranger *stranger)
{
    (void)zmq_close(stranger->socket);
    (void)zmq_ctx_term(stranger->context);
}

static void say(struct stranger *stranger, const void *head, size_t size, size_t n_blobs,
                size_t blob_bytes)
{
    static const uint8_t zeros[64];

    assert_true(zmq_send(stranger->socket, head, size, n_blobs ? ZMQ_SNDMORE : 0) >= 0);
    for (size_t i = 0; i < n_blobs; i++)
        assert_true(
            zmq_send(stranger->socket, zeros, blob_bytes, i + 1 < n_blobs ? ZMQ_SNDMORE : 0) >= 0);
}

static void expect_bad(struct bus *bus, enum msg_kind kind, const char *word)
{
    struct status st = {0};
    uint32_t peer;
    bool bad = false;

    assert_true(receive_bus(bus, &peer, &bad, &st));
    assert_true(bad);
    if (!strstr(st.text, word))
        fail_msg("'%s' does not say '%s'", st.text, word);
    assert_int_equal(in.head.kind, kind);
    assert_int_equal(in.head.n_blobs, 0);
    msg_clear(&in);
}

static void test_what_is_wrong_is_dropped_and_harms_nobody(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *link = NULL;
    struct stranger stranger;
    struct buffer head = {0};
    static uint8_t large[HEAD_BYTES_MAX + 1];

    (void)state;
    assert_true(bus_open(&bus, address, &st));
    assert_true(link_open(&link, address, &st));
    (void)introduce(bus, link);
    stranger_open(&stranger);
    say(&stranger, "", 0, 0, 0);
    expect_bad(bus, MSG_KINDS, "cut off");
    say(&stranger, "\xdd\xff\xff\xff\xff", 5, 0, 0);
    expect_bad(bus, MSG_KINDS, "announced");
    say(&stranger, "hello", 5, 3, 8);
    expect_bad(bus, MSG_KINDS, "head");
    say(&stranger, large, sizeof large, 0, 0);
    expect_bad(bus, MSG_KINDS, "allowed are 65536");

    out = (struct msg){.head = {.kind = MSG_RESULT, .epoch = 1}};
    msg_add_take(&out, "x", BLOB_I32, (size_t[]){2, 3}, 2, blob_new(24));
    head_pack(&out.head, &head);
    msg_clear(&out);
    say(&stranger, head.data, head.size, 1, 23);
    expect_bad(bus, MSG_RESULT, "its dims say 24");
    say(&stranger, head.data, head.size, 0, 0);
    expect_bad(bus, MSG_RESULT, "1 blobs announced, 0 came");
    say(&stranger, head.data, head.size, 2, 24);
    expect_bad(bus, MSG_RESULT, "1 blobs announced, 2 came");
    say(&stranger, head.data, head.size, BLOBS_MAX + 5, 24);
    expect_bad(bus, MSG_RESULT, "more than 48 blobs");

    /* The same stranger, now right: its messages start where they should; so do the others'. */
    uint32_t peer;
    bool bad = true;
    say(&stranger, head.data, head.size, 1, 24);
    assert_true(receive_bus(bus, &peer, &bad, &st));
    assert_false(bad);
    assert_int_equal(peer, 1);
    msg_clear(&in);
    assert_int_equal(introduce(bus, link), 0);
    buffer_clear(&head);
    stranger_close(&stranger);
    link_close(link);
    bus_close(bus);
}

static void test_numbers_of_peers(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *a = NULL;
    struct link *b = NULL;

    (void)state;
    assert_true(bus_open(&bus, address, &st));
    assert_true(link_open(&a, address, &st));
    assert_true(link_open(&b, address, &st));
    assert_int_equal(introduce(bus, a), 0);
    assert_int_equal(introduce(bus, b), 1);
    assert_int_equal(introduce(bus, a), 0);
    bus_forget(bus, 0);
    out = (struct msg){.head = {.kind = MSG_DRAIN}};
    assert_false(bus_send_take(bus, 0, &out, &st));
    assert_int_equal(st.code, STATUS_UNAVAILABLE);
    assert_int_equal(introduce(bus, a), 2); /* a freed number rests */
    /* A peer that is gone is said to be gone when something is sent to it. */
    link_close(b);
    bool gone = false;
    for (int i = 0; i < 1000 && !gone; i++, pause_ms(1)) {
        out = (struct msg){.head = {.kind = MSG_DRAIN}};
        gone = !bus_send_take(bus, 1, &out, &st);
    }
    assert_true(gone);
    assert_int_equal(st.code, STATUS_UNAVAILABLE);
    link_close(a);
    bus_close(bus);
}

static void test_too_many_peers(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct stranger stranger = {.context = zmq_ctx_new()};
    uint32_t peer = 0;
    bool bad = false;

    (void)state;
    assert_true(bus_open(&bus, address, &st));
    for (uint32_t i = 0; i <= BUS_PEERS_MAX; i++) {
        stranger.socket = zmq_socket(stranger.context, ZMQ_DEALER);
        assert_int_equal(zmq_connect(stranger.socket, address), 0);
        say(&stranger, "\xc0", 1, 0, 0);
        assert_true(receive_bus(bus, &peer, &bad, &st));
        assert_true(bad);
        msg_clear(&in);
        (void)zmq_close(stranger.socket);
        if (i < BUS_PEERS_MAX)
            assert_int_equal(peer, i);
    }
    assert_int_equal(peer, BUS_PEER_NONE);
    assert_int_equal(st.code, STATUS_LIMIT);
    (void)zmq_ctx_term(stranger.context);
    bus_close(bus);
}

static void test_a_gateway_that_is_back_is_found(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *link = NULL;

    (void)state;
    assert_true(bus_open(&bus, address, &st));
    assert_true(link_open(&link, address, &st));
    (void)introduce(bus, link);
    bus_close(bus);
    for (int i = 0; i < 2000 && link_can_send(link); i++)
        pause_ms(1);
    assert_false(link_can_send(link));
    assert_true(bus_open(&bus, address, &st));
    (void)introduce(bus, link);
    link_close(link);
    bus_close(bus);
}

static void test_wait_sees_other_descriptors_and_messages_that_are_there(void **state)
{
    struct status st = {0};
    struct bus *bus = NULL;
    struct link *link = NULL;
    int ends[2];
    bool readable[2] = {true, true};
    bool bad = true;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_true(bus_open(&bus, address, &st));
    assert_true(link_open(&link, address, &st));
    uint32_t peer = introduce(bus, link);
    int64_t begin = clock_now_us();
    assert_false(link_wait(link, ends, 1, readable, 30));
    assert_true(clock_now_us() - begin >= 25000);
    assert_false(readable[0]);
    assert_true(write(ends[1], "x", 1) == 1);
    assert_false(link_wait(link, ends, 1, readable, 5000));
    assert_true(readable[0]);
    /* Two messages, one taken: the second must be seen although nothing new arrives. */
    for (int i = 0; i < 2; i++) {
        out = (struct msg){.head = {.kind = MSG_DRAIN}};
        assert_true(bus_send_take(bus, peer, &out, &st));
    }
    assert_true(receive_link(link, &bad, &st));
    msg_clear(&in);
    pause_ms(50);
    assert_true(link_wait(link, NULL, 0, NULL, 5000));
    assert_true(link_wait(link, NULL, 0, NULL, 5000));
    assert_true(link_receive(link, &in, &bad, &st));
    msg_clear(&in);
    (void)close(ends[0]);
    (void)close(ends[1]);
    link_close(link);
    bus_close(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_addresses_that_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_directory_is_made_for_us_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_queued_for_a_gateway_that_is_not_there,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_message_goes_both_ways_with_its_blobs, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_wrong_is_dropped_and_harms_nobody, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_numbers_of_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_gateway_that_is_back_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_wait_sees_other_descriptors_and_messages_that_are_there, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
