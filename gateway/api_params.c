/* What each field of a chat request says, one row a field. */
#include "gateway/api_params.h"
#include "proto/codec.h"
#include "proto/media.h"
#include <math.h>
#include <string.h>

#define STOP_BYTES_MAX 128
#define TOKENS_MAX 1048576

size_t chat_image_budget(const struct chat_params *p)
{
    return p->image_budget ? (size_t)p->image_budget : p->usual.image_budget;
}

size_t chat_video_frames(const struct chat_params *p)
{
    return p->video_frames_max ? (size_t)p->video_frames_max : p->usual.video_frames;
}

size_t chat_video_budget(const struct chat_params *p)
{
    return p->video_budget ? (size_t)p->video_budget : VIDEO_BUDGET_DEFAULT;
}

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

/* A struct said. */
READ(read_said)
{
    ((struct said *)((char *)into + row->offset))->given = true;
    return read_bool(r, value, row, into);
}

/* Fields that say one of a few words; a struct span. */
static const struct {
    const char *key, *words;
} word_fields[] = {
    {"reasoning_effort", "none minimal low medium high xhigh"},
    {"tool_choice", "auto none"},
    {"service_tier", "auto default"},
    {"verbosity", "medium"},
};

READ(read_word)
{
    size_t i = 0;

    while (strcmp(word_fields[i].key, row->key) != 0)
        i++;
    return reader_word(r, value, word_fields[i].words, (struct span *)((char *)into + row->offset));
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
    if (n > CHAT_STOPS_MAX)
        return reader_refuse(r, STATUS_LIMIT, "more than %d stop strings", CHAT_STOPS_MAX);
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
        {"enable_thinking", read_said, offsetof(struct chat_params, enable), 0, 0},
        {"preserve_thinking", read_bool, offsetof(struct chat_params, preserve_thinking), 0, 0},
    };

    (void)row;
    return reader_object(r, value, rows, sizeof rows / sizeof *rows, into);
}

READ(read_budget)
{
    int64_t budget;

    if (!read_integer(r, value, row, into))
        return false;
    memcpy(&budget, (const char *)into + row->offset, sizeof budget);
    return media_budget_known((uint64_t)budget) ||
           reader_refuse(r, STATUS_INVALID, "must be %s", MEDIA_BUDGETS);
}

READ(read_own_options)
{
    static const struct reader_row rows[] = {
        {"thinking", read_said, offsetof(struct chat_params, thinking), 0, 0},
        {"preserve_thinking", read_bool, offsetof(struct chat_params, preserve_thinking), 0, 0},
        {"image_budget", read_budget, offsetof(struct chat_params, image_budget), 1, 4096},
        {"video_budget", read_budget, offsetof(struct chat_params, video_budget), 1, 4096},
        {"video_frames_max", read_integer, offsetof(struct chat_params, video_frames_max), 1,
         VIDEO_FRAMES_MAX},
        {"video_fps", read_number, offsetof(struct chat_params, video_fps), VIDEO_FPS_MIN,
         VIDEO_FPS_MAX},
        {"video_sound_s", read_integer, offsetof(struct chat_params, video_sound_s), 0,
         VIDEO_SOUND_S_MAX},
    };
    struct chat_params *params = into;

    (void)row;
    if (!reader_object(r, value, rows, sizeof rows / sizeof *rows, into))
        return false;
    if (chat_video_frames(params) * chat_video_budget(params) > VIDEO_TOKENS_MAX) {
        (void)reader_enter(r, "video_frames_max");
        return reader_refuse(r, STATUS_LIMIT, "with this video_budget at most %zu",
                             VIDEO_TOKENS_MAX / chat_video_budget(params));
    }
    return true;
}

READ(read_response_format)
{
    const json_t *type = json_object_get(value, "type");

    (void)row;
    if (!json_is_object(value) || json_object_size(value) != 1 || !type)
        return reader_refuse(r, STATUS_UNSUPPORTED, "only {\"type\":\"text\"} is supported");
    (void)reader_enter(r, "type");
    return reader_word(r, type, "text", &((struct chat_params *)into)->ignored);
}

READ(read_modalities)
{
    (void)row;
    if (json_array_size(value) != 1)
        return reader_refuse(r, STATUS_UNSUPPORTED, "only [\"text\"] is supported");
    return reader_word(r, json_array_get(value, 0), "text", &((struct chat_params *)into)->ignored);
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
    {"tool_choice",           read_word, AT(tool_choice), 0, 0},
    {"parallel_tool_calls",   read_true, 0, 0, 0},
    {"reasoning_effort",      read_word, AT(effort), 0, 0},
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
    {"verbosity",             read_word, AT(ignored), 0, 0},
    {"service_tier",          read_word, AT(ignored), 0, 0},
    {"store",                 read_false, 0, 0, 0},
    {"metadata",              read_metadata, 0, 0, 0},
    {"user",                  read_text, AT(ignored), 0, 512},
    {"safety_identifier",     read_text, AT(ignored), 0, 512},
    {"prompt_cache_key",      read_text, AT(ignored), 0, 512},
};
// clang-format on

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
    if (!params->thinking.given)
        params->thinking.value = params->enable.given
                                     ? params->enable.value
                                     : params->effort.size > 0 && !span_is(params->effort, "none");
    if (params->include_usage && !params->stream) {
        (void)reader_enter(r, "stream_options");
        return reader_refuse(r, STATUS_INVALID, "is only for stream: true");
    }
    return true;
}

bool chat_params_read(struct reader *r, const json_t *root, struct chat_params *out)
{
    *out = (struct chat_params){.temperature = NAN,
                                .top_p = NAN,
                                .min_p = NAN,
                                .video_fps = NAN,
                                .video_sound_s = -1,
                                .top_k = -1,
                                .usual = r->context->usual,
                                .seed = (int64_t)(r->context->random >> 11)};
    return reader_object(r, root, rows, sizeof rows / sizeof *rows, out) && settle(r, out);
}
