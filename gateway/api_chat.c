/* POST /v1/chat/completions: the skeleton of a body → a request for the ledger. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include "gateway/api_params.h"
#include "gateway/api_turns.h"
#include "gateway/release.h"
#include "proto/codec.h"
#include "proto/media.h"
#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define EXPECTED_TOKENS 256 /* of an answer, for fairness */
#define TEXT_BYTES_PER_TOKEN 4

const struct body_rule api_chat_rules[API_CHAT_RULES] = {
    {"messages[].content[].image_url.url", BODY_DATA_URL, "image"},
    {"messages[].content[].video_url.url", BODY_DATA_URL, "video"},
    {"messages[].content[].input_audio.data", BODY_BASE64, "audio"},
    {"tools", BODY_RAW, NULL},
};

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
    return api_refuse_model(r->error, params->model);
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
    fields_bool(&w, "thinking", p->thinking.value);
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
        pictures = chat_image_budget(p);
    else if (strcmp(name, "audio") == 0)
        sound_s = API_AUDIO_SECONDS;
    else {
        pictures = chat_video_frames(p) * chat_video_budget(p);
        sound_s = p->video_sound_s >= 0 ? (size_t)p->video_sound_s : VIDEO_SOUND_S_DEFAULT;
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
    if (params->tools && !span_is(params->tool_choice, "none"))
        add_blob(msg, "tools", BLOB_JSON, blob_copy(tools.data, tools.size));
    size_t n_media = chat_turns_media(turns, media);
    for (size_t i = 0; i < n_media; i++) {
        const struct body_medium *medium = body_medium(body, media[i]);
        add_blob(msg, medium->name, BLOB_U8, blob_keep(medium->blob));
        out->media.items[i].kind = medium->name;
        memcpy(out->media.items[i].path, medium->path, sizeof medium->path);
    }
    out->media.n = n_media;
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
    struct chat_params params;

    if (!chat_params_read(r, root, &params) || !find_pipeline(r, &params, &out->pipeline) ||
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
