/* Turns: what is refused, golden bytes both ways. Hostile bytes: codec_test.c. */
#include "proto/codec.h"
#include "tests/proto/golden.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void put(uint8_t *out, struct span bytes)
{
    memcpy(out, bytes.data, bytes.size);
}

static void refuse_turns(struct span bytes, const char *word)
{
    struct status st = {0};
    struct turns turns;

    if (turns_unpack(&turns, bytes, &st))
        fail_msg("accepted, though %s", word);
    if (!strstr(st.text, word))
        fail_msg("'%s' does not say '%s'", st.text, word);
}

static void test_refuses_turns(void **state)
{
    static uint8_t many[5 + 40000];

    (void)state;
    refuse_turns(B("\xdd\xff\xff\xff\xff"), "announced");
    refuse_turns(B("\x80"), "not an array");
    refuse_turns(B("\x91\xc0"), "message 0: not a map");
    refuse_turns(B("\x91\x80"), "'role' is missing");
    refuse_turns(B("\x91\x81\xa4role\xa3god"), "role: unknown");
    refuse_turns(B("\x91\x81\xa4rule\xa4user"), "unknown key");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa4list\x01"), "list: not a boolean");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa4name\x01"), "name: not a text");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5parts\xa0"), "parts: not an array");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5parts\x91\xc0"), "item 0: not [kind]");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5parts\x91\x91\xa5smell"), "kind: unknown");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5parts\x91\x91\xa4text"), "a text belongs");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5parts\x91\x92\xa5image\xa0"), "a text belongs");
    refuse_turns(B("\x91\x82\xa4role\xa4user\xa5"
                   "calls\x91\x93\xa0\xa0\x01"),
                 "not three texts");
    memset(many, 0xc0, sizeof many);
    put(many, B("\xdc\x10\x01"));
    refuse_turns(span_of(many, 3 + 4097), "at most 4096");
    put(many, B("\x91\x82\xa4role\xa4user\xa5parts\xdc\x20\x01"));
    refuse_turns(span_of(many, 21 + 8193), "more than 8192 parts");
}

static void test_golden_turns_both_ways(void **state)
{
    struct status st = {0};
    struct buffer golden = golden_read("turns");
    struct buffer packed = {0};
    struct turns turns;

    (void)state;
    assert_true(turns_unpack(&turns, buffer_span(&golden), &st));
    assert_int_equal(turns.n, 4);
    assert_int_equal(turns.items[0].role, TURN_SYSTEM);
    assert_false(turns.items[0].is_list);
    assert_null(turns.items[0].reasoning.data);
    assert_true(turns.items[1].is_list);
    assert_int_equal(turns.items[1].n_parts, 5);
    assert_int_equal(turns.items[1].parts[1].kind, TURN_IMAGE);
    assert_int_equal(turns.items[1].parts[2].kind, TURN_AUDIO);
    assert_int_equal(turns.items[1].parts[3].kind, TURN_VIDEO);
    assert_true(span_is(turns.items[1].parts[0].text, "What is this?"));
    assert_true(span_is(turns.items[1].name, "anna"));
    assert_int_equal(turns.items[2].n_calls, 1);
    assert_true(span_is(turns.items[2].calls[0].arguments, "{\"x\": 1e400}"));
    assert_true(span_is(turns.items[2].reasoning, "\u00e4hm"));
    assert_true(span_is(turns.items[3].tool_call_id, "call_1"));
    turns_pack(&turns, &packed);
    assert_true(span_equal(buffer_span(&packed), buffer_span(&golden)));
    turns_clear(&turns);
    assert_null(turns.items);
    buffer_clear(&packed);
    buffer_clear(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_turns),
        cmocka_unit_test(test_golden_turns_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
