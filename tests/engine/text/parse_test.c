/* Token ids to thought, answer and calls: what is not readable, when text is given. */
#include "engine/text/parse.h"
#include "engine/text/parse_call.h"
#include "tests/engine/text/vocabulary.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A call as text, '@' for the quote token. */
static bool read_call(const char *text, struct span *out_name, struct buffer *out)
{
    static uint8_t bytes[4096];
    const size_t size = strlen(text);
    assert_true(size <= sizeof(bytes));
    for (size_t i = 0; i < size; i++)
        bytes[i] = text[i] == '@' ? PARSE_QUOTE : (uint8_t)text[i];
    buffer_reset(out);
    return parse_call_read(span_of(bytes, size), out_name, out);
}

static void test_unreadable_calls(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "call:",
        "call:f",
        "call:{}",
        "call: {}",
        "f{}",
        "call:f{",
        "call:f{a}",
        "call:f{a:}",
        "call:f{a:1,}",
        "call:f{a:01}",
        "call:f{a:1.}",
        "call:f{a:nul}",
        "call:f{a:NaN}",
        "call:f{a:1 2}",
        "call:f{a:[1}",
        "call:f{a:[1,]}",
        "call:f{a:@x,b:@y@}",
        "call:@f@{}",
        "call:f{@a:1}",
        "call:f{a:@x]",
        "call:f{a:[@x}",
        "call:f{a:\"x\"}",
        "call:f{a:@x@y}",
    };
    struct buffer out = {0};
    struct span name;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (read_call(bad[i], &name, &out))
            fail_msg("'%s' was read as %.*s", bad[i], (int)out.size, (char *)out.data);
    char deep[2 * PARSE_CALL_DEPTH_MAX + 20] = "call:f{a:";
    memset(deep + 9, '[', PARSE_CALL_DEPTH_MAX - 1);
    memset(deep + 8 + PARSE_CALL_DEPTH_MAX, ']', PARSE_CALL_DEPTH_MAX - 1);
    deep[7 + 2 * PARSE_CALL_DEPTH_MAX] = '}';
    assert_true(read_call(deep, &name, &out));
    memset(deep + 9, '[', PARSE_CALL_DEPTH_MAX);
    assert_false(read_call(deep, &name, &out));
    buffer_clear(&out);
}

static void test_readable_calls(void **state)
{
    (void)state;
    static const char *const good[][2] = {
        {"call:f{}", "{}"},
        {"call: f {}", "{}"},
        {"call:f{}{more", "{}"},
        {"call:f{ a: 1 , b:[ ]}", "{\"a\":1,\"b\":[]}"},
        {"call:f{a:@C:\\new@}", "{\"a\":\"C:\\\\new\"}"},
        {"call:f{@a:}@:@@}", "{\"a:}\":\"\"}"},
        {"call:f{a:1,b:2,a:3}", "{\"a\":3,\"b\":2}"},
        {"call:f{a:-1.50e+9,b:123456789012345678901234567890}",
         "{\"a\":-1.50e+9,\"b\":123456789012345678901234567890}"},
        {"call:f{a:[@x,y} \n]}\n", "{\"a\":[\"x,y} \\n\"]}"}, /* the missing quote is put back */
        {"call:f{a:1e999}", "{\"a\":1e999}"},
    };
    struct buffer out = {0};
    struct span name;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!read_call(good[i][0], &name, &out))
            fail_msg("'%s' was not read", good[i][0]);
        assert_true(span_is(name, "f"));
        if (!span_is(buffer_span(&out), good[i][1]))
            fail_msg("'%s' was read as %.*s", good[i][0], (int)out.size, (char *)out.data);
    }
    buffer_clear(&out);
}

static void append(void *context, const struct parse_event *event)
{
    struct buffer *out = context;
    static const char kinds[] = {
        [PARSE_CONTENT] = 'c', [PARSE_REASONING] = 'r', [PARSE_CALL] = 't'};
    buffer_append_byte(out, (uint8_t)kinds[event->kind]);
    buffer_append_byte(out, '(');
    buffer_append(out, event->text.data, event->text.size);
    buffer_append_byte(out, ')');
}

/* What comes out at which id: text is held back no longer than it must be. */
static void test_gives_text_at_once(void **state)
{
    (void)state;
    struct tokenizer *t = small_tokenizer();
    struct parse *p = parse_new(t, true);
    struct buffer out = {0};
    struct ids ids = {0};
    tokenizer_encode(t, span_text("\n\nx\n<channel|>\nA<turn|>B"), true, &ids);
    for (size_t i = 0; i < ids.size; i++) {
        parse_push(p, ids.data[i], append, &out);
        buffer_append_byte(&out, '|');
    }
    parse_end(p, append, &out);
    assert_string_equal(parse_finish(p), "stop");
    if (!span_is(buffer_span(&out), "r(\n)|r(\n)r(x)|||c(\n)|c(A)|||"))
        fail_msg("%.*s", (int)out.size, (char *)out.data);
    parse_free(p);
    parse_free(NULL);
    ids_clear(&ids);
    buffer_clear(&out);
    tokenizer_free(t);
}

/* Ids at random never break it, and what it gives is whole UTF-8. */
static void check_text(void *context, const struct parse_event *event)
{
    (void)context;
    assert_int_equal(utf8_valid_prefix(event->text.data, event->text.size), event->text.size);
    assert_true(event->kind == PARSE_CALL || event->name.size == 0);
}

static void test_random_ids(void **state)
{
    (void)state;
    struct tokenizer *t = small_tokenizer();
    unsigned seed = 20261124;
    print_message("seed %u\n", seed);
    for (int round = 0; round < 300; round++) {
        struct parse *p = parse_new(t, round % 2 == 1);
        for (int i = 0; i < 60; i++) {
            const size_t range = rand_r(&seed) % 3 == 0 ? SPECIAL_COUNT : tokenizer_size(t);
            const int32_t id =
                range == SPECIAL_COUNT
                    ? tokenizer_special(t, (enum special)(rand_r(&seed) % SPECIAL_COUNT))
                    : (int32_t)((size_t)rand_r(&seed) % range);
            if (!tokenizer_is_stop(t, id))
                parse_push(p, id, check_text, NULL);
        }
        parse_end(p, check_text, NULL);
        assert_string_equal(parse_finish(p), "length");
        parse_free(p);
    }
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unreadable_calls),
        cmocka_unit_test(test_readable_calls),
        cmocka_unit_test(test_gives_text_at_once),
        cmocka_unit_test(test_random_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
