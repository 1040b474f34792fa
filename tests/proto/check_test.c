/* The walk over untrusted msgpack: what it refuses, then what it lets pass. It must not allocate,
 * so all of it runs under the heap's guard. */
#include "engine/base/heap.h"
#include "proto/check.h"
#include "tests/proto/golden.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* An initializer. */
#define BYTES(text)                                                                                \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static bool check(struct span bytes, size_t nodes_max, struct status *st)
{
    heap_guard_on("check_msgpack");
    bool ok = check_msgpack(bytes, nodes_max, st);
    heap_guard_off();
    return ok;
}

static void test_refuses(void **state)
{
    static const struct {
        struct span bytes;
        const char *word;
    } cases[] = {
        {BYTES(""), "cut off"},
        {BYTES("\xdd\xff\xff\xff\xff"), "4294967295 values announced, 0 bytes are left"},
        {BYTES("\xdf\xff\xff\xff\xff"), "a map of 4294967295 keys"},
        {BYTES("\xdf\x00\x00\x00\x20\xa1\x61"), "64 values announced, 2 bytes"},
        {BYTES("\xdc\xff\xff\xc0\xc0"), "65535 values announced"},
        {BYTES("\x9f\xc0"), "15 values announced, 1 bytes"},
        {BYTES("\xdb\xff\xff\xff\xff"), "4294967295 bytes announced, 0 are left"},
        {BYTES("\xc6\x00\x00\x00\x05\x01\x02"), "5 bytes announced, 2 are left"},
        {BYTES("\xa5hell"), "5 bytes announced"},
        {BYTES("\xd9"), "cut off"},
        {BYTES("\xcd\x01"), "cut off"},
        {BYTES("\xcb\x00\x00\x00\x00\x00\x00\x00"), "cut off"},
        {BYTES("\xc1"), "type 0xc1"},
        {BYTES("\xc7\x00\x05"), "type 0xc7"},
        {BYTES("\xc8\x00\x00\x05"), "type 0xc8"},
        {BYTES("\xc9\x00\x00\x00\x00\x05"), "type 0xc9"},
        {BYTES("\xd4\x05\x00"), "type 0xd4"},
        {BYTES("\xd8\x05"), "type 0xd8"},
        {BYTES("\xc0\xc0"), "msgpack byte 1: 1 bytes too many"},
        {BYTES("\x92\xc0\xc0\xc0"), "1 bytes too many"},
        {BYTES("\x81\x01\x02"), "a key that is no text"},
        {BYTES("\x81\xc4\x01\x61\x02"), "a key that is no text"},
        {BYTES("\x81\xa0\x02"), "a key of 0 bytes"},
        {BYTES("\x81\xd9\x21"
               "abcdefghijklmnopqrstuvwxyz0123456"
               "\x02"),
         "a key of 33 bytes"},
        {BYTES("\x82\xa1\x61\x01\xa1\x61\x02"), "key 'a' twice"},
        {BYTES("\x82\xa1\x61\x01\xd9\x01\x61\x02"), "key 'a' twice"},
        {BYTES("\xa1\xff"), "UTF-8"},
        {BYTES("\xa3\xed\xa0\x80"), "UTF-8"},
        {BYTES("\x81\xa2\xc0\x80\x01"), "UTF-8"},
        {BYTES("\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0"), "nested deeper than 8"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct status st = {0};
        if (check(cases[i].bytes, CHECK_NODES_MAX, &st))
            fail_msg("case %zu passes", i);
        if (!strstr(st.text, cases[i].word))
            fail_msg("case %zu: '%s' does not say '%s'", i, st.text, cases[i].word);
    }
}

/* The header of a container, three bytes. */
static void put(uint8_t *out, const char *header)
{
    for (size_t i = 0; i < 3; i++)
        out[i] = (uint8_t)header[i];
}

static void test_limits_of_count(void **state)
{
    struct status st = {0};
    uint8_t bytes[3 + 4096];
    uint8_t map[3 + 65 * 4];
    size_t size = 3;

    (void)state;
    memset(bytes, 0xc0, sizeof bytes);
    put(bytes, "\xdc\x0f\xff"); /* 4095 values and the array: 4096 nodes */
    assert_true(check(span_of(bytes, 3 + 4095), CHECK_NODES_MAX, &st));
    assert_false(check(span_of(bytes, 3 + 4095), CHECK_NODES_MAX - 1, &st));
    put(bytes, "\xdc\x10\x00");
    assert_false(check(span_of(bytes, 3 + 4096), CHECK_NODES_MAX, &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    assert_false(check(span_text("\xc0"), 0, &st));
    for (uint8_t i = 0; i < 65; i++) {
        uint8_t entry[4] = {0xa2, 'k', (uint8_t)('!' + i), i};
        memcpy(map + size, entry, sizeof entry);
        size += sizeof entry;
    }
    put(map, "\xde\x00\x40");
    assert_true(check(span_of(map, size - 4), CHECK_NODES_MAX, &st));
    put(map, "\xde\x00\x41");
    assert_false(check(span_of(map, size), CHECK_NODES_MAX, &st));
}

static void test_lets_pass(void **state)
{
    static const struct span cases[] = {
        BYTES("\xc0"),
        BYTES("\xc2"),
        BYTES("\xc3"),
        BYTES("\x00"),
        BYTES("\x7f"),
        BYTES("\xe0"),
        BYTES("\xff"),
        BYTES("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
        BYTES("\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
        BYTES("\xca\x7f\x80\x00\x00"),
        BYTES("\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"),
        BYTES("\xa0"),
        BYTES("\xa4\xf0\x9f\x90\x98"),
        BYTES("\xc4\x02\xff\xfe"),
        BYTES("\x80"),
        BYTES("\x90"),
        BYTES("\x91\x91\x91\x91\x91\x91\x91\x91\xc0"),
        BYTES("\x82\xa1\x61\x81\xa1\x61\x01\xa1\x62\x81\xa1\x61\x02"), /* equal keys, other maps */
        BYTES("\x81\xd9\x20"
              "abcdefghijklmnopqrstuvwxyz012345"
              "\x02"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct status st = {0};
        if (!check(cases[i], CHECK_NODES_MAX, &st))
            fail_msg("case %zu: %s", i, st.text);
    }
}

/* What is cut off at any place is refused; what is changed in any byte does no harm (the sanitizers
 * look on; the bytes lie in a block of their exact size). */
static void test_every_cut_and_every_byte(void **state)
{
    (void)state;
    for (size_t f = 0; f < golden_n; f++) {
        struct status st = {0};
        struct buffer golden = golden_read(golden_names[f]);
        assert_true(check(buffer_span(&golden), CHECK_NODES_MAX, &st));
        for (size_t size = 0; size < golden.size; size++) {
            uint8_t *cut = heap_new(size, 1);
            memcpy(cut, golden.data, size);
            assert_false(check(span_of(cut, size), CHECK_NODES_MAX, &st));
            heap_free(cut);
        }
        uint8_t *changed = heap_new(golden.size, 1);
        memcpy(changed, golden.data, golden.size);
        for (size_t at = 0; at < golden.size; at++) {
            for (int value = 0; value < 256; value++) {
                changed[at] = (uint8_t)value;
                (void)check(span_of(changed, golden.size), CHECK_NODES_MAX, &st);
            }
            changed[at] = golden.data[at];
        }
        heap_free(changed);
        buffer_clear(&golden);
    }
}

static void test_random_bytes(void **state)
{
    uint64_t random = golden_seed();
    uint8_t bytes[64];
    size_t passed = 0;

    (void)state;
    for (int turn = 0; turn < 100000; turn++) {
        struct status st = {0};
        size_t size = golden_random(&random) % sizeof bytes;
        for (size_t i = 0; i < size; i++) /* half of them containers and texts */
            bytes[i] = (uint8_t)(golden_random(&random) % 2 ? 0x80 + golden_random(&random) % 0x30
                                                            : golden_random(&random));
        passed += check(span_of(bytes, size), CHECK_NODES_MAX, &st);
    }
    assert_true(passed > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),      cmocka_unit_test(test_limits_of_count),
        cmocka_unit_test(test_lets_pass),    cmocka_unit_test(test_every_cut_and_every_byte),
        cmocka_unit_test(test_random_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
