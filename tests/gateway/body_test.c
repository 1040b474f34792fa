/* A body in any pieces gives the same as in one; what is no JSON, no UTF-8 or too much is refused.
 */
#include "engine/base/heap.h"
#include "gateway/body.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define BYTES_MAX (1U << 20)

static const struct body_rule rules[] = {
    {"messages[].content[].image_url.url", BODY_DATA_URL, "image"},
    {"messages[].content[].input_audio.data", BODY_BASE64, "audio"},
    {"tools", BODY_RAW, NULL},
};

static struct body *new_body(void)
{
    return body_new(rules, sizeof rules / sizeof *rules, BYTES_MAX, 7);
}

/* Push all of it in pieces that end at the bits of `cuts` where there are such, else at random. */
static bool push_cut(struct body *body, struct span all, unsigned *random, struct status *st)
{
    size_t at = 0;

    while (at < all.size) {
        *random = *random * 1103515245U + 12345;
        size_t n = 1 + (*random >> 16) % 9;
        n = n < all.size - at ? n : all.size - at;
        if (!body_push(body, span_of(all.data + at, n), st))
            return false;
        at += n;
    }
    return body_finish(body, st);
}

static bool push_whole(struct body *body, struct span all, struct status *st)
{
    return body_push(body, all, st) && body_finish(body, st);
}

/* Two bodies that must have come to the same. */
static void same(const struct body *a, const struct body *b)
{
    assert_true(span_equal(body_skeleton(a), body_skeleton(b)));
    assert_true(span_equal(body_raw(a), body_raw(b)));
    assert_int_equal(body_hash(a), body_hash(b));
    assert_int_equal(body_media(a), body_media(b));
    for (size_t i = 0; i < body_media(a); i++) {
        const struct body_medium *x = body_medium(a, i);
        const struct body_medium *y = body_medium(b, i);
        assert_string_equal(x->name, y->name);
        assert_string_equal(x->type, y->type);
        assert_true(span_equal(span_of(blob_data(x->blob), blob_size(x->blob)),
                               span_of(blob_data(y->blob), blob_size(y->blob))));
    }
    for (unsigned i = 0; i < 100; i++) {
        char name[16];
        int n = snprintf(name, sizeof name, "\1t%u", i);
        char mark[32];
        (void)snprintf(mark, sizeof mark, "\\u0001t%u\"", i);
        struct span text[2];
        size_t medium;
        char *skeleton = heap_text((const char *)body_skeleton(a).data, body_skeleton(a).size);
        bool there = strstr(skeleton, mark) != NULL;
        heap_free(skeleton);
        if (!there)
            break;
        assert_int_equal(body_resolve(a, span_of(name, (size_t)n), &text[0], &medium),
                         BODY_IS_TEXT);
        assert_int_equal(body_resolve(b, span_of(name, (size_t)n), &text[1], &medium),
                         BODY_IS_TEXT);
        assert_true(span_equal(text[0], text[1]));
    }
}

/* Whole and in pieces: both fail in the same words, or both come to the same. */
static bool either_way(struct span all, unsigned *random, struct status *why)
{
    struct body *whole = new_body();
    char path[BODY_PATH_MAX];
    bool ok = push_whole(whole, all, why);

    body_path(whole, path);
    for (int i = 0; i < 3; i++) {
        struct body *cut = new_body();
        struct status st = {0};
        char cut_path[BODY_PATH_MAX];
        assert_int_equal(push_cut(cut, all, random, &st), ok);
        body_path(cut, cut_path);
        assert_int_equal(st.code, why->code);
        assert_string_equal(st.text, why->text);
        assert_string_equal(cut_path, path);
        if (ok)
            same(whole, cut);
        body_free(cut);
    }
    body_free(whole);
    return ok;
}

static void refuses(const char *json, size_t size, const char *text, const char *path)
{
    struct body *body = new_body();
    struct status st = {0};
    char where[BODY_PATH_MAX];
    unsigned random = 1;

    assert_false(push_whole(body, span_of(json, size), &st));
    body_path(body, where);
    if (!strstr(st.text, text) || strcmp(where, path) != 0)
        fail_msg("'%.60s': '%s' at '%s', wanted '%s' at '%s'", json, st.text, where, text, path);
    body_free(body);
    assert_false(either_way(span_of(json, size), &random, &st));
}

static void test_what_is_no_json(void **state)
{
    (void)state;
    // clang-format off
    static const struct { const char *json, *text; } cases[] = {
        {"", "the body is empty"},
        {" \n", "ends at byte 2"},
        {"hello", "'h' at byte 0, expected a value"},
        {"{", "ends at byte 1"},
        {"{\"a\"", "ends at byte 4"},
        {"{\"a\":1,}", "'}' at byte 7, expected a key"},
        {"{\"a\" 1}", "'1' at byte 5, expected ':'"},
        {"{\"a\":1 \"b\"}", "expected ',' or '}'"},
        {"{a:1}", "expected a key in quotes"},
        {"[1 2]", "expected ',' or ']'"},
        {"[1,]", "']' at byte 3, expected a value"},
        {"[1}", "expected ',' or ']'"},
        {"{}{}", "'{' at byte 2, expected the end"},
        {"tru", "ends at byte 3"},
        {"trux", "'x' at byte 3"},
        {"nulll", "'l' at byte 4, expected the end"},
        {"01", "expected the end"}, {"-", "ends"}, {"-a", "expected a digit"}, {"1.", "ends"},
        {"[1.]", "expected a digit"}, {"[1e]", "expected a digit"}, {"[1e+]", "expected a digit"},
        {"+1", "expected a value"}, {".5", "expected a value"}, {"NaN", "expected a value"},
        {"\"a\nb\"", "0x0a at byte 2, expected no control character"},
        {"\"\\x\"", "expected an escape"},
        {"\"\\u12g4\"", "expected four hexadecimal digits"},
        {"\"\\ud800\"", "half a surrogate pair"},
        {"\"\\ud800x\"", "half a surrogate pair"},
        {"\"\\ud800\\n\"", "half a surrogate pair"},
        {"\"\\ud800\\ud800\"", "half a surrogate pair"},
        {"\"\\udc00\"", "half a surrogate pair"},
        {"\"abc", "ends at byte 4"},
        {"\xEF\xBB\xBF{}", "0xef at byte 0, expected a value"},
        {"\"\x80\"", "not UTF-8: 0x80 at byte 1"},
        {"\"\xC3\"", "not UTF-8: 0x22 at byte 2"},
        {"\"\xC0\x80\"", "not UTF-8"}, {"\"\xE0\x80\x80\"", "not UTF-8"},
        {"\"\xED\xA0\x80\"", "not UTF-8"}, {"\"\xF4\x90\x80\x80\"", "not UTF-8"},
        {"\"\xF5\"", "not UTF-8"}, {"{\"\xFF\":1}", "not UTF-8"}, {"{\"tools\":[\"\xFF\"]}", "not UTF-8"},
        {"{\"tools\":[1,]}", "']' at byte 12, expected a value"},
    };
    // clang-format on

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuses(cases[i].json, strlen(cases[i].json), cases[i].text, "");
    refuses("{\"a\":\"\0\"}", 9, "0x00 at byte 6", "");
}

#define IMAGE(text)                                                                                \
    "{\"messages\":[{\"content\":[{\"image_url\":{\"url\":\"data:image/png;base64," text "\"}}]}]" \
    "}"
#define AUDIO(text) "{\"messages\":[{},{\"content\":[{\"input_audio\":{\"data\":\"" text "\"}}]}]}"

static void test_media_that_are_none(void **state)
{
    (void)state;
    static const char *const image[] = {
        IMAGE("A"),    IMAGE("AAAAA"),      IMAGE("AA=A"),     IMAGE("AAA=A"),
        IMAGE("A==="), IMAGE("AA====="),    IMAGE("AA="),      IMAGE("===="),
        IMAGE("AA-_"), IMAGE("AA\\u0000A"), IMAGE("\xC3\xA4"),
    };

    for (size_t i = 0; i < sizeof image / sizeof *image; i++)
        refuses(image[i], strlen(image[i]), "not base64 after",
                "messages[0].content[0].image_url.url");
    refuses(IMAGE(""), strlen(IMAGE("")), "is empty", "messages[0].content[0].image_url.url");
    refuses(AUDIO(" "), strlen(AUDIO(" ")), "is empty", "messages[1].content[0].input_audio.data");
    refuses(AUDIO("data:x"), strlen(AUDIO("data:x")), "not base64",
            "messages[1].content[0].input_audio.data");
}

static void test_limits(void **state)
{
    (void)state;
    struct buffer json = {0};
    struct status st = {0};
    unsigned random = 3;

    for (int i = 0; i <= BODY_DEPTH_MAX; i++)
        buffer_append_text(&json, "[");
    assert_false(either_way(buffer_span(&json), &random, &st));

    buffer_reset(&json);
    buffer_append_text(&json, "[");
    for (int i = 0; i < BODY_VALUES_MAX; i++)
        buffer_append_text(&json, "1,");
    struct body *body = new_body();
    assert_false(body_push(body, buffer_span(&json), &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    body_free(body);

    buffer_reset(&json);
    buffer_append_text(&json, "{\"tools\":[\"");
    for (unsigned i = 0; i < BODY_RAW_BYTES_MAX; i++)
        buffer_append_text(&json, "x");
    body = new_body();
    assert_false(body_push(body, buffer_span(&json), &st));
    assert_int_equal(st.code, STATUS_TOO_LARGE);
    body_free(body);

    buffer_reset(&json);
    buffer_append_text(&json, "{\"");
    for (unsigned i = 0; i <= BODY_KEY_BYTES_MAX; i++)
        buffer_append_text(&json, "k");
    buffer_append_text(&json, "\":1}");
    refuses((const char *)json.data, json.size, "a key of more than", "");
    /* It is no failure of the field before it. */
    buffer_reset(&json);
    buffer_append_text(&json, "{\"millrace\":{\"image_budget\":70,\"");
    for (unsigned i = 0; i <= BODY_KEY_BYTES_MAX; i++)
        buffer_append_text(&json, "k");
    refuses((const char *)json.data, json.size, "a key of more than", "millrace");

    buffer_reset(&json);
    buffer_append_text(&json, "{\"messages\":[{\"content\":[");
    for (unsigned i = 0; i <= BODY_MEDIA_MAX; i++)
        buffer_append_text(&json, "{\"input_audio\":{\"data\":\"AAAA\"}},");
    body = new_body();
    assert_false(body_push(body, buffer_span(&json), &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    body_free(body);

    body = body_new(NULL, 0, 3, 0);
    assert_true(body_push(body, span_text("123"), &st));
    assert_false(body_push(body, span_text("4"), &st));
    assert_int_equal(st.code, STATUS_TOO_LARGE);
    body_free(body);
    buffer_clear(&json);
}

/* Where they stand is said, which jansson could not. */
static void test_numbers_that_nothing_holds(void **state)
{
    (void)state;
    static const char *const numbers[] = {
        "9223372036854775808", "-9223372036854775809", "1e999", "-1e999",
        "0.000000000000000000000000000000000000000000000000000000000000000001"};
    struct status st = {0};
    char json[200];

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int n = snprintf(json, sizeof json, "{\"a\":1,\"b\":[0,%s],\"c\":2}", numbers[i]);
        refuses(json, (size_t)n, "beyond all ranges", "b[1]");
        n = snprintf(json, sizeof json, "{\"tools\":[%s]}", numbers[i]);
        struct body *body = new_body();
        assert_true(push_whole(body, span_of(json, (size_t)n), &st));
        body_free(body);
    }
    struct body *body = new_body();
    assert_true(push_whole(
        body, span_text("[9223372036854775807,-9223372036854775808,1e308,1e-999]"), &st));
    body_free(body);
}

static const char request[] =
    "{ \"model\" : \"chat\", \"tools\": [ {\"a\": 123456789012345678901234567890, \"b\":\t1.50}, "
    "\"\\u00e4\" ]\n,"
    "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"short\"},"
    "{\"type\":\"image_url\",\"image\\u005furl\":{\"url\":\"DATA:image\\/"
    "png;x=y;base64,iVBORw0K\\nGgo=\"}},"
    "{\"input_audio\":{\"data\":\"UklG\\/+8\",\"format\":\"wav\"}},"
    "{\"text\":\"quote \\\" \\u0001m0 \\ud83d\\ude00 \xC3\xA4\"},{\"text\":\"\\u0001m0\"},"
    "{\"text\":\"0123456789012345678901234567890123456789012345678901234567890123456789\"},"
    "{\"image_url\":{\"url\":\"https://example.org/a,b\"}},"
    "{\"image_url\":{\"url\":\"data:text/plain,hello\"}}]}],"
    "\"temperature\":-1.5e-3,\"stream\":true,\"stop\":null,\"n\":[0,-0,0.0,1E+2]}";

static struct span string_at(const json_t *part, const char *key)
{
    const json_t *value = json_object_get(part, key);

    assert_true(json_is_string(value));
    return span_of(json_string_value(value), json_string_length(value));
}

static void test_what_comes_of_it(void **state)
{
    (void)state;
    struct body *body = new_body();
    struct status st = {0};
    struct span text;
    size_t medium = 9;

    if (!push_whole(body, span_text(request), &st))
        fail_msg("%s", st.text);
    struct span skeleton = body_skeleton(body);
    json_t *root = json_loadb((const char *)skeleton.data, skeleton.size,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    assert_true(span_is(body_raw(body),
                        "[ {\"a\": 123456789012345678901234567890, \"b\":\t1.50}, \"\\u00e4\" ]"));
    const json_t *message = json_array_get(json_object_get(root, "messages"), 0);
    const json_t *parts = json_object_get(message, "content");
    const json_t *part[8];
    for (size_t i = 0; i < 8; i++)
        part[i] = json_array_get(parts, i);

    assert_true(span_is(string_at(part[0], "text"), "short"));
    struct span url = string_at(json_object_get(part[1], "image_url"), "url");
    assert_int_equal(body_resolve(body, url, &text, &medium), BODY_IS_MEDIUM);
    assert_int_equal(medium, 0);
    assert_string_equal(body_medium(body, 0)->name, "image");
    assert_string_equal(body_medium(body, 0)->type, "image/png");
    assert_int_equal(blob_size(body_medium(body, 0)->blob), 8);
    assert_memory_equal(blob_data(body_medium(body, 0)->blob), "\x89PNG\r\n\x1a\n", 8);
    url = string_at(json_object_get(part[2], "input_audio"), "data");
    assert_int_equal(body_resolve(body, url, &text, &medium), BODY_IS_MEDIUM);
    assert_int_equal(medium, 1);
    assert_string_equal(body_medium(body, 1)->name, "audio");
    assert_string_equal(body_medium(body, 1)->type, "");
    assert_int_equal(blob_size(body_medium(body, 1)->blob), 5);
    assert_memory_equal(blob_data(body_medium(body, 1)->blob), "RIF\xff\xef", 5);

    assert_int_equal(body_resolve(body, string_at(part[3], "text"), &text, &medium), BODY_IS_TEXT);
    assert_true(span_is(text, "quote \" \1m0 \xF0\x9F\x98\x80 \xC3\xA4"));
    /* What looks like a reference is none. */
    assert_int_equal(body_resolve(body, string_at(part[4], "text"), &text, &medium), BODY_IS_TEXT);
    assert_true(span_is(text, "\1m0"));
    assert_int_equal(body_resolve(body, string_at(part[5], "text"), &text, &medium), BODY_IS_TEXT);
    assert_int_equal(text.size, 70);
    /* A URL that carries no base64 stays what it is. */
    url = string_at(json_object_get(part[6], "image_url"), "url");
    assert_int_equal(body_resolve(body, url, &text, &medium), BODY_IS_TEXT);
    assert_true(span_is(text, "https://example.org/a,b"));
    url = string_at(json_object_get(part[7], "image_url"), "url");
    assert_int_equal(body_resolve(body, url, &text, &medium), BODY_IS_TEXT);
    assert_true(span_is(text, "data:text/plain,hello"));
    assert_true(json_is_true(json_object_get(root, "stream")));
    assert_int_equal(json_array_size(json_object_get(root, "n")), 4);
    json_decref(root);
    body_free(body);
}

static void test_any_cut_gives_the_same(void **state)
{
    (void)state;
    struct span all = span_text(request);
    struct body *whole = new_body();
    struct status st = {0};

    assert_true(push_whole(whole, all, &st));
    for (size_t at = 0; at <= all.size; at++) {
        struct body *cut = new_body();
        assert_true(body_push(cut, span_of(all.data, at), &st));
        assert_true(body_push(cut, span_of(all.data + at, all.size - at), &st));
        assert_true(body_finish(cut, &st));
        same(whole, cut);
        body_free(cut);
    }
    body_free(whole);
}

/* A number ends only with the body; its bytes were kept as they came. */
static void test_ends_within_a_raw_value(void **state)
{
    (void)state;
    struct span all = span_text("{\"tools\":123");

    for (size_t piece = 1; piece <= all.size; piece++) {
        struct body *body = new_body();
        struct status st = {0};
        for (size_t at = 0; at < all.size; at += piece) {
            size_t n = all.size - at < piece ? all.size - at : piece;
            assert_true(body_push(body, span_of(all.data + at, n), &st));
        }
        assert_false(body_finish(body, &st));
        assert_non_null(strstr(st.text, "ends at byte 12"));
        body_free(body);
    }
}

static void test_hash_tells_inputs_apart(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "1",           "10",          "100",      "1 ",       " 1", "1000000000000000",
        "[1,2,3,4,5]", "[1,2,3,4,6]", "1       ", "1        "};
    uint64_t seen[sizeof texts / sizeof *texts];
    struct status st = {0};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct body *body = new_body();
        assert_true(push_whole(body, span_text(texts[i]), &st));
        seen[i] = body_hash(body);
        for (size_t k = 0; k < i; k++)
            assert_true(seen[k] != seen[i]);
        body_free(body);
    }
}

/* Of what is left of it after random changes, whole and cut must agree, and with jansson about
 * what is JSON. */
static void test_random_changes(void **state)
{
    (void)state;
    static const char letters[] = "{}[]:,\"\\ \n01-+.eEutfnl\x80\xC3\xE2\x01";
    unsigned seed = (unsigned)time(NULL);
    unsigned random = seed;
    size_t accepted = 0;

    print_message("seed %u\n", seed);
    for (int round = 0; round < 20000; round++) {
        char text[160];
        size_t from = (random >> 8) % (sizeof request - 121);
        size_t size = 1 + (random >> 20) % 120;
        /* Half of them start from a small whole value. */
        static const char small[] =
            "{\"a\":[1,-0.5e+3,true,null,\"x\\u00e4\\ud83d\\ude00y\"],\"b\":{}}";
        if (round % 2 == 0) {
            from = 0;
            size = sizeof small - 1;
        }
        memcpy(text, round % 2 ? request + from : small, size);
        for (int change = 0; change < 2; change++) {
            random = random * 1103515245U + 12345;
            if (random >> 30)
                text[(random >> 16) % size] = letters[(random >> 4) % (sizeof letters - 1)];
        }
        struct status st = {0};
        bool ok = either_way(span_of(text, size), &random, &st);
        json_error_t why;
        json_t *root = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
        enum json_error_code code = root ? json_error_unknown : json_error_code(&why);
        json_decref(root);
        accepted += ok;
        /* What one of them refuses beyond the grammar. */
        if (code == json_error_numeric_overflow || code == json_error_null_byte_in_key ||
            strstr(st.text, "beyond all ranges"))
            continue;
        if (ok != (root != NULL))
            fail_msg("seed %u round %d: '%.*s': jansson says '%s'", seed, round, (int)size, text,
                     why.text);
    }
    assert_true(accepted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_no_json),
        cmocka_unit_test(test_media_that_are_none),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_numbers_that_nothing_holds),
        cmocka_unit_test(test_what_comes_of_it),
        cmocka_unit_test(test_any_cut_gives_the_same),
        cmocka_unit_test(test_ends_within_a_raw_value),
        cmocka_unit_test(test_hash_tells_inputs_apart),
        cmocka_unit_test(test_random_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
