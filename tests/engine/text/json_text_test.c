/* JSON in its own spelling: what is refused, numbers and order as Python has them. */
#include "engine/base/heap.h"
#include "engine/base/json_scan.h"
#include "engine/text/json_text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void refuse(struct span text, const char *why)
{
    struct json_text json;
    struct status st = {0};
    assert_false(json_text_init(&json, text, &st));
    if (strstr(st.text, why) == NULL)
        fail_msg("'%s' does not say '%s' (%.60s)", st.text, why, (const char *)text.data);
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "byte 0: a value was expected"},
        {" ", "byte 1: a value was expected"},
        {"nul", "byte 0: a value was expected"},
        {"NaN", "byte 0: a value was expected"},
        {"[1,]", "byte 3: a value was expected"},
        {"[1 2]", "byte 3: ',' or ']' was expected"},
        {"[1", "byte 2: ',' or ']' was expected"},
        {"{\"a\"}", "byte 4: ':' was expected"},
        {"{a:1}", "byte 1: a string was expected"},
        {"{\"a\":1,}", "byte 7: a string was expected"},
        {"{\"a\":1 1", "byte 7: ',' or '}' was expected"},
        {"1 1", "byte 2: text after the end"},
        {"01", "number with a leading zero"},
        {"-", "a value was expected"},
        {"+1", "a value was expected"},
        {"1.", "without digits after its point"},
        {".5", "a value was expected"},
        {"1e", "without digits in its exponent"},
        {"1e+", "without digits in its exponent"},
        {"\"a", "string without an end"},
        {"\"a\\", "unknown escape"},
        {"\"\\x\"", "unknown escape"},
        {"\"\\u12g4\"", "without four hexadecimal digits"},
        {"\"\\ud800\"", "lone surrogate"},
        {"\"\\ud800\\u0041\"", "lone surrogate"},
        {"\"\\ud800\\n\"", "lone surrogate"},
        {"\"\\udc00\"", "lone surrogate"},
        {"\"\n\"", "control character"},
        {"\"\xc3\"", "byte 1: not UTF-8"},
        {"\xef\xbb\xbf{}", "byte 0: a value was expected"},
        {"'a'", "a value was expected"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuse(span_text(bad[i].text), bad[i].why);
    refuse(span_of("1\0", 2), "byte 1: text after the end");
    refuse(span_of("\"\\\0\"", 4), "unknown escape");
}

static void test_refuses_what_is_too_much(void **state)
{
    (void)state;
    const size_t size = JSON_TEXT_BYTES_MAX + 1;
    char *text = heap_array(char, size);
    memset(text, '[', size);
    refuse(span_of(text, 1000), "nested more than 64 deep");
    refuse(span_of(text, size), "JSON of 4194305 bytes");
    for (size_t i = 1; i < 2 * JSON_TEXT_VALUES_MAX + 2; i++)
        text[i] = i % 2 == 0 ? ',' : '1';
    refuse(span_of(text, 2 * JSON_TEXT_VALUES_MAX + 2), "more than 131072 values");
    memset(text, '1', size);
    refuse(span_of(text, JSON_SCAN_DIGITS_MAX + 1), "too many digits");
    heap_free(text);
}

/* Parsed and written again. */
static void rewrite(const char *text, const char *expected)
{
    struct json_text json;
    struct status st = {0};
    struct buffer out = {0};
    if (!json_text_init(&json, span_text(text), &st))
        fail_msg("%s: %s", text, st.text);
    json_text_write(json.root, &out);
    if (!span_is(buffer_span(&out), expected))
        fail_msg("%s: got %.*s, expected %s", text, (int)out.size, (char *)out.data, expected);
    buffer_clear(&out);
    json_text_clear(&json);
}

static void test_keeps_the_spelling(void **state)
{
    (void)state;
    rewrite(" null ", "null");
    rewrite("[true, false,\t\n\r null]", "[true,false,null]");
    rewrite("[1.0, 1e5, -0, 0.10, 123456789012345678901234567890, 1E+2, 1e999]",
            "[1.0,1e5,-0,0.10,123456789012345678901234567890,1E+2,1e999]");
    rewrite("{\"b\": 1, \"a\": {}, \"\": []}", "{\"b\":1,\"a\":{},\"\":[]}");
    rewrite("\"\\u00e9\\ud83d\\ude00\\/\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\\"",
            "\"\xc3\xa9\xf0\x9f\x98\x80/\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\\"");
    /* Of equal names the last value counts, at the place of the first. */
    rewrite("{\"a\":1,\"b\":2,\"a\":[3],\"c\":4,\"a\":{\"x\":5,\"x\":6}}",
            "{\"a\":{\"x\":6},\"b\":2,\"c\":4}");
    rewrite("{\"a\":1,\"A\":2}", "{\"a\":1,\"A\":2}");
}

static void test_prints_numbers_as_python(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"0", "0"},
        {"-0", "0"},
        {"-7", "-7"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"1.0", "1.0"},
        {"-0.0", "-0.0"},
        {"0.0", "0.0"},
        {"1.50", "1.5"},
        {"0.1", "0.1"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"1e15", "1000000000000000.0"},
        {"1e16", "1e+16"},
        {"1E22", "1e+22"},
        {"123456789012345678.0", "1.2345678901234568e+17"},
        {"9007199254740993.0", "9007199254740992.0"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"2.5e-5", "2.5e-05"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"1e2", "100.0"},
        {"1e999", "inf"},
        {"-1e999", "-inf"},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        struct buffer out = {0};
        json_text_number(span_text(pairs[i][0]), &out);
        if (!span_is(buffer_span(&out), pairs[i][1]))
            fail_msg("%s: got %.*s", pairs[i][0], (int)out.size, (char *)out.data);
        buffer_clear(&out);
    }
}

static void test_sorts_without_case(void **state)
{
    (void)state;
    struct json_text json;
    struct status st = {0};
    const struct json_value *sorted[16];
    struct buffer names = {0};
    assert_true(json_text_init(&json,
                               span_text("{\"b\":0,\"_\":0,\"B\":0,\"\xc3\xa9\":0,\"Z\":0,\"a1\":0,"
                                         "\"\xc3\x89\":0,\"9\":0,\"A\":0,\"\":0,"
                                         "\"\xd0\xb1\":0,\"\xd0\x90\":0}"),
                               &st));
    assert_int_equal(json.root->n, 12);
    json_text_sorted(json.root, sorted);
    for (size_t i = 0; i < json.root->n; i++) {
        buffer_append(&names, sorted[i]->name.data, sorted[i]->name.size);
        buffer_append_byte(&names, ' ');
    }
    assert_true(
        span_is(buffer_span(&names), " 9 _ A a1 b B Z \xc3\xa9 \xc3\x89 \xd0\x90 \xd0\xb1 "));
    buffer_clear(&names);
    json_text_clear(&json);
}

static void test_truth(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool truth;
    } cases[] = {
        {"null", false},     {"false", false},  {"true", true}, {"0", false},
        {"-0.0e5", false},   {"0.1", true},     {"10", true},   {"\"\"", false},
        {"\"0\"", true},     {"[]", false},     {"[0]", true},  {"{}", false},
        {"{\"a\":0}", true}, {"1e-999", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct json_text json;
        struct status st = {0};
        assert_true(json_text_init(&json, span_text(cases[i].text), &st));
        assert_int_equal(json_text_truth(json.root), cases[i].truth);
        assert_null(json_text_get(json.root, "b"));
        json_text_clear(&json);
    }
    assert_false(json_text_truth(NULL));
    assert_null(json_text_get(NULL, "b"));
}

/* Many equal and many different names: both must stay far from quadratic. */
static void test_many_members(void **state)
{
    (void)state;
    struct buffer text = {0};
    struct json_text json;
    struct status st = {0};
    buffer_append_byte(&text, '{');
    for (int i = 0; i < 60000; i++)
        buffer_printf(&text, "\"%d\":%d,", i % 30000, i);
    buffer_append_text(&text, "\"x\":1}");
    assert_true(json_text_init(&json, buffer_span(&text), &st));
    assert_int_equal(json.root->n, 30001);
    assert_true(span_is(json.root->first->text, "30000"));
    buffer_clear(&text);
    json_text_clear(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_refuses_what_is_too_much),
        cmocka_unit_test(test_keeps_the_spelling),
        cmocka_unit_test(test_prints_numbers_as_python),
        cmocka_unit_test(test_sorts_without_case),
        cmocka_unit_test(test_truth),
        cmocka_unit_test(test_many_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
