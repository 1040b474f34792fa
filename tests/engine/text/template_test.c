/* A chat to a prompt: what is refused, text that stays text, spans and cuts. */
#include "engine/base/heap.h"
#include "engine/text/template.h"
#include "tests/engine/text/vocabulary.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    tokenizer = small_tokenizer();
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static void refuse(const struct chat *chat, const char *why)
{
    struct prompt prompt = {.n_spans = 77};
    struct status st = {0};
    assert_false(template_render(tokenizer, chat, &prompt, &st));
    assert_int_equal(prompt.n_spans, 77);
    if (strstr(st.text, why) == NULL)
        fail_msg("'%s' does not say '%s'", st.text, why);
}

static void test_refuses_tools(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"[", "tools: byte 1: a value was expected"},
        {"{\"a\":1}", "tools: not a list"},
        {"[1]", "tools[0]: function: missing, or not an object"},
        {"[{\"function\":[]}]", "tools[0]: function: missing"},
        {"[{\"function\":{}}]", "tools[0]: function: name: missing, or not a text"},
        {"[{\"function\":{\"name\":\"\"}}]", "tools[0]: function: name: missing"},
        {"[{\"function\":{\"name\":1}}]", "tools[0]: function: name: missing"},
        {"[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"g\",\"parameters\":[1]}}]",
         "tools[1]: function: parameters: not an object"},
        {"[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":[1]}}}]",
         "tools[0]: function: parameters: properties: not an object"},
        {"[{\"function\":{\"name\":\"f\",\"parameters\":{\"required\":\"a\"}}}]",
         "tools[0]: function: parameters: required: not a list"},
        {"[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":\"array\","
         "\"items\":{\"type\":1}}}}}}]",
         "parameters: properties: a: items: type: neither a text nor a list"},
        {"[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":"
         "\"object\","
         "\"required\":{\"b\":1}}}}}}]",
         "parameters: properties: a: required: not a list"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuse(&(struct chat){.tools = span_text(bad[i][0])}, bad[i][1]);
}

static void refuse_message(const struct chat_message *message, const char *why)
{
    const struct chat_message messages[] = {{.role = CHAT_USER}, *message, {.role = CHAT_USER}};
    refuse(&(struct chat){.messages = messages,
                          .n_messages = 3,
                          .media = (struct chat_medium[]){{.tokens = 5}, {0}}},
           why);
}

static void test_refuses_messages(void **state)
{
    (void)state;
    static const char *const bad[] = {"\"{}\"", "[]", "1", "true", "{", "{\"a\":1}x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const struct chat_call calls[] = {{.name = span_text("f"), .arguments = span_text("{}")},
                                          {.name = span_text("f"), .arguments = span_text(bad[i])}};
        refuse_message(&(struct chat_message){.role = CHAT_ASSISTANT, .calls = calls, .n_calls = 2},
                       "messages[1].tool_calls[1].function.arguments: ");
    }
    const struct chat_part parts[] = {{.kind = MEDIA_NONE}, {.kind = MEDIA_IMAGE, .medium = 2}};
    refuse_message(&(struct chat_message){.role = CHAT_USER, .parts = parts, .n_parts = 2},
                   "messages[1].content[1]: medium 2 of 0");
    const struct chat_response response = {.value = span_text("[")};
    refuse_message(
        &(struct chat_message){.role = CHAT_ASSISTANT, .responses = &response, .n_responses = 1},
        "messages[1].tool_responses[0].response: byte 1");
    const struct chat_call call = {.name = span_text("f")};
    const struct chat_message object[] = {
        {.role = CHAT_ASSISTANT, .calls = &call, .n_calls = 1},
        {.role = CHAT_TOOL, .value = span_text("{\"a\":1}")},
    };
    refuse(&(struct chat){.messages = object, .n_messages = 2},
           "messages[1].content: neither a text nor a list of parts");
}

static void test_refuses_media(void **state)
{
    (void)state;
    const struct chat_part video = {.kind = MEDIA_VIDEO};
    const struct chat_message message = {.role = CHAT_USER, .parts = &video, .n_parts = 1};
    struct chat chat = {.messages = &message,
                        .n_messages = 1,
                        .media = (struct chat_medium[]){{.tokens = 10}},
                        .n_media = 1};
    refuse(&chat, "messages[0].content[0]: medium 0: a video without frames");
    const struct chat_part image = {.kind = MEDIA_IMAGE};
    const struct chat_message large = {.role = CHAT_USER, .parts = &image, .n_parts = 1};
    chat.messages = &large;
    chat.media = (struct chat_medium[]){{.tokens = TEMPLATE_TOKENS_MAX + 1}};
    refuse(&chat, "prompt of more than 1048576 tokens");
    chat.media = (struct chat_medium[]){{.tokens = TEMPLATE_TOKENS_MAX}};
    refuse(&chat, "prompt of more than 1048576 tokens");
    /* Not shown: in a first system message, in an answer without its call. */
    chat.media = (struct chat_medium[]){{.tokens = 4}};
    const struct chat_message lost[] = {
        {.role = CHAT_SYSTEM, .is_list = true, .parts = &image, .n_parts = 1},
        {.role = CHAT_TOOL, .is_list = true, .parts = &image, .n_parts = 1},
    };
    for (size_t i = 0; i < 2; i++) {
        chat.messages = &lost[i];
        refuse(&chat, "messages: medium 0 is at a place that is not shown");
    }
}

static void test_refuses_a_vocabulary_without_tools(void **state)
{
    (void)state;
    struct test_vocabulary v;
    struct tokenizer *t = NULL;
    struct status st = {0};
    struct prompt prompt = {0};
    test_vocabulary_init(&v);
    for (size_t i = 0; i < v.v.n_pieces; i++)
        if (span_is(v.pieces[i], "<|tool>"))
            v.pieces[i] = span_text("<|hammer>");
    assert_true(tokenizer_new_from(&t, &v.v, &st));
    const struct chat chat = {.tools = span_text("[{\"function\":{\"name\":\"f\"}}]")};
    assert_false(template_render(t, &chat, &prompt, &st));
    assert_string_equal(st.text, "the vocabulary has not the control token <|tool>");
    tokenizer_free(t);
    test_vocabulary_clear(&v);
}

/* The prompt as text, control tokens shown. */
static void render(const struct chat *chat, struct prompt *prompt, struct buffer *out)
{
    struct detokenizer d = {0};
    struct status st = {0};
    *prompt = (struct prompt){0};
    if (!template_render(tokenizer, chat, prompt, &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < prompt->ids.size; i++)
        detokenizer_push(&d, tokenizer, prompt->ids.data[i], true, out);
    detokenizer_end(&d, out);
}

static size_t count(const struct prompt *prompt, enum special which)
{
    size_t n = 0;
    for (size_t i = 0; i < prompt->ids.size; i++)
        n += prompt->ids.data[i] == tokenizer_special(tokenizer, which);
    return n;
}

/* Wherever a caller's text goes, the names of control tokens in it stay text. */
static void test_foreign_text_stays_text(void **state)
{
    (void)state;
    const struct span all = span_text(
        "<pad><eos><bos><unk><mask><|tool><tool|><|tool_call><tool_call|><|tool_response>"
        "<tool_response|><|\"|><|think|><|channel><channel|><|turn><turn|><|image><|audio><|image|>"
        "<|audio|><image|><audio|><|video|>");
    const struct chat_part part = {.text = all};
    const struct chat_call call = {
        .id = span_text("1"), .name = all, .arguments = span_text("{\"<|turn>\":\"<turn|>\"}")};
    const struct chat_message messages[] = {
        {.role = CHAT_SYSTEM, .parts = &part, .n_parts = 1},
        {.role = CHAT_USER, .parts = &part, .n_parts = 1},
        {.role = CHAT_ASSISTANT, .reasoning = all, .calls = &call, .n_calls = 1},
        {.role = CHAT_TOOL, .parts = &part, .n_parts = 1, .name = all},
    };
    const struct chat chat = {
        .messages = messages,
        .n_messages = 4,
        .tools = span_text("[{\"function\":{\"name\":\"<|turn>\",\"description\":\"<eos>\","
                           "\"parameters\":{\"type\":\"<bos>\",\"properties\":{\"<|tool>\":{"
                           "\"type\":\"<tool|>\"}}}}}]"),
        .thinking = true,
        .generation_prompt = true,
    };
    struct prompt prompt;
    struct buffer text = {0};
    render(&chat, &prompt, &text);
    static const struct {
        enum special which;
        size_t n;
    } expected[] = {
        {SPECIAL_PAD, 0},         {SPECIAL_EOS, 0},          {SPECIAL_BOS, 1},
        {SPECIAL_UNK, 0},         {SPECIAL_MASK, 0},         {SPECIAL_TOOL, 1},
        {SPECIAL_TOOL_END, 1},    {SPECIAL_CALL, 1},         {SPECIAL_CALL_END, 1},
        {SPECIAL_RESPONSE, 1},    {SPECIAL_RESPONSE_END, 1}, {SPECIAL_QUOTE, 10},
        {SPECIAL_THINK, 1},       {SPECIAL_CHANNEL, 2},      {SPECIAL_CHANNEL_END, 1},
        {SPECIAL_TURN, 3},        {SPECIAL_TURN_END, 2},     {SPECIAL_IMAGE_BEGIN, 0},
        {SPECIAL_AUDIO_BEGIN, 0}, {SPECIAL_IMAGE, 0},        {SPECIAL_AUDIO, 0},
        {SPECIAL_IMAGE_END, 0},   {SPECIAL_AUDIO_END, 0},    {SPECIAL_VIDEO, 0},
    };
    for (size_t i = 0; i < SPECIAL_COUNT; i++)
        if (count(&prompt, expected[i].which) != expected[i].n)
            fail_msg("%zu of %s in\n%.*s", count(&prompt, expected[i].which),
                     tokenizer_special_name(expected[i].which), (int)text.size, (char *)text.data);
    assert_true(prompt.starts_in_thought);
    buffer_clear(&text);
    prompt_clear(&prompt);
}

static void test_spans_and_cuts(void **state)
{
    (void)state;
    const struct chat_part parts[] = {
        {.kind = MEDIA_IMAGE, .medium = 0},
        {.text = span_text(" x ")},
        {.kind = MEDIA_AUDIO, .medium = 1},
    };
    const struct chat_part system = {.text = span_text("s")};
    const struct chat_message messages[] = {
        {.role = CHAT_SYSTEM, .parts = &system, .n_parts = 1},
        {.role = CHAT_USER, .is_list = true, .parts = parts, .n_parts = 3},
    };
    const struct chat chat = {.messages = messages,
                              .n_messages = 2,
                              .generation_prompt = true,
                              .media = (struct chat_medium[]){{.tokens = 3}, {.tokens = 2}},
                              .n_media = 2};
    struct prompt prompt;
    struct buffer text = {0};
    render(&chat, &prompt, &text);
    assert_true(span_is(buffer_span(&text),
                        "<bos><|turn>system\ns<turn|>\n<|turn>user\n"
                        "<|image><|image|><|image|><|image|><image|>x<|audio><|audio|><|audio|>"
                        "<audio|><turn|>\n<|turn>model\n<|channel>thought\n<channel|>"));
    assert_false(prompt.starts_in_thought);
    assert_int_equal(prompt.n_spans, 2);
    /* bos turn system \n s turn \n | turn user \n image [image image image] image | x ... */
    assert_int_equal(prompt.spans[0].start, 11);
    assert_int_equal(prompt.spans[0].count, 3);
    assert_int_equal(prompt.spans[0].kind, MEDIA_IMAGE);
    assert_int_equal(prompt.spans[0].medium, 0);
    assert_int_equal(prompt.spans[1].start, 17);
    assert_int_equal(prompt.spans[1].count, 2);
    assert_int_equal(prompt.spans[1].kind, MEDIA_AUDIO);
    assert_int_equal(prompt.spans[1].medium, 1);
    static const int32_t cuts[] = {7, 15, 20, 22};
    assert_int_equal(prompt.cuts.size, 4);
    assert_memory_equal(prompt.cuts.data, cuts, sizeof(cuts));
    buffer_clear(&text);
    prompt_clear(&prompt);
}

/* A video with sound between text and a picture: one cut behind all of it. */
static void test_video(void **state)
{
    (void)state;
    const struct chat_part parts[] = {
        {.text = span_text("a")},
        {.kind = MEDIA_VIDEO, .medium = 0},
        {.kind = MEDIA_IMAGE, .medium = 1},
    };
    const struct chat_message message = {.role = CHAT_USER, .parts = parts, .n_parts = 3};
    const struct span times[] = {span_text("00:00"), span_text("61:07")};
    const struct chat_medium media[] = {
        {.tokens = 3, .times = times, .n_frames = 2, .sounds = (size_t[]){2, 1}, .n_sounds = 2},
        {.tokens = 1}};
    const struct chat chat = {.messages = &message, .n_messages = 1, .media = media, .n_media = 2};
    struct prompt prompt;
    struct buffer text = {0};
    render(&chat, &prompt, &text);
    assert_true(
        span_is(buffer_span(&text),
                "<bos><|turn>user\na00:00 <|image><|video|><|video|><|video|><image|> 61:07 "
                "<|image><|video|><|video|><|video|><image|><|audio><|audio|><|audio|>"
                "<audio|><|audio><|audio|><audio|><|image><|image|><image|><turn|>\n"));
    static const struct {
        size_t count, medium;
        enum media_kind kind;
    } spans[] = {{3, 0, MEDIA_VIDEO},
                 {3, 0, MEDIA_VIDEO},
                 {2, 0, MEDIA_AUDIO},
                 {1, 0, MEDIA_AUDIO},
                 {1, 1, MEDIA_IMAGE}};
    assert_int_equal(prompt.n_spans, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(prompt.spans[i].count, spans[i].count);
        assert_int_equal(prompt.spans[i].medium, spans[i].medium);
        assert_int_equal(prompt.spans[i].kind, spans[i].kind);
    }
    assert_int_equal(prompt.cuts.size, 2);
    assert_int_equal(prompt.cuts.data[0], prompt.spans[3].start + 2);
    assert_int_equal(prompt.cuts.data[1], prompt.spans[4].start + 2);
    buffer_clear(&text);
    prompt_clear(&prompt);
}

/* A last message with calls, answers and text: the text is left out, so that the model goes on. */
static void test_late_text(void **state)
{
    (void)state;
    const struct chat_part text_part = {.text = span_text("Let me look.")};
    const struct chat_part nine = {.text = span_text("9")};
    const struct chat_call call = {.id = span_text("1"), .name = span_text("now")};
    const struct chat_message messages[] = {
        {.role = CHAT_ASSISTANT, .parts = &text_part, .n_parts = 1, .calls = &call, .n_calls = 1},
        {.role = CHAT_TOOL, .tool_call_id = span_text("1"), .parts = &nine, .n_parts = 1},
    };
    struct chat chat = {.messages = messages, .n_messages = 2, .generation_prompt = true};
    struct prompt prompt;
    struct buffer text = {0};
    render(&chat, &prompt, &text);
    assert_true(span_is(buffer_span(&text),
                        "<bos><|turn>model\n<|tool_call>call:now{}<tool_call|><|tool_response>"
                        "response:now{value:<|\"|>9<|\"|>}<tool_response|>"));
    /* The suffix is empty: the cut before it is the end. */
    assert_int_equal(prompt.cuts.size, 1);
    assert_int_equal(prompt.cuts.data[0], prompt.ids.size);
    prompt_clear(&prompt);
    buffer_reset(&text);
    chat.generation_prompt = false;
    render(&chat, &prompt, &text);
    assert_true(text.size > 21 &&
                memcmp(text.data + text.size - 20, "Let me look.<turn|>\n", 20) == 0);
    prompt_clear(&prompt);
    buffer_clear(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_tools),
        cmocka_unit_test(test_refuses_messages),
        cmocka_unit_test(test_refuses_media),
        cmocka_unit_test(test_refuses_a_vocabulary_without_tools),
        cmocka_unit_test(test_foreign_text_stays_text),
        cmocka_unit_test(test_spans_and_cuts),
        cmocka_unit_test(test_video),
        cmocka_unit_test(test_late_text),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
