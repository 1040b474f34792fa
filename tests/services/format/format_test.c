/* The bytes of an answer: however tokens are grouped, wherever the stage was killed, the same. */
#include "engine/base/heap.h"
#include "engine/text/json_text.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "services/format/format.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/nano-q4_0.gguf"

/* ------------------------------------------------------------------ a fake outbox */

struct outbox {
    struct buffer bytes;
    uint32_t upto;
    bool ended;
};

const char *stage_option(const struct stage_options *options, const char *name,
                         const char *fallback)
{
    (void)options;
    return strcmp(name, "model") == 0 ? MODEL : fallback;
}

void outbox_result_take(struct outbox *out, struct rid rid, uint32_t epoch, struct msg *msg)
{
    int at = msg_find(msg, "bytes", 0);

    (void)rid;
    (void)epoch;
    assert_false(out->ended);
    if (at >= 0)
        buffer_append(&out->bytes, blob_data(msg->blobs[at]), blob_size(msg->blobs[at]));
    assert_true(msg->head.upto >= out->upto);
    out->upto = msg->head.upto;
    out->ended = msg->head.last;
    msg_clear(msg);
}

/* ------------------------------------------------------------------ a recorded answer */

struct answer {
    void *format;
    struct ids tokens;
    struct tokenizer *tokenizer;
};

/* A thought, text with characters of several bytes, a tool call, text again, the end. */
static void record(struct answer *a)
{
    static const char text[] =
        "<|channel>thought\nlet me see\n<channel|>The \u00e9 of caf\u00e9 costs 3 "
        "\u20ac.<|tool_call>call:f{"
        "city:<|\"|>Oslo \u00f8<|\"|>,n:3}<tool_call|>And \"that\" was it \u2013 \U0001F600<turn|>";
    struct stage_options options = {0};
    struct stage_hello hello = {0};
    struct weights *w = NULL;
    struct status st = {0};

    assert_true(format_open(&a->format, &options, &hello, &st));
    assert_true(hello.slots > 0 && hello.model != 0);
    assert_true(weights_open(&w, MODEL, &st));
    assert_true(tokenizer_new(&a->tokenizer, w, &st));
    weights_close(w);
    tokenizer_encode(a->tokenizer, span_text(text), true, &a->tokens);
    assert_true(a->tokens.size > 60);
}

static void forget(struct answer *a)
{
    format_close(a->format);
    tokenizer_free(a->tokenizer);
    ids_clear(&a->tokens);
}

static void add_tokens(struct msg *msg, const int32_t *ids, size_t n)
{
    if (n)
        msg_add_take(msg, "tokens", BLOB_I32, (size_t[]){n}, 1, blob_copy(ids, n * sizeof *ids));
}

/* notes: of media, NULL for none. */
static void open_job_of(const struct answer *a, struct outbox *out, bool stream, size_t seen,
                        uint32_t skip, const char *notes)
{
    struct msg *job = heap_new(1, sizeof *job);
    struct fields_writer fields = {0};
    struct buffer packed = {0};
    enum fault fault;
    struct status st = {0};

    fields_text(&fields, "style", span_text("chat"));
    fields_text(&fields, "model", span_text("chat"));
    fields_int(&fields, "created", 1700000000);
    fields_bool(&fields, "stream", stream);
    fields_bool(&fields, "include_usage", true);
    fields_finish(&fields, &packed);
    job->head.fields = buffer_span(&packed);
    job->head.skip = skip;
    add_tokens(job, a->tokens.data, seen);
    if (notes)
        msg_add_take(job, "notes", BLOB_JSON, (size_t[]){strlen(notes)}, 1,
                     blob_copy(notes, strlen(notes)));
    assert_true(format_job(a->format, job, out, &fault, &st));
    msg_clear(job);
    heap_free(job);
    buffer_clear(&packed);
}

static void open_job(const struct answer *a, struct outbox *out, bool stream, size_t seen,
                     uint32_t skip)
{
    open_job_of(a, out, stream, seen, skip, NULL);
}

static void push(const struct answer *a, struct outbox *out, size_t from, size_t n, bool last)
{
    struct msg *more = heap_new(1, sizeof *more);
    struct fields_writer fields = {0};
    struct buffer packed = {0};
    enum fault fault;
    struct status st = {0};

    more->head.index = (uint32_t)from;
    more->head.last = last;
    if (last) {
        fields_text(&fields, "finish", span_text("stop"));
        fields_int(&fields, "prompt_tokens", 5);
        fields_int(&fields, "completion_tokens", (int64_t)a->tokens.size);
        fields_finish(&fields, &packed);
        more->head.fields = buffer_span(&packed);
    }
    add_tokens(more, a->tokens.data + from, n);
    if (!format_more(a->format, more, out, &fault, &st))
        fail_msg("%s", st.text);
    msg_clear(more);
    heap_free(more);
    buffer_clear(&packed);
}

/* The whole answer, in groups of so many tokens. */
static struct buffer run(const struct answer *a, bool stream, size_t group)
{
    struct outbox out = {0};

    open_job(a, &out, stream, 0, 0);
    for (size_t at = 0; at < a->tokens.size; at += group)
        push(a, &out, at, a->tokens.size - at < group ? a->tokens.size - at : group, false);
    push(a, &out, a->tokens.size, 0, true);
    assert_true(out.ended);
    assert_int_equal(out.upto, a->tokens.size);
    return out.bytes;
}

static void assert_same(const struct buffer *a, const struct buffer *b)
{
    assert_int_equal(a->size, b->size);
    assert_memory_equal(a->data, b->data, a->size);
}

/* ------------------------------------------------------------------ tests */

static void test_refusals(void **state)
{
    (void)state;
    struct answer a = {0};
    struct msg *msg = heap_new(1, sizeof *msg);
    struct outbox out = {0};
    struct fields_writer fields = {0};
    struct buffer packed = {0};
    enum fault fault;
    struct status st = {0};

    record(&a);
    assert_false(format_more(a.format, msg, &out, &fault, &st));
    assert_int_equal(fault, FAULT_STAGE);
    fields_text(&fields, "style", span_text("haiku"));
    fields_finish(&fields, &packed);
    msg->head.fields = buffer_span(&packed);
    assert_false(format_job(a.format, msg, &out, &fault, &st));
    assert_int_equal(fault, FAULT_REQUEST);
    assert_non_null(strstr(st.text, "haiku"));
    msg->head.fields = span_of(NULL, 0);
    add_tokens(msg, (const int32_t[]){1 << 30}, 1);
    assert_false(format_job(a.format, msg, &out, &fault, &st));
    assert_non_null(strstr(st.text, "tokens[0]"));
    msg_clear(msg);
    heap_free(msg);
    buffer_clear(&packed);
    forget(&a);
}

static void test_groups_do_not_matter(void **state)
{
    (void)state;
    struct answer a = {0};

    record(&a);
    for (int stream = 0; stream < 2; stream++) {
        struct buffer one = run(&a, stream, 1);
        for (size_t group = 2; group <= a.tokens.size; group += 5) {
            struct buffer other = run(&a, stream, group);
            assert_same(&one, &other);
            buffer_clear(&other);
        }
        buffer_clear(&one);
    }
    forget(&a);
}

/* Killed after every index: a fresh stage gets all tokens so far and how many are written out. */
static void test_killed_at_every_index(void **state)
{
    (void)state;
    struct answer a = {0};

    record(&a);
    for (int stream = 0; stream < 2; stream++) {
        struct buffer whole = run(&a, stream, 1);
        for (size_t cut = 0; cut <= a.tokens.size; cut++) {
            for (size_t ahead = 0; ahead <= 3 && cut + ahead <= a.tokens.size; ahead += 3) {
                struct outbox out = {0};
                open_job(&a, &out, stream, 0, 0);
                for (size_t i = 0; i < cut; i++)
                    push(&a, &out, i, 1, false);
                struct outbox next = {.bytes = out.bytes, .upto = out.upto};
                format_cancel(a.format, (struct rid){{0}}, 0);
                /* Infer may be ahead of what had been written. */
                open_job(&a, &next, stream, cut + ahead, (uint32_t)cut);
                for (size_t i = cut + ahead; i < a.tokens.size; i++)
                    push(&a, &next, i, 1, false);
                push(&a, &next, a.tokens.size, 0, true);
                assert_same(&whole, &next.bytes);
                buffer_clear(&next.bytes);
            }
        }
        buffer_clear(&whole);
    }
    forget(&a);
}

/* Each event of a stream but the last is an object. */
static void assert_objects(const char *text)
{
    for (; strncmp(text, "data: [DONE]", 12) != 0; text = strstr(text, "\n\n") + 2) {
        struct json_text object;
        struct status st = {0};
        struct span line = span_of(text + 6, (size_t)(strstr(text, "\n\n") - text) - 6);
        assert_int_equal(strncmp(text, "data: ", 6), 0);
        assert_true(json_text_init(&object, line, &st));
        assert_non_null(json_text_get(object.root, "choices"));
        json_text_clear(&object);
    }
}

static void test_what_is_written(void **state)
{
    (void)state;
    struct answer a = {0};

    record(&a);
    struct buffer whole = run(&a, false, 4);
    buffer_append_byte(&whole, 0);
    const char *text = (const char *)whole.data;
    assert_non_null(strstr(text, "\"finish_reason\":\"tool_calls\""));
    assert_non_null(strstr(text, "\"reasoning_content\":\"let me see\""));
    assert_non_null(strstr(text, "costs 3 \u20ac.And \\\"that\\\" was it \u2013 \U0001F600\""));
    assert_non_null(strstr(text, "\"name\":\"f\",\"arguments\":\"{\\\"city\\\":"));
    assert_non_null(strstr(text, "\"prompt_tokens\":5"));
    buffer_clear(&whole);
    struct buffer stream = run(&a, true, 4);
    buffer_append_byte(&stream, 0);
    text = (const char *)stream.data;
    assert_int_equal(strncmp(text, "data: {\"id\":\"chatcmpl-", 22), 0);
    assert_non_null(strstr(text, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
    assert_non_null(strstr(text, "\\\""));
    assert_non_null(strstr(text, "\"finish_reason\":\"tool_calls\"}],\"usage\":null}"));
    assert_objects(text);
    assert_string_equal(text + strlen(text) - 14, "data: [DONE]\n\n");
    buffer_clear(&stream);
    forget(&a);
}

/* An answer may be nothing but its end, or a thought that was cut. */
static void test_no_content(void **state)
{
    (void)state;
    struct answer a = {0};

    record(&a);
    for (size_t n = 0; n < 4; n += 3) {
        a.tokens.size = n;
        struct buffer whole = run(&a, false, 1);
        buffer_append_byte(&whole, 0);
        const char *text = (const char *)whole.data;
        assert_non_null(strstr(text, "\"message\":{\"role\":\"assistant\",\"content\":\"\""));
        buffer_clear(&whole);
    }
    forget(&a);
}

/* What was made of media is in the first chunk of a stream, in the only object of a whole answer;
 * what is no JSON is left out. */
static void test_notes(void **state)
{
    (void)state;
    static const char note[] = "\"media\":[{\"kind\":\"video\",\"left_out\":\"a 'b'\"}]";
    struct answer a = {0};

    record(&a);
    for (int i = 0; i < 4; i++) {
        struct outbox out = {0};
        bool stream = i % 2;
        open_job_of(&a, &out, stream, 0, 0,
                    i < 2 ? "[{\"kind\":\"video\",\"left_out\":\"a 'b'\"}]" : "[{");
        push(&a, &out, 0, a.tokens.size, true);
        buffer_append_byte(&out.bytes, 0);
        const char *found = strstr((char *)out.bytes.data, note);
        assert_int_equal(found != NULL, i < 2);
        if (found) {
            assert_null(strstr(found + 1, note));
            const char *chunk_end = strstr((char *)out.bytes.data, "\n\n");
            assert_true(!stream || found < chunk_end);
        }
        buffer_clear(&out.bytes);
    }
    forget(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_groups_do_not_matter),
        cmocka_unit_test(test_killed_at_every_index),
        cmocka_unit_test(test_what_is_written),
        cmocka_unit_test(test_no_content),
        cmocka_unit_test(test_notes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
