/* POST /v1/chat/completions: the skeleton of a body → a request for the ledger. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include "gateway/api_turns.h"
#include "gateway/reader.h"
#include "gateway/release.h"
#include "proto/codec.h"
#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define STOPS_MAX 8
#define STOP_BYTES_MAX 128
#define TOKENS_MAX 1048576
#define EXPECTED_TOKENS 256 /* of an answer, for fairness */
#define TEXT_BYTES_PER_TOKEN 4

const struct body_rule api_chat_rules[API_CHAT_RULES] = {
    {"messages[].content[].image_url.url", BODY_DATA_URL, "image"},
    {"messages[].content[].video_url.url", BODY_DATA_URL, "video"},
    {"messages[].content[].input_audio.data", BODY_BASE64, "audio"},
    {"tools", BODY_RAW, NULL},
};

/* What was asked; -1 and NAN: not said. */
struct chat_params {
    struct span model;
    const json_t *messages;
    bool stream, include_usage, tools, without_tools;
    bool effort_given, effort, enable_given, enable, thinking_given, thinking, preserve_thinking;
    int64_t max_tokens, max_completion_tokens, top_k, seed, n, top_logprobs;
    int64_t image_budget, video_budget, video_frames_max, video_sound_s;
    double temperature, top_p, min_p, video_fps;
    struct span stops[STOPS_MAX];
    size_t n_stops;
    struct span ignored;
};

#define READ(name)                                                                                 \
    static bool name(struct reader *r, const json_t *value, const struct reader_row *row,          \
                     void *into)

READ(read_messages)
{
    (void)r;
    (void)row;
    ((struct chat_params *)into)->messages = value;
    return true;
}

READ(read_model)
{
    struct chat_params *params = into;

    (void)row;
    return reader_text(r, value, &params->model);
}

/* A bool with a second one that says that it was given. */
READ(read_enable)
{
    ((struct chat_params *)into)->enable_given = true;
    return read_bool(r, value, row, into);
}

READ(read_thinking)
{
    ((struct chat_params *)into)->thinking_given = true;
    return read_bool(r, value, row, into);
}

static bool one_of(struct reader *r, const json_t *value, const char *const *words, size_t n,
                   size_t *out)
{
    struct span text;

    if (!reader_text(r, value, &text))
        return false;
    for (*out = 0; *out < n; ++*out)
        if (span_is(text, words[*out]))
            return true;
    return reader_refuse(r, STATUS_UNSUPPORTED, "this value is not supported");
}

READ(read_effort)
{
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    struct chat_params *params = into;
    size_t which;

    (void)row;
    if (!one_of(r, value, words, sizeof words / sizeof *words, &which))
        return false;
    params->effort_given = true;
    params->effort = which > 0;
    return true;
}

READ(read_tool_choice)
{
    static const char *const words[] = {"auto", "none"};
    size_t which;

    (void)row;
    if (!json_is_string(value))
        return reader_refuse(r, STATUS_UNSUPPORTED, "only auto and none are supported");
    if (!one_of(r, value, words, 2, &which))
        return false;
    ((struct chat_params *)into)->without_tools = which == 1;
    return true;
}

READ(read_tools)
{
    static const char blanks[] = " \t\r\n";
    struct span raw = body_raw(r->body);
    size_t at = 1;

    (void)value;
    (void)row;
    if (raw.size >= 4 && memcmp(raw.data, "null", 4) == 0)
        return true;
    if (raw.size < 2 || raw.data[0] != '[')
        return reader_refuse(r, STATUS_INVALID, "must be a list");
    while (raw.data[at] && strchr(blanks, raw.data[at]))
        at++;
    ((struct chat_params *)into)->tools = raw.data[at] != ']';
    return true;
}

READ(read_stop)
{
    struct chat_params *params = into;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;

    (void)row;
    if (n > STOPS_MAX)
        return reader_refuse(r, STATUS_LIMIT, "more than %d stop strings", STOPS_MAX);
    for (size_t i = 0; i < n; i++) {
        bool list = json_is_array(value);
        size_t mark = list ? reader_enter_index(r, i) : strlen(r->path);
        struct span *stop = &params->stops[i];
        if (!reader_text(r, list ? json_array_get(value, i) : value, stop))
            return false;
        if (stop->size == 0 || stop->size > STOP_BYTES_MAX)
            return reader_refuse(r, STATUS_INVALID, "has %zu bytes, must have from 1 to %d",
                                 stop->size, STOP_BYTES_MAX);
        if (memchr(stop->data, 0, stop->size))
            return reader_refuse(r, STATUS_INVALID, "must not hold U+0000");
        reader_leave(r, mark);
    }
    params->n_stops = n;
    return true;
}

READ(read_stream_options)
{
    static const struct reader_row rows[] = {
        {"include_usage", read_bool, offsetof(struct chat_params, include_usage), 0, 0},
        {"include_obfuscation", read_false, 0, 0, 0},
    };

    (void)row;
    return reader_object(r, value, rows, sizeof rows / sizeof *rows, into);
}

READ(read_template_options)
{
    static const struct reader_row rows[] = {
        {"enable_thinking", read_enable, offsetof(struct chat_params, enable), 0, 0},
        {"preserve_thinking", read_bool, offsetof(struct chat_params, preserve_thinking), 0, 0},
    };

    (void)row;
    return reader_object(r, value, rows, sizeof rows / sizeof *rows, into);
}

READ(read_budget)
{
    static const int64_t budgets[] = {70, 140, 280, 560, 1120};
    int64_t budget;

    if (!read_integer(r, value, row, into))
        return false;
    memcpy(&budget, (const char *)into + row->offset, sizeof budget);
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++)
        if (budget == budgets[i])
            return true;
    return reader_refuse(r, STATUS_INVALID, "must be 70, 140, 280, 560 or 1120");
}

static size_t video_frames(const struct chat_params *p)
{
    return p->video_frames_max ? (size_t)p->video_frames_max : API_VIDEO_FRAMES;
}

static size_t video_budget(const struct chat_params *p)
{
    return p->video_budget ? (size_t)p->video_budget : API_VIDEO_BUDGET;
}

READ(read_own_options)
{
    static const struct reader_row rows[] = {
        {"thinking", read_thinking, offsetof(struct chat_params, thinking), 0, 0},
        {"preserve_thinking", read_bool, offsetof(struct chat_params, preserve_thinking), 0, 0},
        {"image_budget", read_budget, offsetof(struct chat_params, image_budget), 1, 4096},
        {"video_budget", read_budget, offsetof(struct chat_params, video_budget), 1, 4096},
        {"video_frames_max", read_integer, offsetof(struct chat_params, video_frames_max), 1,
         API_VIDEO_FRAMES_MAX},
        {"video_fps", read_number, offsetof(struct chat_params, video_fps), 0.01, 30},
        {"video_sound_s", read_integer, offsetof(struct chat_params, video_sound_s), 0,
         API_VIDEO_SOUND_S_MAX},
    };
    struct chat_params *params = into;

    (void)row;
    if (!reader_object(r, value, rows, sizeof rows / sizeof *rows, into))
        return false;
    if (video_frames(params) * video_budget(params) > API_VIDEO_TOKENS_MAX) {
        (void)reader_enter(r, "video_frames_max");
        return reader_refuse(r, STATUS_LIMIT, "with this video_budget at most %zu",
                             API_VIDEO_TOKENS_MAX / video_budget(params));
    }
    return true;
}

READ(read_response_format)
{
    static const char *const words[] = {"text"};
    const json_t *type = json_object_get(value, "type");
    size_t which;

    (void)row;
    (void)into;
    if (!json_is_object(value) || json_object_size(value) != 1 || !type)
        return reader_refuse(r, STATUS_UNSUPPORTED, "only {\"type\":\"text\"} is supported");
    (void)reader_enter(r, "type");
    return one_of(r, type, words, 1, &which);
}

READ(read_modalities)
{
    static const char *const words[] = {"text"};
    size_t which;

    (void)row;
    (void)into;
    if (json_array_size(value) != 1)
        return reader_refuse(r, STATUS_UNSUPPORTED, "only [\"text\"] is supported");
    return one_of(r, json_array_get(value, 0), words, 1, &which);
}

READ(read_service_tier)
{
    static const char *const words[] = {"auto", "default"};
    size_t which;

    (void)row;
    (void)into;
    return one_of(r, value, words, 2, &which);
}

READ(read_verbosity)
{
    static const char *const words[] = {"medium"};
    size_t which;

    (void)row;
    (void)into;
    return one_of(r, value, words, 1, &which);
}

READ(read_true)
{
    (void)row;
    (void)into;
    return json_is_true(value) || reader_refuse(r, STATUS_UNSUPPORTED, "only true is supported");
}

READ(read_metadata)
{
    const char *key;
    json_t *member;
    struct span text;

    (void)row;
    (void)into;
    if (!json_is_object(value) || json_object_size(value) > 16)
        return reader_refuse(r, STATUS_INVALID, "must be an object of at most 16 texts");
    json_object_foreach((json_t *)value, key, member)
    {
        size_t mark = reader_enter(r, key);
        if (!reader_text(r, member, &text))
            return false;
        reader_leave(r, mark);
    }
    return true;
}

#define AT(field) offsetof(struct chat_params, field)
// clang-format off
static const struct reader_row rows[] = {
    {"model",                 read_model, 0, 0, 0},
    {"messages",              read_messages, 0, 0, 0},
    {"stream",                read_bool, AT(stream), 0, 0},
    {"stream_options",        read_stream_options, 0, 0, 0},
    {"max_tokens",            read_integer, AT(max_tokens), 1, TOKENS_MAX},
    {"max_completion_tokens", read_integer, AT(max_completion_tokens), 1, TOKENS_MAX},
    {"temperature",           read_number, AT(temperature), 0, 2},
    {"top_p",                 read_number, AT(top_p), 0, 1},
    {"min_p",                 read_number, AT(min_p), 0, 1},
    {"top_k",                 read_integer, AT(top_k), 0, 1048576},
    {"seed",                  read_integer, AT(seed), -9007199254740992.0, 9007199254740992.0},
    {"stop",                  read_stop, 0, 0, 0},
    {"tools",                 read_tools, 0, 0, 0},
    {"tool_choice",           read_tool_choice, 0, 0, 0},
    {"parallel_tool_calls",   read_true, 0, 0, 0},
    {"reasoning_effort",      read_effort, 0, 0, 0},
    {"chat_template_kwargs",  read_template_options, 0, 0, 0},
    {"millrace",              read_own_options, 0, 0, 0},
    {"response_format",       read_response_format, 0, 0, 0},
    {"n",                     read_integer, AT(n), 1, 1},
    {"presence_penalty",      read_zero, 0, 0, 0},
    {"frequency_penalty",     read_zero, 0, 0, 0},
    {"logit_bias",            read_empty, 0, 0, 0},
    {"logprobs",              read_false, 0, 0, 0},
    {"top_logprobs",          read_integer, AT(top_logprobs), 0, 0},
    {"modalities",            read_modalities, 0, 0, 0},
    {"verbosity",             read_verbosity, 0, 0, 0},
    {"service_tier",          read_service_tier, 0, 0, 0},
    {"store",                 read_false, 0, 0, 0},
    {"metadata",              read_metadata, 0, 0, 0},
    {"user",                  read_text, AT(ignored), 0, 512},
    {"safety_identifier",     read_text, AT(ignored), 0, 512},
    {"prompt_cache_key",      read_text, AT(ignored), 0, 512},
};
// clang-format on

/* ---- what one field alone cannot tell ---- */

static bool find_pipeline(struct reader *r, const struct chat_params *params, uint32_t *out)
{
    const struct ledger_config *config = r->context->config;
    size_t mark = reader_enter(r, "model");

    if (!params->model.data)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    for (uint32_t i = 0; i < config->n_pipelines; i++) {
        if (!span_is(params->model, config->pipelines[i].name))
            continue;
        *out = i;
        reader_leave(r, mark);
        return true;
    }
    size_t n = params->model.size < 64 ? params->model.size : 64;
    n = utf8_valid_prefix(params->model.data, n);
    return reader_refuse(r, STATUS_NOT_FOUND, "there is no model '%.*s'; GET /v1/models lists them",
                         (int)n, (const char *)params->model.data);
}

static bool settle(struct reader *r, struct chat_params *params)
{
    if (params->max_completion_tokens > 0 && params->max_tokens > 0 &&
        params->max_completion_tokens != params->max_tokens) {
        (void)reader_enter(r, "max_tokens");
        return reader_refuse(r, STATUS_INVALID, "contradicts max_completion_tokens");
    }
    if (params->max_completion_tokens > 0)
        params->max_tokens = params->max_completion_tokens;
    /* Own word first, then the template's, then OpenAI's coarse one. */
    if (!params->thinking_given)
        params->thinking = params->enable_given ? params->enable : params->effort;
    if (params->include_usage && !params->stream) {
        (void)reader_enter(r, "stream_options");
        return reader_refuse(r, STATUS_INVALID, "is only for stream: true");
    }
    return true;
}

static void pack_fields(const struct api_context *context, const struct chat_params *p,
                        const char *model, struct buffer *out)
{
    struct fields_writer w = {0};

    fields_int(&w, "created", context->created);
    fields_text(&w, "style", span_text("chat"));
    fields_bool(&w, "stream", p->stream);
    fields_bool(&w, "include_usage", p->include_usage);
    fields_text(&w, "model", span_text(model));
    fields_bool(&w, "thinking", p->thinking);
    fields_bool(&w, "preserve_thinking", p->preserve_thinking);
    fields_int(&w, "image_budget", p->image_budget);
    if (p->video_budget > 0)
        fields_int(&w, "video_budget", p->video_budget);
    if (p->video_frames_max > 0)
        fields_int(&w, "video_frames_max", p->video_frames_max);
    if (!isnan(p->video_fps))
        fields_float(&w, "video_fps", p->video_fps);
    if (p->video_sound_s >= 0)
        fields_int(&w, "video_sound_s", p->video_sound_s);
    fields_int(&w, "max_tokens", p->max_tokens);
    /* Always said: a stream that goes on elsewhere must draw the same numbers. */
    fields_int(&w, "seed", p->seed >= 0 ? p->seed : -(p->seed + 1));
    if (!isnan(p->temperature))
        fields_float(&w, "temperature", p->temperature);
    if (!isnan(p->top_p))
        fields_float(&w, "top_p", p->top_p);
    if (!isnan(p->min_p))
        fields_float(&w, "min_p", p->min_p);
    if (p->top_k >= 0)
        fields_int(&w, "top_k", p->top_k);
    if (p->n_stops > 0)
        fields_texts(&w, "stop", p->stops, p->n_stops);
    fields_finish(&w, out);
}

/* What a medium may become: soft tokens, and bytes of frames. */
static void expect_medium(const struct chat_params *p, const char *name, size_t *out_tokens,
                          size_t *out_bytes)
{
    size_t pictures = 0;
    size_t sound_s = 0;

    if (strcmp(name, "image") == 0)
        pictures = p->image_budget ? (size_t)p->image_budget : API_IMAGE_TOKENS;
    else if (strcmp(name, "audio") == 0)
        sound_s = API_AUDIO_SECONDS;
    else {
        pictures = video_frames(p) * video_budget(p);
        sound_s = p->video_sound_s >= 0 ? (size_t)p->video_sound_s : API_VIDEO_SOUND_S;
    }
    *out_tokens = pictures + sound_s * API_AUDIO_TOKENS_S;
    *out_bytes = pictures * API_PATCH_BYTES + sound_s * API_AUDIO_BYTES_S;
}

static void reserve(const struct chat_params *p, const struct chat_turns *turns,
                    const struct body *body, struct api_request *out)
{
    size_t asked = p->max_tokens ? (size_t)p->max_tokens : API_CONTEXT_TOKENS;
    size_t expected = asked < EXPECTED_TOKENS ? asked : EXPECTED_TOKENS;
    size_t media_tokens = 0;

    out->reserve_bytes = body_bytes(body) + 8 * asked + API_OUTPUT_BYTES;
    for (size_t i = 0; i < body_media(body); i++) {
        size_t tokens, bytes;
        expect_medium(p, body_medium(body, i)->name, &tokens, &bytes);
        out->reserve_bytes += bytes + tokens * API_WIDTH * sizeof(float);
        media_tokens += tokens;
    }
    out->work =
        (turns->text_bytes + body_raw(body).size) / TEXT_BYTES_PER_TOKEN + media_tokens + expected;
    out->tokens_max = p->max_tokens ? (uint32_t)p->max_tokens + 1 : 0; /* a stop id may follow */
}

static void add_blob(struct msg *msg, const char *name, enum blob_type type, struct blob *blob)
{
    size_t size = blob_size(blob);

    msg_add_take(msg, name, type, &size, 1, blob);
}

static void make_message(const struct api_context *context, const struct chat_params *params,
                         const struct chat_turns *turns, const struct body *body,
                         struct api_request *out)
{
    struct msg *msg = heap_array(struct msg, 1);
    struct buffer packed = {0};
    size_t media[BODY_MEDIA_MAX];
    struct span tools = body_raw(body);

    pack_fields(context, params, context->config->pipelines[out->pipeline].name, &packed);
    msg->frame = blob_copy(packed.data, packed.size);
    msg->head.fields = span_of(blob_data(msg->frame), packed.size);
    buffer_clear(&packed);
    turns_pack(&turns->turns, &packed);
    add_blob(msg, "turns", BLOB_MSGPACK, release_blob_take(packed.data, packed.size));
    if (params->tools && !params->without_tools)
        add_blob(msg, "tools", BLOB_JSON, blob_copy(tools.data, tools.size));
    size_t n_media = chat_turns_media(turns, media);
    for (size_t i = 0; i < n_media; i++) {
        const struct body_medium *medium = body_medium(body, media[i]);
        add_blob(msg, medium->name, BLOB_U8, blob_keep(medium->blob));
    }
    out->msg = msg;
    out->stream = params->stream;
    out->input_hash = body_hash(body);
    reserve(params, turns, body, out);
}

static bool check_videos(struct reader *r)
{
    size_t n = 0;

    for (size_t i = 0; i < body_media(r->body); i++)
        n += strcmp(body_medium(r->body, i)->name, "video") == 0;
    if (n <= API_VIDEOS_MAX)
        return true;
    (void)reader_enter(r, "messages");
    return reader_refuse(r, STATUS_LIMIT, "more than %d videos", API_VIDEOS_MAX);
}

static bool read_request(struct reader *r, const json_t *root, struct chat_turns *turns,
                         struct api_request *out)
{
    const struct api_context *context = r->context;
    struct chat_params params = {.temperature = NAN,
                                 .top_p = NAN,
                                 .min_p = NAN,
                                 .video_fps = NAN,
                                 .video_sound_s = -1,
                                 .top_k = -1,
                                 .seed = (int64_t)(context->random >> 11)};

    if (!reader_object(r, root, rows, sizeof rows / sizeof *rows, &params) ||
        !find_pipeline(r, &params, &out->pipeline) || !settle(r, &params) ||
        !chat_turns_read(r, params.messages, turns) || !check_videos(r))
        return false;
    make_message(context, &params, turns, r->body, out);
    return true;
}

bool api_chat_request(const struct api_context *context, const struct body *body,
                      struct api_request *out, struct api_error *error)
{
    struct span skeleton = body_skeleton(body);
    struct reader r = {.body = body, .context = context, .error = error};
    struct chat_turns turns = {0};
    struct api_request request = {0};
    json_error_t why;

    /* The grammar is checked already; what is left are doubled keys and numbers out of range. */
    json_t *root = json_loadb((const char *)skeleton.data, skeleton.size,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (!root)
        return api_refuse(error, STATUS_INVALID, "", "not JSON that can be used: %s", why.text);
    bool ok = read_request(&r, root, &turns, &request);
    chat_turns_clear(&turns);
    json_decref(root);
    if (ok)
        *out = request;
    return ok;
}
