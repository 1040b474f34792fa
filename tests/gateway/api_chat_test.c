/* A chat request in OpenAI's words → what the ledger and the stages get; and what is refused. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include "proto/codec.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define USER "{\"role\":\"user\",\"content\":\"Hello\"}"
#define MESSAGES(list) "{\"model\":\"chat\",\"messages\":[" list "]}"
#define WITH(members) "{\"model\":\"chat\",\"messages\":[" USER "]," members "}"
#define PART(part) MESSAGES("{\"role\":\"user\",\"content\":[" part "]}")
#define FILM "{\"type\":\"video_url\",\"video_url\":{\"url\":\"data:video/mp4;base64,AAAA\"}}"
#define PNG "data:image/png;base64,iVBORw0KGgo="
#define CALL(id, name)                                                                             \
    "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name                      \
    "\",\"arguments\":\"{}\"}}"
#define CALLS(list) "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" list "]}"
#define RESULT(id, text) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" text "\"}"

static struct ledger_config config;
static struct api_media_usual usual = {.image_budget = 280, .video_frames = 60};

static bool read_request(const char *json, struct api_request *out, struct api_error *error)
{
    struct body *body = body_new(api_chat_rules, API_CHAT_RULES, 1U << 20, 0);
    struct api_context context = {
        .config = &config, .usual = usual, .created = 1234, .random = 0x123456789ABCDEF0};
    struct status st = {0};

    bool ok = body_push(body, span_text(json), &st) && body_finish(body, &st);
    if (!ok) {
        char path[BODY_PATH_MAX];
        body_path(body, path);
        (void)api_refuse(error, st.code, path, "%s", st.text);
    }
    ok = ok && api_chat_request(&context, body, out, error);
    body_free(body);
    return ok;
}

/* What must be accepted. */
static struct api_request accepted(const char *json)
{
    struct api_request request = {0};
    struct api_error error = {0};

    if (!read_request(json, &request, &error) || !request.msg) {
        print_error("%s: '%s' %s\n", json, error.param, error.text);
        abort();
    }
    return request;
}

/* ---- refusals ---- */

struct refusal {
    const char *json, *param;
    unsigned http;
    const char *words;
};

// clang-format off
static const struct refusal refusals[] = {
    {"[]", "", 400, "must be an object"},
    {"{}", "model", 400, "is missing"},
    {"{\"model\":\"chat\"}", "messages", 400, "is missing"},
    {"{\"model\":\"Chat\",\"messages\":[" USER "]}", "model", 404, "no model 'Chat'"},
    {"{\"model\":7}", "model", 400, "must be a string"},
    {"{\"model\":\"a\",\"model\":\"b\"}", "", 400, "duplicate"},
    {"{\"tools\":[],\"tools\":[]}", "", 400, "duplicate"},
    {WITH("\"x\":1"), "x", 400, "unknown field"},
    {WITH("\"x\":123456789012345678901"), "x", 400, "beyond all ranges"},
    {WITH("\"temperature\":2.1"), "temperature", 400, "is 2.1, must be from 0 to 2"},
    {WITH("\"temperature\":-1"), "temperature", 400, "from 0 to 2"},
    {WITH("\"temperature\":\"1\""), "temperature", 400, "must be a number"},
    {WITH("\"top_p\":1.1"), "top_p", 400, "from 0 to 1"},
    {WITH("\"min_p\":-0.1"), "min_p", 400, "from 0 to 1"},
    {WITH("\"top_k\":-1"), "top_k", 400, "is -1"},
    {WITH("\"max_tokens\":0"), "max_tokens", 400, "is 0"},
    {WITH("\"max_tokens\":1.5"), "max_tokens", 400, "must be an integer"},
    {WITH("\"max_tokens\":1,\"max_completion_tokens\":2"), "max_tokens", 400, "contradicts"},
    {WITH("\"n\":2"), "n", 400, "is 2"},
    {WITH("\"stream\":1"), "stream", 400, "must be true or false"},
    {WITH("\"stream_options\":{\"include_usage\":true}"), "stream_options", 400, "only for stream"},
    {WITH("\"stream_options\":{\"x\":true}"), "stream_options.x", 400, "unknown field"},
    {WITH("\"stop\":\"\""), "stop", 400, "has 0 bytes"},
    {WITH("\"stop\":[\"a\",7]"), "stop[1]", 400, "must be a string"},
    {WITH("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]"), "stop", 400, "more than 8"},
    {WITH("\"tools\":{}"), "tools", 400, "must be a list"},
    {WITH("\"tool_choice\":\"required\""), "tool_choice", 400, "one of: auto none"},
    {WITH("\"tool_choice\":{}"), "tool_choice", 400, "one of: auto none"},
    {WITH("\"parallel_tool_calls\":false"), "parallel_tool_calls", 400, "only true"},
    {WITH("\"reasoning_effort\":\"much\""), "reasoning_effort", 400, "one of: none minimal"},
    {WITH("\"response_format\":{\"type\":\"json_object\"}"), "response_format.type", 400, "one of: text"},
    {WITH("\"presence_penalty\":0.5"), "presence_penalty", 400, "only 0"},
    {WITH("\"logprobs\":true"), "logprobs", 400, "only false"},
    {WITH("\"logit_bias\":{\"1\":2}"), "logit_bias", 400, "not supported"},
    {WITH("\"modalities\":[\"text\",\"audio\"]"), "modalities", 400, "only [\"text\"]"},
    {WITH("\"service_tier\":\"priority\""), "service_tier", 400, "one of: auto default"},
    {WITH("\"store\":true"), "store", 400, "only false"},
    {WITH("\"metadata\":{\"a\":1}"), "metadata.a", 400, "must be a string"},
    {WITH("\"millrace\":{\"image_budget\":100}"), "millrace.image_budget", 400, "must be 70"},
    {WITH("\"millrace\":{\"thinking\":1}"), "millrace.thinking", 400, "true or false"},
    {WITH("\"millrace\":{\"video_budget\":100}"), "millrace.video_budget", 400, "must be 70"},
    {WITH("\"millrace\":{\"video_fps\":0}"), "millrace.video_fps", 400, "must be from 0.01 to 30"},
    {WITH("\"millrace\":{\"video_fps\":31}"), "millrace.video_fps", 400, "must be from 0.01 to 30"},
    {WITH("\"millrace\":{\"video_frames_max\":0}"), "millrace.video_frames_max", 400, "from 1 to 240"},
    {WITH("\"millrace\":{\"video_frames_max\":241}"), "millrace.video_frames_max", 400, "from 1 to 240"},
    {WITH("\"millrace\":{\"video_frames_max\":240,\"video_budget\":140}"), "millrace.video_frames_max", 400, "at most 120"},
    {WITH("\"millrace\":{\"video_sound_s\":301}"), "millrace.video_sound_s", 400, "from 0 to 300"},
    {WITH("\"chat_template_kwargs\":{\"x\":1}"), "chat_template_kwargs.x", 400, "unknown field"},

    {MESSAGES(""), "messages", 400, "is empty"},
    {MESSAGES("7"), "messages[0]", 400, "must be an object"},
    {MESSAGES("{}"), "messages[0].role", 400, "must be system"},
    {MESSAGES("{\"role\":\"user\"}"), "messages[0].content", 400, "is missing"},
    {MESSAGES("{\"role\":\"user\",\"content\":null}"), "messages[0].content", 400, "is missing"},
    {MESSAGES("{\"role\":\"user\",\"content\":7}"), "messages[0].content", 400, "string or a list"},
    {MESSAGES("{\"role\":\"user\",\"content\":[]}"), "messages[0].content", 400, "empty list"},
    {MESSAGES("{\"role\":\"robot\",\"content\":\"\"}"), "messages[0].role", 400, "must be system"},
    {MESSAGES(USER ",{\"role\":\"user\",\"content\":\"\",\"x\":0}"), "messages[1].x", 400, "unknown field"},
    {PART("{\"text\":\"a\"}"), "messages[0].content[0].type", 400, "must be text"},
    {PART("{\"type\":\"text\"}"), "messages[0].content[0].text", 400, "is missing"},
    {PART("{\"type\":\"text\",\"text\":\"a\",\"image_url\":{}}"), "messages[0].content[0].type", 400, "no other"},
    {PART("{\"type\":\"video\"}"), "messages[0].content[0].type", 400, "must be text"},
    {PART("{\"type\":\"image_url\"}"), "messages[0].content[0].image_url", 400, "is missing"},
    {PART("{\"type\":\"image_url\",\"image_url\":\"" PNG "\"}"), "messages[0].content[0].image_url", 400, "must be an object"},
    {PART("{\"type\":\"image_url\",\"image_url\":{}}"), "messages[0].content[0].image_url.url", 400, "is missing"},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://a/b\"}}"), "messages[0].content[0].image_url.url", 400, "not fetched"},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}"), "messages[0].content[0].image_url.url", 400, "must be data:"},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"\\u0001m0\"}}"), "messages[0].content[0].image_url.url", 400, "must be data:"},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG "\",\"detail\":\"x\"}}"), "messages[0].content[0].image_url.detail", 400, "one of: auto low high"},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG "?\"}}"), "messages[0].content[0].image_url.url", 400, "not base64"},
    {PART("{\"type\":\"video_url\"}"), "messages[0].content[0].video_url", 400, "is missing"},
    {PART("{\"type\":\"video_url\",\"image_url\":{}}"), "messages[0].content[0].type", 400, "no other"},
    {PART("{\"type\":\"video_url\",\"video_url\":{\"url\":\"https://a/b\"}}"), "messages[0].content[0].video_url.url", 400, "send the video itself as data:video/"},
    {PART("{\"type\":\"video_url\",\"video_url\":{\"url\":\"x\"}}"), "messages[0].content[0].video_url.url", 400, "must be data:video/"},
    {PART("{\"type\":\"video_url\",\"video_url\":{\"url\":\"x\",\"detail\":\"low\"}}"), "messages[0].content[0].video_url.detail", 400, "unknown field"},
    {PART(FILM "," FILM "," FILM "," FILM "," FILM), "messages", 400, "more than 4 videos"},
    {PART("{\"type\":\"input_audio\",\"input_audio\":{\"format\":\"wav\"}}"), "messages[0].content[0].input_audio.data", 400, "is missing"},
    {MESSAGES("{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG "\"}}]}"), "messages[0].content[0]", 400, "only text"},
    {MESSAGES(USER ",{\"role\":\"user\",\"content\":\"\",\"tool_calls\":[]}"), "messages[1].tool_calls", 400, "only an assistant"},
    {MESSAGES(CALLS("{}")), "messages[0].tool_calls[0]", 400, "needs id"},
    {MESSAGES(CALLS("{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":{}}}")), "messages[0].tool_calls[0].function.arguments", 400, "must be a string"},
    {MESSAGES(RESULT("a", "x")), "messages[0].tool_call_id", 400, "names no call"},
    {MESSAGES(CALLS(CALL("a", "f")) "," RESULT("b", "x")), "messages[1].tool_call_id", 400, "names no call"},
    {MESSAGES(CALLS(CALL("a", "f")) "," USER "," RESULT("a", "x")), "messages[2].tool_call_id", 400, "names no call"},
    {MESSAGES(CALLS(CALL("a", "f")) ",{\"role\":\"tool\",\"content\":\"x\"}"), "messages[1].tool_call_id", 400, "is missing"},
    {MESSAGES("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":\"no\"}"), "messages[0].refusal", 400, "not supported"},
};
// clang-format on

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *row = &refusals[i];
        struct api_request request = {0};
        struct api_error error = {0};
        if (read_request(row->json, &request, &error))
            fail_msg("%s: accepted", row->json);
        if (strcmp(error.param, row->param) != 0 || !strstr(error.text, row->words) ||
            api_http(&error) != row->http)
            fail_msg("%s: %u '%s' '%s'", row->json, api_http(&error), error.param, error.text);
        assert_null(request.msg);
    }
}

/* ---- what is accepted ---- */

/* The turns in one line: role[kind:text|kind(calls)]... */
static void describe(const struct turns *turns, struct buffer *out)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    static const char *const kinds[] = {"", "<image>", "<video>", "<audio>"};

    for (size_t i = 0; i < turns->n; i++) {
        const struct turn *turn = &turns->items[i];
        buffer_printf(out, "%s%s%s", i ? " " : "", roles[turn->role], turn->is_list ? "*" : "");
        for (size_t k = 0; k < turn->n_parts; k++)
            buffer_printf(out, "[%s%.*s]", kinds[turn->parts[k].kind],
                          (int)turn->parts[k].text.size, (const char *)turn->parts[k].text.data);
        for (size_t k = 0; k < turn->n_calls; k++)
            buffer_printf(out, "(%.*s %.*s %.*s)", (int)turn->calls[k].id.size,
                          (const char *)turn->calls[k].id.data, (int)turn->calls[k].name.size,
                          (const char *)turn->calls[k].name.data,
                          (int)turn->calls[k].arguments.size,
                          (const char *)turn->calls[k].arguments.data);
        if (turn->reasoning.size)
            buffer_printf(out, "{%.*s}", (int)turn->reasoning.size,
                          (const char *)turn->reasoning.data);
        if (turn->tool_call_id.size)
            buffer_printf(out, "=%.*s", (int)turn->tool_call_id.size,
                          (const char *)turn->tool_call_id.data);
    }
    buffer_append_byte(out, 0);
}

static const struct {
    const char *json, *turns;
} turn_cases[] = {
    {MESSAGES(USER), "user[Hello]"},
    {MESSAGES("{\"role\":\"developer\",\"content\":\"Be brief.\"}," USER),
     "system[Be brief.] user[Hello]"},
    {MESSAGES("{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":null,"
              "\"refusal\":null,\"parsed\":null,\"annotations\":[],\"reasoning_content\":\"hm\"},"
              "{\"role\":\"user\",\"content\":\"a\\u0001t0\\nb\",\"name\":\"x\"}"),
     "user[] assistant{hm} user[a\001t0\nb]"},
    {PART("{\"type\":\"text\",\"text\":\"what\"},{\"type\":\"image_url\",\"image_url\":{\"url\":"
          "\"" PNG "\",\"detail\":\"low\"}}," FILM
          ",{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"UklG\","
          "\"format\":\"wav\"}}"),
     "user*[what][<image>][<video>][<audio>]"},
    /* Later system messages go to the first place, in one text. */
    {MESSAGES(USER ",{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"A\"},"
                   "{\"type\":\"text\",\"text\":\"B\"}]}," USER
                   ",{\"role\":\"developer\",\"content\":\"C\"}"),
     "system[A B\n\nC] user[Hello] user[Hello]"},
    /* Results stand in the order of the calls. */
    {MESSAGES(USER "," CALLS(CALL("a", "f") "," CALL("b", "g")) "," RESULT("b", "2") "," RESULT(
         "a", "1")),
     "user[Hello] assistant(a f {})(b g {}) tool[1]=a tool[2]=b"},
    /* The text of a last message with calls and results is left out. */
    {MESSAGES(USER ",{\"role\":\"assistant\",\"content\":\"Let me look.\",\"tool_calls\":[" CALL(
         "a", "f") "]}," RESULT("a", "1")),
     "user[Hello] assistant(a f {}) tool[1]=a"},
    {MESSAGES(USER ",{\"role\":\"assistant\",\"content\":\"Let me look.\",\"tool_calls\":[" CALL(
         "a", "f") "]}," RESULT("a", "1") "," USER),
     "user[Hello] assistant[Let me look.](a f {}) tool[1]=a user[Hello]"},
    {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"index\":0,\"function\":{"
              "\"name\":\"f\",\"arguments\":\"\",\"parsed_arguments\":null}}]}"),
     "assistant(a f {})"},
};

static void test_turns(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof turn_cases / sizeof *turn_cases; i++) {
        struct api_request request = accepted(turn_cases[i].json);
        struct turns turns = {0};
        struct status st = {0};
        struct buffer text = {0};
        assert_int_equal(msg_find(request.msg, "turns", 0), 0);
        struct blob *blob = request.msg->blobs[0];
        assert_true(turns_unpack(&turns, span_of(blob_data(blob), blob_size(blob)), &st));
        describe(&turns, &text);
        assert_string_equal((char *)text.data, turn_cases[i].turns);
        turns_clear(&turns);
        buffer_clear(&text);
        api_request_clear(&request);
    }
}

/* The media follow the turns, however the turns were moved. */
static void test_order_of_media(void **state)
{
    (void)state;
#define PICTURE(base64)                                                                            \
    "[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:;base64," base64 "\"}}]"
#define PICTURE_RESULT(id, base64)                                                                 \
    "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":" PICTURE(base64) "}"
    static const char json[] = MESSAGES(
        "{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"MA=="
        "\"}}]}," CALLS(CALL("a", "f") "," CALL("b", "g")) "," PICTURE_RESULT(
            "b", "Mg==") "," PICTURE_RESULT("a", "MQ=="));
    static const char *const names[] = {"turns", "audio", "image", "image"};
    static const char *const paths[] = {"messages[0].content[0].input_audio.data",
                                        "messages[3].content[0].image_url.url",
                                        "messages[2].content[0].image_url.url"};

    struct api_request request = accepted(json);
    assert_int_equal(request.msg->head.n_blobs, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(request.msg->head.blobs[i].name, names[i]);
    for (size_t i = 1; i < 4; i++) {
        assert_int_equal(blob_size(request.msg->blobs[i]), 1);
        assert_int_equal(*blob_data(request.msg->blobs[i]), '0' + i - 1);
    }
    assert_int_equal(request.media.n, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(request.media.items[i].kind, names[1 + i]);
        assert_string_equal(request.media.items[i].path, paths[i]);
    }
    assert_true(request.reserve_bytes > 3000000 && request.work > 280 * 2 + 750);
    api_request_clear(&request);
}

static void test_what_media_need_where_a_request_does_not_say(void **state)
{
    static const char picture[] =
        PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG "\"}}");
    static const char large[] =
        "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":[" FILM
        "]}],\"millrace\":{\"video_budget\":560}}";
    const struct api_media_usual before = usual;
    struct api_error error = {0};
    struct api_request request;

    (void)state;
    struct api_request small = accepted(picture);
    usual = (struct api_media_usual){.image_budget = 1120, .video_frames = 30};
    request = accepted(picture);
    assert_int_equal(request.work - small.work, 1120 - 280);
    assert_true(request.reserve_bytes - small.reserve_bytes > (1120 - 280) * (size_t)1000);
    api_request_clear(&request);
    api_request_clear(&small);
    request = accepted(large);
    assert_true(request.work > (size_t)30 * 560);
    api_request_clear(&request);
    usual = before;
    assert_false(read_request(large, &request, &error)); /* 60 such frames are too much */
    assert_string_equal(error.param, "millrace.video_frames_max");
}

static int64_t int_of(const struct api_request *request, const char *key)
{
    int64_t value = -99;

    (void)field_int(request->msg->head.fields, key, &value);
    return value;
}

static bool bool_of(const struct api_request *request, const char *key)
{
    bool value = false;

    assert_true(field_bool(request->msg->head.fields, key, &value));
    return value;
}

static void test_defaults(void **state)
{
    (void)state;
    struct span text;
    double number;

    struct api_request request = accepted(MESSAGES(USER));
    struct span fields = request.msg->head.fields;
    assert_true(field_text(fields, "style", &text) && span_is(text, "chat"));
    assert_true(field_text(fields, "model", &text) && span_is(text, "chat"));
    assert_int_equal(int_of(&request, "created"), 1234);
    assert_int_equal(int_of(&request, "max_tokens"), 0);
    assert_true(int_of(&request, "seed") > 0);
    assert_false(bool_of(&request, "stream") || bool_of(&request, "thinking"));
    assert_false(field_float(fields, "temperature", &number));
    assert_false(field_float(fields, "top_p", &number));
    assert_int_equal(int_of(&request, "top_k"), -99);
    assert_int_equal(request.tokens_max, 0);
    assert_int_equal(request.msg->head.n_blobs, 1);
    api_request_clear(&request);
}

static void test_what_clients_send(void **state)
{
    (void)state;
    struct span stops[8];
    double number = 0;
    static const char json[] = WITH(
        "\"stream\":true,\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":false},"
        "\"max_completion_tokens\":10,\"max_tokens\":10,\"temperature\":0,\"top_p\":0.5,\"top_k\":"
        "7,"
        "\"min_p\":0.25,\"seed\":-5,\"stop\":[\"a\",\"\\n\"],\"n\":1,\"user\":\"me\","
        "\"metadata\":{\"k\":\"v\"},\"presence_penalty\":0,\"frequency_penalty\":0.0,"
        "\"logit_bias\":{},\"logprobs\":false,\"top_logprobs\":null,\"response_format\":"
        "{\"type\":\"text\"},\"service_tier\":\"auto\",\"store\":false,\"modalities\":[\"text\"],"
        "\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[ {\"a\":1e400} ],"
        "\"millrace\":{\"image_budget\":560,\"preserve_thinking\":true,\"video_fps\":0.5,"
        "\"video_frames_max\":8,\"video_budget\":1120,\"video_sound_s\":0},\"verbosity\":null");

    struct api_request request = accepted(json);
    struct span fields = request.msg->head.fields;
    assert_true(request.stream && bool_of(&request, "stream") &&
                bool_of(&request, "include_usage"));
    assert_true(bool_of(&request, "preserve_thinking"));
    assert_int_equal(int_of(&request, "max_tokens"), 10);
    assert_int_equal(request.tokens_max, 11);
    assert_int_equal(int_of(&request, "top_k"), 7);
    assert_int_equal(int_of(&request, "seed"), 4);
    assert_int_equal(int_of(&request, "image_budget"), 560);
    assert_int_equal(int_of(&request, "video_budget"), 1120);
    assert_int_equal(int_of(&request, "video_frames_max"), 8);
    assert_int_equal(int_of(&request, "video_sound_s"), 0);
    assert_true(field_float(fields, "video_fps", &number) && number == 0.5);
    assert_true(field_float(fields, "temperature", &number) && number == 0);
    assert_true(field_float(fields, "top_p", &number) && number == 0.5);
    assert_true(field_float(fields, "min_p", &number) && number == 0.25);
    assert_int_equal(field_texts(fields, "stop", stops, 8), 2);
    assert_true(span_is(stops[1], "\n"));
    assert_int_equal(msg_find(request.msg, "tools", 0), 1);
    struct blob *tools = request.msg->blobs[1];
    assert_true(span_is(span_of(blob_data(tools), blob_size(tools)), "[ {\"a\":1e400} ]"));
    api_request_clear(&request);
}

static void test_thinking_and_tools(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t n_blobs;
        bool thinking;
    } cases[] = {
        {WITH("\"reasoning_effort\":\"none\""), 1, false},
        {WITH("\"reasoning_effort\":\"low\""), 1, true},
        {WITH("\"chat_template_kwargs\":{\"enable_thinking\":true}"), 1, true},
        {WITH("\"reasoning_effort\":\"high\",\"chat_template_kwargs\":{\"enable_thinking\":false}"),
         1, false},
        {WITH("\"reasoning_effort\":\"none\",\"millrace\":{\"thinking\":true}"), 1, true},
        {WITH("\"tools\":null"), 1, false},
        {WITH("\"tools\":[ ]"), 1, false},
        {WITH("\"tools\":[{}]"), 2, false},
        {WITH("\"tools\":[{}],\"tool_choice\":\"none\""), 1, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_request request = accepted(cases[i].json);
        assert_int_equal(bool_of(&request, "thinking"), cases[i].thinking);
        assert_int_equal(request.msg->head.n_blobs, cases[i].n_blobs);
        api_request_clear(&request);
    }
}

/* ---- the catalogue ---- */

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        enum status_code code;
        unsigned http;
        const char *text, *json;
    } cases[] = {
        {STATUS_LIMIT, 400, "prompt of 9 tokens, context of 8",
         "\"code\":\"context_length_exceeded\""},
        {STATUS_INVALID, 400, "messages[1].content: no", "\"param\":\"messages[1].content\""},
        {STATUS_INVALID, 400, "messages are: bad", "\"param\":null"},
        {STATUS_CORRUPT, 400, "audio: cut off",
         "\"message\":\"audio: cut off\",\"type\":\"invalid_request_error\",\"param\":\"m[1]\""},
        {STATUS_UNSUPPORTED, 415, "image 2: a: b", "\"param\":\"m[2]\""},
        {STATUS_INVALID, 400, "image 1: no", "\"param\":\"m[0]\""},
        {STATUS_INVALID, 400, "image 3: no", "\"param\":null"},
        {STATUS_INVALID, 400, "image 18446744073709551617: no", "\"param\":null"},
        {STATUS_INVALID, 400, "image 0: no", "\"param\":null"},
        {STATUS_INVALID, 400, "image 2 no", "\"param\":null"},
        {STATUS_INVALID, 400, "im: no", "\"param\":null"},
        {STATUS_INVALID, 400, "images: no", "\"param\":null"},
        {STATUS_INVALID, 400, "video: no", "\"param\":null"},
        {STATUS_INVALID, 400, ": no", "\"param\":null"},
        {STATUS_INVALID, 400, "", "\"param\":null"},
        {STATUS_UNSUPPORTED, 415, "x", "\"type\":\"invalid_request_error\""},
        {STATUS_TOO_LARGE, 413, "x", "request_too_large"},
        {STATUS_BUSY, 429, "x", "rate_limit_exceeded"},
        {STATUS_UNAVAILABLE, 503, "x", "server_error"},
        {STATUS_DEADLINE, 504, "x", "deadline_exceeded"},
        {STATUS_POISON, 422, "x", "refused_input"},
        {STATUS_DENIED, 403, "x", "permission_denied"},
        {STATUS_INTERNAL, 500, "\xFF\"", "\"message\":\"\""},
        {(enum status_code)99, 500, "x", "internal_error"},
    };

    static const struct api_media media = {
        3, {{"image", "m[0]"}, {"audio", "m[1]"}, {"image", "m[2]"}}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_error error;
        struct buffer json = {0};
        api_error_from_end(&error, cases[i].code, cases[i].text, 0, &media);
        assert_int_equal(api_http(&error), cases[i].http);
        api_error_json(&error, &json);
        buffer_append_byte(&json, 0);
        if (!strstr((char *)json.data, cases[i].json))
            fail_msg("%s", (char *)json.data);
        buffer_clear(&json);
    }
}

static int set_up(void **state)
{
    static const char *const stages[] = {"ingest", "encode", "infer", "format"};
    struct status st = {0};

    (void)state;
    config = ledger_config_default();
    return ledger_config_pipeline(&config, "chat", stages, 4, &st) ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_order_of_media),
        cmocka_unit_test(test_what_media_need_where_a_request_does_not_say),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_what_clients_send),
        cmocka_unit_test(test_thinking_and_tools),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
