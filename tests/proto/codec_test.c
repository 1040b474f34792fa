/* Heads and fields: what is refused, golden bytes both ways, hostile bytes. */
#include "engine/base/heap.h"
#include "proto/codec.h"
#include "tests/proto/golden.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct head head;
static struct head again;

/* ---- refusals: a golden head with one entry changed, by bytes ---- */

/* Replace `from` (once in the head) by `to`; both are msgpack bytes. */
static void refuse_change(const char *name, struct span from, struct span to, const char *word)
{
    struct status st = {0};
    struct buffer golden = golden_read(name);
    struct buffer changed = {0};
    size_t at = 0;

    while (at + from.size <= golden.size && memcmp(golden.data + at, from.data, from.size) != 0)
        at++;
    if (at + from.size > golden.size)
        fail_msg("%s: nothing to change for '%s'", name, word);
    buffer_append(&changed, golden.data, at);
    buffer_append(&changed, to.data, to.size);
    buffer_append(&changed, golden.data + at + from.size, golden.size - at - from.size);
    memset(&head, 0x5a, sizeof head);
    memset(&again, 0x5a, sizeof again);
    if (head_unpack(&head, buffer_span(&changed), &st))
        fail_msg("%s: accepted, though %s", name, word);
    if (!strstr(st.text, word))
        fail_msg("%s: '%s' does not say '%s'", name, st.text, word);
    assert_memory_equal(&head, &again, sizeof head); /* untouched */
    buffer_clear(&golden);
    buffer_clear(&changed);
}

static void test_refuses_heads(void **state)
{
    struct status st = {0};
    static uint8_t large[HEAD_BYTES_MAX + 1];

    (void)state;
    assert_false(head_unpack(&head, span_of(large, sizeof large), &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    assert_false(head_unpack(&head, B("\xc0"), &st));
    assert_non_null(strstr(st.text, "not a map"));
    assert_false(head_unpack(&head, B("\x90"), &st));
    assert_false(head_unpack(&head, B("\x80"), &st));
    assert_non_null(strstr(st.text, "'kind' is missing"));
    assert_false(head_unpack(&head, B("\xdd\xff\xff\xff\xff"), &st));
    refuse_change("bye",
                  B("\xa3"
                    "bye"),
                  B("\xa3"
                    "bie"),
                  "kind: unknown");
    refuse_change("bye",
                  B("\xa3"
                    "bye"),
                  B("\x0c"), "kind: unknown");
    refuse_change("bye", B("\x81"), B("\x82\xa1n\x01"), "bye: 'n' does not belong there");
    refuse_change("bye", B("\x81"), B("\x82\xa1z\x01"), "unknown key 'z'");
    refuse_change("welcome", B("\x82"), B("\x81"), "bytes too many");
    refuse_change("credit", B("\xa1n\x03"), B("\xa1n\x00"), "n: 0 is outside 1 to 256");
    refuse_change("credit", B("\xa1n\x03"), B("\xa1n\xcd\x01\x01"), "n: 257 is outside");
    refuse_change("credit", B("\xa1n\x03"), B("\xa1n\xff"), "n: -1 is below 1");
    refuse_change("credit", B("\xa1n\x03"), B("\xa1n\xca\x40\x40\x00\x00"), "n: not an integer");
    refuse_change("credit", B("\xa1n\x03"),
                  B("\xa1n\xa1"
                    "3"),
                  "n: not an integer");
    refuse_change("credit", B("\xa1n"), B("\xa4held"), "'n' is missing");
    refuse_change("refuse", B("code\x0b"), B("code\x00"), "code: 0 is outside");
    refuse_change("refuse", B("code\x0b"), B("code\x0f"), "code: 15 is outside");
    refuse_change("refuse", B("\xa9say hello"), B("\xa9say\0hello"), "text: character 0x00");
    refuse_change("refuse", B("\xa9say hello"), B("\xc0"), "text: not a text");
    refuse_change("failed", B("\xa7request"), B("\xa7sunspot"), "fault: unknown");
    refuse_change("more-last", B("last\xc3"), B("last\x01"), "last: not a boolean");
    refuse_change("hello", B("\xa5infer"), B("\xa5in er"), "stage: character 0x20");
    refuse_change("hello", B("\xa5infer"), B("\xa0"), "stage: empty");
    refuse_change("hello", B("\xa5infer"),
                  B("\xd9\x20"
                    "abcdefghijklmnopqrstuvwxyz012345"),
                  "stage: 32 bytes, allowed are 31");
    refuse_change("hello", B("wire_min\x01"), B("wire_min\x02"), "wire_min is above wire_max");
    refuse_change("hello", B("slots\x08"), B("slots\xcd\x01\x01"), "slots: 257");
    refuse_change("cancel", B("\xc4\x10"), B("\xc4\x0f"), "msgpack");
    refuse_change("cancel", B("\xc4\x10"), B("\xb0"), "rid: not 16 bytes");
    refuse_change("cancel", B("epoch\xce\x00\x01\x00\x00"),
                  B("epoch\xcf\x00\x00\x00\x01\x00\x00\x00\x00"), "epoch: 4294967296");
    refuse_change("job-least", B("ms_left\x00"), B("ms_left\xff"), "ms_left: -1");
    refuse_change("job-least", B("ms_left\x00"), B("ms_left\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"),
                  "ms_left:");
    refuse_change("job-least", B("\xa7ms_left\x00"), B("\xa4skip\x01"), "'ms_left' is missing");
    refuse_change("beat", B("\x92\xc4\x10"), B("\x92\xb0"), "running: item 0: not 16 bytes");
}

static void test_refuses_blobs(void **state)
{
    (void)state;
    refuse_change("more", B("\x91\x93"), B("\x90\x93"), "msgpack");
    refuse_change("more", B("\x91\x93\xa6tokens"), B("\x91\x94\x01\xa6tokens"),
                  "not [name, type, dims]");
    refuse_change("more", B("\xa6tokens"),
                  B("\xb0"
                    "tokenstokenstok1"),
                  "blobs: blob 0: name: 16 bytes, allowed are 15");
    refuse_change("more", B("\xa3i32"), B("\xa3i64"), "type: unknown");
    refuse_change("more", B("i32\x91\x01"), B("i32\x90"), "dims");
    refuse_change("more", B("i32\x91\x01"), B("i32\x95\x01\x01\x01\x01\x01"), "dims");
    refuse_change("more", B("i32\x91\x01"), B("i32\x91\xff"), "dims");
    refuse_change("more", B("i32\x91\x01"), B("i32\x91\xce\x04\x00\x00\x01"), "dims: more than");
    refuse_change("more", B("i32\x91\x01"),
                  B("i32\x94\xce\x04\x00\x00\x00\xce\x04\x00\x00\x00\xce\x04\x00\x00\x00\x04"),
                  "dims: more than");
    refuse_change("job", B("json\x91\x00"), B("json\x92\x00\x00"), "dims: one for json");
    refuse_change("job",
                  B("\xa6"
                    "fields\x88"),
                  B("\xa6"
                    "fields\x98"),
                  "head");
}

/* ---- golden bytes ---- */

static struct rid rid_from(uint8_t first)
{
    struct rid rid;

    for (uint8_t i = 0; i < 16; i++)
        rid.bytes[i] = (uint8_t)(first + i);
    return rid;
}

static void add_blob(const char *name, enum blob_type type, const size_t *dims, size_t n_dims)
{
    struct blob_desc *desc = &head.blobs[head.n_blobs++];

    *desc = (struct blob_desc){.type = type, .n_dims = n_dims};
    (void)snprintf(desc->name, sizeof desc->name, "%s", name);
    memcpy(desc->dims, dims, n_dims * sizeof *dims);
}

static void make_job(struct buffer *fields)
{
    const struct span stop[] = {span_text("\n\n"), span_text("Ende")};
    struct fields_writer w = {0};

    head = (struct head){
        .kind = MSG_JOB, .epoch = 2, .skip = 40, .ms_left = 300000, .tenant = 0xC0FFEE0000000001U};
    head.rid = rid_from(0);
    fields_int(&w, "created", 1764000000);
    fields_text(&w, "style", span_text("chat"));
    fields_bool(&w, "stream", true);
    fields_float(&w, "temperature", 0.7);
    fields_int(&w, "top_k", 64);
    fields_int(&w, "seed", -5);
    fields_texts(&w, "stop", stop, 2);
    fields_int(&w, "max_tokens", 0);
    fields_finish(&w, fields);
    head.fields = buffer_span(fields);
    add_blob("turns", BLOB_MSGPACK, (size_t[]){300}, 1);
    add_blob("tools", BLOB_JSON, (size_t[]){0}, 1);
    add_blob("image.rgb", BLOB_U8, (size_t[]){768, 672, 3}, 3);
    add_blob("audio.pcm", BLOB_F32, (size_t[]){160000}, 1);
}

static const struct {
    const char *name;
    struct head head;
} plain[] = {
    {"hello",
     {.kind = MSG_HELLO,
      .wire_min = 1,
      .wire_max = 1,
      .stage = "infer",
      .seat = "ward7/infer/0",
      .start = 0xFEDCBA9876543210,
      .model = 0x8000000000000001,
      .numerics = "0.1.0 avx2 f16",
      .slots = 8}},
    {"hello-least",
     {.kind = MSG_HELLO,
      .wire_min = 1,
      .wire_max = 3,
      .stage = "upper",
      .seat = "h/upper/1",
      .start = 7,
      .slots = 1}},
    {"welcome", {.kind = MSG_WELCOME, .interval_ms = 200}},
    {"refuse", {.kind = MSG_REFUSE, .code = STATUS_UNAVAILABLE, .text = "say hello"}},
    {"credit", {.kind = MSG_CREDIT, .n = 3}},
    {"job-least", {.kind = MSG_JOB, .epoch = 1, .ms_left = -3}}, /* over is over: 0 */
    {"more", {.kind = MSG_MORE_INPUT, .epoch = 2, .seq = 70000, .index = 69999}},
    {"more-last", {.kind = MSG_MORE_INPUT, .epoch = 2, .last = true}},
    {"result",
     {.kind = MSG_RESULT,
      .epoch = UINT32_MAX,
      .seq = 200,
      .last = true,
      .index = 128,
      .upto = 129}},
    {"failed",
     {.kind = MSG_FAILED,
      .epoch = 1,
      .code = STATUS_LIMIT,
      .fault = FAULT_REQUEST,
      .text = "prompt of 40000 tokens, the context has 32768 \u2013 zu lang"}},
    {"cancel", {.kind = MSG_CANCEL, .epoch = 65536}},
    {"beat", {.kind = MSG_BEAT, .work = 1099511627776, .held = 2, .memory_bytes = 7516192768}},
    {"beat-idle", {.kind = MSG_BEAT, .memory_bytes = 65535}},
    {"gone",
     {.kind = MSG_GONE,
      .code = STATUS_INTERNAL,
      .text = "killed by signal 9",
      .seat = "ward7/infer/0",
      .start = 0xFEDCBA9876543210}},
    {"drain", {.kind = MSG_DRAIN}},
    {"bye", {.kind = MSG_BYE}},
};

/* Fill `head` with the golden case of that name. */
static void make_head(const char *name, struct buffer *fields)
{
    struct fields_writer w = {0};

    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (strcmp(plain[i].name, name) == 0)
            head = plain[i].head;
    bool is_second = head.kind == MSG_RESULT || head.kind == MSG_FAILED;
    head.rid = rid_from(is_second ? 240 : 0);
    if (strcmp(name, "job") == 0) {
        make_job(fields);
    } else if (strcmp(name, "more") == 0) {
        add_blob("tokens", BLOB_I32, (size_t[]){1}, 1);
    } else if (strcmp(name, "more-last") == 0) {
        fields_text(&w, "finish", span_text("stop"));
        fields_int(&w, "prompt_tokens", 300);
        fields_float(&w, "decode_ms", 12.5);
        fields_finish(&w, fields);
        head.fields = buffer_span(fields);
    } else if (strcmp(name, "result") == 0) {
        add_blob("bytes", BLOB_U8, (size_t[]){17}, 1);
        add_blob("soft", BLOB_BF16, (size_t[]){4, 5}, 2);
    } else if (strcmp(name, "beat") == 0) {
        head.running[0] = rid_from(0);
        head.running[1] = rid_from(240);
        head.n_running = 2;
    }
}

static void test_golden_heads_both_ways(void **state)
{
    (void)state;
    for (size_t f = 0; f < golden_n; f++) {
        struct status st = {0};
        struct buffer fields = {0};
        struct buffer packed = {0};
        if (strcmp(golden_names[f], "turns") == 0)
            continue;
        struct buffer golden = golden_read(golden_names[f]);
        head = (struct head){.kind = MSG_KINDS};
        make_head(golden_names[f], &fields);
        head_pack(&head, &packed);
        if (!span_equal(buffer_span(&packed), buffer_span(&golden)))
            fail_msg("%s: other bytes", golden_names[f]);
        if (!head_unpack(&again, buffer_span(&golden), &st))
            fail_msg("%s: %s", golden_names[f], st.text);
        assert_int_equal(again.kind, head.kind);
        assert_string_equal(again.text, head.text);
        assert_string_equal(again.seat, head.seat);
        assert_true(again.start == head.start && again.model == head.model);
        assert_true(again.epoch == head.epoch && again.seq == head.seq && again.last == head.last);
        assert_int_equal(again.n_running, head.n_running);
        assert_int_equal(again.n_blobs, head.n_blobs);
        assert_memory_equal(again.blobs, head.blobs, sizeof head.blobs);
        buffer_reset(&packed);
        head_pack(&again, &packed);
        if (!span_equal(buffer_span(&packed), buffer_span(&golden)))
            fail_msg("%s: other bytes the second time", golden_names[f]);
        buffer_clear(&packed);
        buffer_clear(&golden);
        buffer_clear(&fields);
    }
}

static void test_fields_are_read_with_their_types(void **state)
{
    struct status st = {0};
    struct buffer golden = golden_read("job");
    struct span texts[1] = {{0}};
    struct span text = {0};
    int64_t number = 99;
    double real = 9.5;
    bool yes = false;

    (void)state;
    assert_true(head_unpack(&head, buffer_span(&golden), &st));
    struct span fields = head.fields;
    assert_true(fields.data > golden.data && fields.data < golden.data + golden.size);
    assert_false(field_int(fields, "nothing", &number));
    assert_false(field_int(fields, "style", &number));
    assert_false(field_int(fields, "temperature", &number));
    assert_int_equal(number, 99);
    assert_false(field_float(fields, "style", &real));
    assert_false(field_bool(fields, "top_k", &yes));
    assert_false(field_text(fields, "top_k", &text));
    assert_int_equal(field_texts(fields, "style", texts, 1), 0);
    assert_int_equal(field_texts((struct span){0}, "stop", texts, 1), 0);
    assert_false(field_int((struct span){0}, "seed", &number));
    assert_true(field_int(fields, "seed", &number));
    assert_int_equal(number, -5);
    assert_true(field_float(fields, "temperature", &real));
    assert_true(real == 0.7);
    assert_true(field_float(fields, "seed", &real));
    assert_true(real == -5);
    assert_true(field_bool(fields, "stream", &yes));
    assert_true(yes);
    assert_true(field_text(fields, "style", &text));
    assert_true(span_is(text, "chat"));
    assert_int_equal(field_texts(fields, "stop", texts, 1), 2);
    assert_true(span_is(texts[0], "\n\n"));
    buffer_clear(&golden);
}

/* ---- hostile bytes ---- */

/* What is accepted must come out the same after packing and unpacking once more; what unpacking
 * takes from malloc is bounded. Returns whether it was accepted. */
static bool attack(const uint8_t *data, size_t size, size_t *largest)
{
    struct status st = {0};
    struct turns turns = {0};
    uint8_t *exact = heap_new(size, 1);

    memcpy(exact, data, size);
    golden_count_reset();
    bool ok = head_unpack(&head, span_of(exact, size), &st);
    size_t counted = golden_counted();
    if (ok) {
        struct buffer first = {0};
        struct buffer second = {0};
        head_pack(&head, &first);
        if (!head_unpack(&again, buffer_span(&first), &st))
            fail_msg("packed again: %s", st.text);
        head_pack(&again, &second);
        assert_true(span_equal(buffer_span(&first), buffer_span(&second)));
        buffer_clear(&first);
        buffer_clear(&second);
    }
    if (counted > *largest)
        *largest = counted;
    if (turns_unpack(&turns, span_of(exact, size), &st))
        turns_clear(&turns);
    heap_free(exact);
    return ok;
}

static void expect_little(size_t largest)
{
    if (!golden_counts())
        print_message("memory is not counted in this build\n");
    print_message("one head took %zu bytes at most\n", largest);
    assert_true(largest < 200000);
}

static void test_every_cut_and_every_byte(void **state)
{
    size_t largest = 0;
    size_t accepted = 0;

    (void)state;
    (void)golden_counts();
    for (size_t f = 0; f < golden_n; f++) {
        struct buffer golden = golden_read(golden_names[f]);
        for (size_t size = 0; size < golden.size; size++)
            assert_false(attack(golden.data, size, &largest));
        for (size_t at = 0; at < golden.size; at++) {
            uint8_t was = golden.data[at];
            for (int value = 0; value < 256; value += at < 48 ? 1 : 7) {
                golden.data[at] = (uint8_t)value;
                accepted += attack(golden.data, golden.size, &largest);
            }
            golden.data[at] = was;
        }
        buffer_clear(&golden);
    }
    assert_true(accepted > 1000);
    expect_little(largest);
}

static void test_random_changes(void **state)
{
    uint64_t random = golden_seed();
    struct buffer original = {0};
    size_t largest = 0;

    (void)state;
    (void)golden_counts();
    for (size_t turn = 0; turn < 500 * golden_n; turn++) {
        if (turn % 500 == 0) {
            buffer_clear(&original);
            original = golden_read(golden_names[turn / 500]);
        }
        struct buffer golden = {0};
        buffer_append(&golden, original.data, original.size);
        for (uint64_t n = 1 + golden_random(&random) % 6; n > 0; n--)
            golden.data[golden_random(&random) % golden.size] = (uint8_t)golden_random(&random);
        (void)attack(golden.data, golden.size - golden_random(&random) % 2, &largest);
        buffer_clear(&golden);
    }
    buffer_clear(&original);
    expect_little(largest);
}

static void test_the_largest_head_there_is(void **state)
{
    struct buffer bytes = {0};
    size_t largest = 0;

    (void)state;
    (void)golden_counts();
    /* {"kind": "job", "fields": {"a": [nil, ...]}} with as many values as the check lets pass. */
    struct span begin = B("\x82\xa4kind\xa3job\xa6"
                          "fields\x81\xa1"
                          "a\xdc\x0f\xf8");
    buffer_append(&bytes, begin.data, begin.size);
    for (int i = 0; i < 4088; i++)
        buffer_append_byte(&bytes, 0xc0);
    assert_false(attack(bytes.data, bytes.size, &largest));
    if (golden_counts())
        assert_true(largest > 50000); /* msgpack-c did unpack it */
    expect_little(largest);
    buffer_clear(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_heads),
        cmocka_unit_test(test_refuses_blobs),
        cmocka_unit_test(test_golden_heads_both_ways),
        cmocka_unit_test(test_fields_are_read_with_their_types),
        cmocka_unit_test(test_every_cut_and_every_byte),
        cmocka_unit_test(test_random_changes),
        cmocka_unit_test(test_the_largest_head_there_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
