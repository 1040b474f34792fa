#include "tests/engine/text/cases.h"
#include "engine/base/heap.h"
#include "engine/text/json_text.h"
#include "engine/text/parse.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FILE_BYTES_MAX ((size_t)16 << 20)
#define JSON_FLAGS (JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL)

static struct span span_of_json(const json_t *text)
{
    if (!json_is_string(text))
        fail_msg("not a text in a golden file");
    return span_of(json_string_value(text), json_string_length(text));
}

void test_vocabulary_init(struct test_vocabulary *v)
{
    json_error_t error;
    *v = (struct test_vocabulary){0};
    v->json = json_load_file(SMALL_FOLDER "/vocabulary.json", JSON_ALLOW_NUL, &error);
    if (v->json == NULL)
        fail_msg("vocabulary.json:%d: %s", error.line, error.text);
    const json_t *pieces = json_object_get(v->json, "pieces");
    const json_t *types = json_object_get(v->json, "types");
    const json_t *merges = json_object_get(v->json, "merges");
    const size_t n = json_array_size(pieces);
    const size_t n_merges = json_array_size(merges);
    v->pieces = heap_array(struct span, n);
    v->types = heap_array(int64_t, n);
    v->merges = heap_array(struct span, n_merges);
    for (size_t i = 0; i < n; i++) {
        v->pieces[i] = span_of_json(json_array_get(pieces, i));
        v->types[i] = json_integer_value(json_array_get(types, i));
    }
    for (size_t i = 0; i < n_merges; i++)
        v->merges[i] = span_of_json(json_array_get(merges, i));
    v->v = (struct vocabulary){v->pieces, v->types, n, v->merges, n_merges};
}

void test_vocabulary_clear(struct test_vocabulary *v)
{
    json_decref(v->json);
    heap_free(v->pieces);
    heap_free(v->types);
    heap_free(v->merges);
    *v = (struct test_vocabulary){0};
}

struct tokenizer *small_tokenizer(void)
{
    struct test_vocabulary v;
    struct tokenizer *t = NULL;
    struct status st = {0};
    test_vocabulary_init(&v);
    if (!tokenizer_new_from(&t, &v.v, &st))
        fail_msg("%s", st.text);
    test_vocabulary_clear(&v);
    return t;
}

size_t each_case(const struct tokenizer *t, const char *folder, const char *name,
                 case_function *one)
{
    struct buffer all = {0};
    struct status st = {0};
    char path[512];
    size_t n = 0;
    (void)snprintf(path, sizeof(path), "%s/%s.jsonl", folder, name);
    if (!bytes_read_file(&all, path, FILE_BYTES_MAX, &st))
        fail_msg("%s", st.text);
    for (size_t at = 0; at < all.size; n++) {
        const uint8_t *end = memchr(all.data + at, '\n', all.size - at);
        const size_t size = end == NULL ? all.size - at : (size_t)(end - all.data) - at;
        json_error_t error;
        json_t *json = json_loadb((const char *)all.data + at, size, JSON_FLAGS, &error);
        if (json == NULL)
            fail_msg("%s:%zu: %s", path, n + 1, error.text);
        one(&(struct golden_case){t, json, span_of(all.data + at, size)});
        json_decref(json);
        at += size + 1;
    }
    buffer_clear(&all);
    return n;
}

struct span case_text(const json_t *json, const char *key)
{
    return span_of_json(json_object_get(json, key));
}

void ids_of(const json_t *list, struct ids *out)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        ids_push(out, (int32_t)json_number_value(json_array_get(list, i)));
}

void assert_ids(const struct golden_case *c, const struct ids *got)
{
    struct ids expected = {0};
    ids_of(json_object_get(c->json, "ids"), &expected);
    size_t same = 0;
    while (same < got->size && same < expected.size && got->data[same] == expected.data[same])
        same++;
    if (same < got->size || same < expected.size)
        fail_msg("ids differ from number %zu on (%zu, expected %zu): %.*s", same, got->size,
                 expected.size, (int)c->line.size, (const char *)c->line.data);
    ids_clear(&expected);
}

void assert_text(const struct golden_case *c, struct span got, struct span expected)
{
    if (!span_equal(got, expected))
        fail_msg("got\n%.*s\nexpected\n%.*s\nin %.*s", (int)got.size, (const char *)got.data,
                 (int)expected.size, (const char *)expected.data, (int)c->line.size,
                 (const char *)c->line.data);
}

/* ---- what a case says ---- */

void case_encode(const struct golden_case *c)
{
    struct ids got = {0};
    tokenizer_encode(c->tokenizer, case_text(c->json, "text"), false, &got);
    assert_ids(c, &got);
    ids_clear(&got);
}

void case_encode_special(const struct golden_case *c)
{
    struct ids got = {0};
    tokenizer_encode(c->tokenizer, case_text(c->json, "text"), true, &got);
    assert_ids(c, &got);
    ids_clear(&got);
}

static void detokenize(const struct golden_case *c, const struct ids *ids, bool show,
                       const char *key, bool step_by_step)
{
    struct detokenizer d = {0};
    struct buffer out = {0};
    const json_t *steps = json_object_get(c->json, "steps");
    for (size_t i = 0; i < ids->size; i++) {
        const size_t before = out.size;
        detokenizer_push(&d, c->tokenizer, ids->data[i], show, &out);
        const json_t *step = json_array_get(steps, i);
        if (step_by_step)
            assert_text(c, span_of(out.data + before, out.size - before),
                        span_of(json_string_value(step), json_string_length(step)));
    }
    const size_t before = out.size;
    detokenizer_end(&d, &out);
    if (step_by_step && json_object_get(c->json, "tail") != NULL)
        assert_text(c, span_of(out.data + before, out.size - before), case_text(c->json, "tail"));
    assert_text(c, buffer_span(&out), case_text(c->json, key));
    buffer_clear(&out);
}

void case_detokenize(const struct golden_case *c)
{
    struct ids ids = {0};
    ids_of(json_object_get(c->json, "ids"), &ids);
    if (json_object_get(c->json, "text") != NULL)
        detokenize(c, &ids, true, "text", false);
    detokenize(c, &ids, false, "text_without_special", true);
    ids_clear(&ids);
}

/* All that a parser said, one text each; a call as its name, a tab and its arguments. */
struct heard {
    struct buffer content, reasoning, calls;
};

static void hear(void *context, const struct parse_event *event)
{
    struct heard *heard = context;
    struct buffer *out = event->kind == PARSE_CONTENT     ? &heard->content
                         : event->kind == PARSE_REASONING ? &heard->reasoning
                                                          : &heard->calls;
    assert_true(event->text.size > 0);
    assert_int_equal(utf8_valid_prefix(event->text.data, event->text.size), event->text.size);
    if (event->kind == PARSE_CALL) {
        buffer_append(out, event->name.data, event->name.size);
        buffer_append_byte(out, '\t');
    }
    buffer_append(out, event->text.data, event->text.size);
    if (event->kind == PARSE_CALL)
        buffer_append_byte(out, '\n');
}

void case_parse(const struct golden_case *c)
{
    struct json_text line; /* our own reader: jansson would not keep large numbers */
    struct status st = {0};
    struct ids ids = {0};
    struct heard heard = {0};
    struct buffer calls = {0};
    if (!json_text_init(&line, c->line, &st))
        fail_msg("%s", st.text);
    const struct json_value *expect = json_text_get(line.root, "expect");
    const struct json_value *call = json_text_get(expect, "tool_calls")->first;
    for (; call != NULL; call = call->next) {
        const struct json_value *name = json_text_get(call, "name");
        buffer_append(&calls, name->text.data, name->text.size);
        buffer_append_byte(&calls, '\t');
        json_text_write(json_text_get(call, "arguments"), &calls);
        buffer_append_byte(&calls, '\n');
    }
    struct parse *p =
        parse_new(c->tokenizer, span_is(case_text(c->json, "start_state"), "THOUGHT"));
    ids_of(json_object_get(c->json, "ids"), &ids);
    for (size_t i = 0; i < ids.size; i++)
        parse_push(p, ids.data[i], hear, &heard);
    parse_end(p, hear, &heard);
    assert_text(c, buffer_span(&heard.content), json_text_get(expect, "content")->text);
    assert_text(c, buffer_span(&heard.reasoning), json_text_get(expect, "reasoning")->text);
    assert_text(c, buffer_span(&heard.calls), buffer_span(&calls));
    assert_text(c, span_text(parse_finish(p)), json_text_get(expect, "finish")->text);
    assert_int_equal(parse_calls(p), json_text_get(expect, "tool_calls")->n);
    parse_free(p);
    ids_clear(&ids);
    buffer_clear(&calls);
    buffer_clear(&heard.content);
    buffer_clear(&heard.reasoning);
    buffer_clear(&heard.calls);
    json_text_clear(&line);
}
