#include "gateway/api_turns.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A message while it is read. */
struct message {
    struct span role, name, tool_call_id, reasoning;
    const json_t *content, *calls;
};
struct part {
    struct span type, text;
    const json_t *image_url, *video_url, *input_audio;
};

void chat_turns_clear(struct chat_turns *turns)
{
    heap_free(turns->turns.items);
    heap_free(turns->parts);
    heap_free(turns->media);
    heap_free(turns->calls);
    buffer_clear(&turns->merged);
    *turns = (struct chat_turns){0};
}

static bool keep_value(struct reader *r, const json_t *value, const struct reader_row *row,
                       void *into)
{
    (void)r;
    *(const json_t **)((char *)into + row->offset) = value;
    return true;
}

#define ROW_TEXT(struct_type, name, low, high)                                                     \
    {                                                                                              \
#name, read_text, offsetof(struct struct_type, name), low, high                            \
    }
#define ROW_ANY_TEXT(struct_type, name)                                                            \
    {                                                                                              \
#name, read_text, offsetof(struct struct_type, name), 0, BODY_TEXT_BYTES_MAX               \
    }

/* ---- media ---- */

/* Of a picture or a video. */
struct media_url {
    const json_t *url;
    struct span detail;
};
struct input_audio {
    const json_t *data;
    struct span format;
};

/* The place of a medium that body.c has decoded. kind: of the data: URL that is wanted. */
static bool take_medium(struct reader *r, const json_t *value, const char *key, const char *kind,
                        size_t *out)
{
    struct span text;
    size_t mark = reader_enter(r, key);

    if (!value)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (!json_is_string(value))
        return reader_refuse(r, STATUS_INVALID, "must be a string");
    struct span raw = span_of(json_string_value(value), json_string_length(value));
    if (body_resolve(r->body, raw, &text, out) == BODY_IS_MEDIUM) {
        reader_leave(r, mark);
        return true;
    }
    if (text.size >= 4 && memcmp(text.data, "http", 4) == 0)
        return reader_refuse(r, STATUS_INVALID,
                             "addresses are not fetched, nothing leaves this machine: send the "
                             "%s itself as data:%s/...;base64,...",
                             strcmp(kind, "image") == 0 ? "picture" : kind, kind);
    return reader_refuse(r, STATUS_INVALID, "must be data:%s/...;base64,...", kind);
}

static bool read_image_part(struct reader *r, const struct part *part, size_t *out_medium)
{
    static const struct reader_row rows[] = {
        {"url", keep_value, offsetof(struct media_url, url), 0, 0},
        ROW_TEXT(media_url, detail, 1, 16),
    };
    struct media_url image = {0};
    size_t mark = reader_enter(r, "image_url");

    if (!part->image_url)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (!reader_object(r, part->image_url, rows, sizeof rows / sizeof *rows, &image))
        return false;
    if (image.detail.size && !span_is(image.detail, "auto") && !span_is(image.detail, "low") &&
        !span_is(image.detail, "high")) {
        (void)reader_enter(r, "detail");
        return reader_refuse(r, STATUS_INVALID, "must be auto, low or high");
    }
    if (!take_medium(r, image.url, "url", "image", out_medium))
        return false;
    reader_leave(r, mark);
    return true;
}

static bool read_video_part(struct reader *r, const struct part *part, size_t *out_medium)
{
    static const struct reader_row rows[] = {
        {"url", keep_value, offsetof(struct media_url, url), 0, 0},
    };
    struct media_url video = {0};
    size_t mark = reader_enter(r, "video_url");

    if (!part->video_url)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (!reader_object(r, part->video_url, rows, sizeof rows / sizeof *rows, &video) ||
        !take_medium(r, video.url, "url", "video", out_medium))
        return false;
    reader_leave(r, mark);
    return true;
}

static bool read_audio_part(struct reader *r, const struct part *part, size_t *out_medium)
{
    static const struct reader_row rows[] = {
        {"data", keep_value, offsetof(struct input_audio, data), 0, 0},
        ROW_TEXT(input_audio, format, 1, 32),
    };
    struct input_audio audio = {0};
    size_t mark = reader_enter(r, "input_audio");

    if (!part->input_audio)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (!reader_object(r, part->input_audio, rows, sizeof rows / sizeof *rows, &audio) ||
        !take_medium(r, audio.data, "data", "audio", out_medium))
        return false;
    reader_leave(r, mark);
    return true;
}

/* ---- parts ---- */

static void add_part(struct chat_turns *out, enum turn_part_kind kind, struct span text,
                     size_t medium)
{
    out->parts[out->n_parts] = (struct turn_part){.kind = kind, .text = text};
    out->media[out->n_parts++] = medium;
    out->text_bytes += text.size;
}

static bool read_part(struct reader *r, const json_t *value, bool media_allowed,
                      struct chat_turns *out)
{
    static const struct reader_row rows[] = {
        ROW_TEXT(part, type, 1, 32),
        ROW_ANY_TEXT(part, text),
        {"image_url", keep_value, offsetof(struct part, image_url), 0, 0},
        {"video_url", keep_value, offsetof(struct part, video_url), 0, 0},
        {"input_audio", keep_value, offsetof(struct part, input_audio), 0, 0},
    };
    struct part part = {0};
    size_t medium = 0;

    if (!reader_object(r, value, rows, sizeof rows / sizeof *rows, &part))
        return false;
    bool is_text = span_is(part.type, "text");
    bool is_image = span_is(part.type, "image_url");
    bool is_video = span_is(part.type, "video_url");
    bool is_audio = span_is(part.type, "input_audio");
    if ((part.text.data && !is_text) || (part.image_url && !is_image) ||
        (part.video_url && !is_video) || (part.input_audio && !is_audio) ||
        (!is_text && !is_image && !is_video && !is_audio)) {
        (void)reader_enter(r, "type");
        return reader_refuse(r, STATUS_INVALID,
                             "must be text, image_url, video_url or input_audio, with the field of "
                             "that name and no other");
    }
    if (is_text && !part.text.data) {
        (void)reader_enter(r, "text");
        return reader_refuse(r, STATUS_INVALID, "is missing");
    }
    if (!is_text && !media_allowed)
        return reader_refuse(r, STATUS_INVALID, "only text can stand in a message of this role");
    if (is_image && !read_image_part(r, &part, &medium))
        return false;
    if (is_video && !read_video_part(r, &part, &medium))
        return false;
    if (is_audio && !read_audio_part(r, &part, &medium))
        return false;
    add_part(out,
             is_text    ? TURN_TEXT
             : is_image ? TURN_IMAGE
             : is_video ? TURN_VIDEO
                        : TURN_AUDIO,
             part.text, medium);
    return true;
}

static bool read_content(struct reader *r, const json_t *content, struct turn *turn,
                         struct chat_turns *out)
{
    size_t mark = reader_enter(r, "content");
    struct span text;
    bool media_allowed = turn->role == TURN_USER || turn->role == TURN_TOOL;

    turn->parts = out->parts + out->n_parts;
    if (!content && turn->role != TURN_ASSISTANT)
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (json_is_array(content)) {
        turn->is_list = true;
        turn->n_parts = json_array_size(content);
        if (turn->n_parts == 0)
            return reader_refuse(r, STATUS_INVALID, "is an empty list");
        for (size_t i = 0; i < turn->n_parts; i++) {
            size_t at = reader_enter_index(r, i);
            if (!read_part(r, json_array_get(content, i), media_allowed, out))
                return false;
            reader_leave(r, at);
        }
    } else if (content) {
        if (!json_is_string(content))
            return reader_refuse(r, STATUS_INVALID, "must be a string or a list of parts");
        if (!reader_text(r, content, &text))
            return false;
        add_part(out, TURN_TEXT, text, 0);
        turn->n_parts = 1;
    }
    reader_leave(r, mark);
    return true;
}

/* ---- tool calls ---- */

struct call {
    struct span id, type;
    const json_t *function;
    int64_t index;
};

static bool read_call(struct reader *r, const json_t *value, struct turn_call *out)
{
    static const struct reader_row call_rows[] = {
        ROW_TEXT(call, id, 1, CHAT_NAME_BYTES_MAX),
        ROW_TEXT(call, type, 1, 32),
        {"function", keep_value, offsetof(struct call, function), 0, 0},
        {"index", read_integer, offsetof(struct call, index), 0, CHAT_CALLS_MAX},
    };
    static const struct reader_row function_rows[] = {
        ROW_TEXT(turn_call, name, 1, CHAT_NAME_BYTES_MAX),
        ROW_TEXT(turn_call, arguments, 0, BODY_RAW_BYTES_MAX),
    };
    struct call call = {0};

    if (!reader_object(r, value, call_rows, sizeof call_rows / sizeof *call_rows, &call))
        return false;
    if (!call.id.data || !call.function)
        return reader_refuse(r, STATUS_INVALID, "needs id and function");
    if (call.type.data && !span_is(call.type, "function"))
        return reader_refuse(r, STATUS_UNSUPPORTED, "only calls of type function are supported");
    size_t mark = reader_enter(r, "function");
    if (!reader_object(r, call.function, function_rows,
                       sizeof function_rows / sizeof *function_rows, out))
        return false;
    if (!out->name.data)
        return reader_refuse(r, STATUS_INVALID, "needs a name");
    reader_leave(r, mark);
    out->id = call.id;
    if (out->arguments.size == 0) /* some servers write "" for a call without arguments */
        out->arguments = span_text("{}");
    return true;
}

static bool read_calls(struct reader *r, const json_t *value, struct turn *turn,
                       struct chat_turns *out)
{
    size_t mark = reader_enter(r, "tool_calls");

    if (!json_is_array(value))
        return reader_refuse(r, STATUS_INVALID, "must be a list");
    if (turn->role != TURN_ASSISTANT)
        return reader_refuse(r, STATUS_INVALID, "only an assistant message can have calls");
    turn->calls = out->calls + out->n_calls;
    turn->n_calls = json_array_size(value);
    if (turn->n_calls > CHAT_CALLS_MAX)
        return reader_refuse(r, STATUS_LIMIT, "more than %d calls", CHAT_CALLS_MAX);
    for (size_t i = 0; i < turn->n_calls; i++) {
        size_t at = reader_enter_index(r, i);
        if (!read_call(r, json_array_get(value, i), &turn->calls[i]))
            return false;
        out->text_bytes += turn->calls[i].arguments.size;
        reader_leave(r, at);
    }
    out->n_calls += turn->n_calls;
    reader_leave(r, mark);
    return true;
}

/* ---- messages ---- */

static bool read_role(struct reader *r, struct span role, enum turn_role *out)
{
    static const struct {
        const char *word;
        enum turn_role role;
    } roles[] = {{"system", TURN_SYSTEM},
                 {"developer", TURN_SYSTEM},
                 {"user", TURN_USER},
                 {"assistant", TURN_ASSISTANT},
                 {"tool", TURN_TOOL}};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (!span_is(role, roles[i].word))
            continue;
        *out = roles[i].role;
        return true;
    }
    (void)reader_enter(r, "role");
    return reader_refuse(r, STATUS_INVALID, "must be system, developer, user, assistant or tool");
}

static bool read_message(struct reader *r, const json_t *value, struct turn *turn,
                         struct chat_turns *out)
{
    /* The last four stand in answers, which clients send back as they got them. */
    static const struct reader_row rows[] = {
        ROW_TEXT(message, role, 1, 32),
        {"content", keep_value, offsetof(struct message, content), 0, 0},
        ROW_TEXT(message, name, 0, CHAT_NAME_BYTES_MAX),
        ROW_TEXT(message, tool_call_id, 1, CHAT_NAME_BYTES_MAX),
        {"reasoning_content", read_text, offsetof(struct message, reasoning), 0,
         BODY_TEXT_BYTES_MAX},
        {"tool_calls", keep_value, offsetof(struct message, calls), 0, 0},
        {"refusal", read_nothing, 0, 0, 0},
        {"annotations", read_empty, 0, 0, 0},
        {"audio", read_nothing, 0, 0, 0},
        {"function_call", read_nothing, 0, 0, 0},
    };
    struct message message = {0};

    if (!reader_object(r, value, rows, sizeof rows / sizeof *rows, &message) ||
        !read_role(r, message.role, &turn->role) || !read_content(r, message.content, turn, out) ||
        (message.calls && !read_calls(r, message.calls, turn, out)))
        return false;
    if (turn->role == TURN_TOOL && !message.tool_call_id.data) {
        (void)reader_enter(r, "tool_call_id");
        return reader_refuse(r, STATUS_INVALID, "is missing");
    }
    if (turn->role != TURN_TOOL && message.tool_call_id.data) {
        (void)reader_enter(r, "tool_call_id");
        return reader_refuse(r, STATUS_INVALID, "only a tool message answers a call");
    }
    turn->tool_call_id = message.tool_call_id;
    if (turn->role == TURN_TOOL)
        turn->name = message.name;
    if (turn->role == TURN_ASSISTANT)
        turn->reasoning = message.reasoning;
    out->text_bytes += turn->reasoning.size;
    return true;
}

/* Room for everything, counted before it is read, so that nothing moves later. */
static bool make_room(struct reader *r, const json_t *messages, struct chat_turns *out)
{
    size_t n = json_array_size(messages);
    size_t n_parts = 1; /* of the merged system message */
    size_t n_calls = 0;

    if (n == 0)
        return reader_refuse(r, STATUS_INVALID, "is empty");
    if (n > TURNS_MESSAGES_MAX)
        return reader_refuse(r, STATUS_LIMIT, "more than %d messages", TURNS_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *message = json_array_get(messages, i);
        const json_t *content = json_object_get(message, "content");
        n_parts += json_is_array(content) ? json_array_size(content) : 1;
        n_calls += json_array_size(json_object_get(message, "tool_calls"));
    }
    if (n_parts > TURNS_PARTS_MAX)
        return reader_refuse(r, STATUS_LIMIT, "more than %d parts", TURNS_PARTS_MAX - 1);
    out->turns.items = heap_array(struct turn, n);
    out->parts = heap_array(struct turn_part, n_parts);
    out->media = heap_array(size_t, n_parts);
    out->calls = heap_array(struct turn_call, n_calls);
    return true;
}

/* ---- order ---- */

static void merge_system(struct chat_turns *out)
{
    struct turn *turns = out->turns.items;
    size_t systems = 0;
    size_t kept = 1;

    for (size_t i = 0; i < out->turns.n; i++)
        systems += turns[i].role == TURN_SYSTEM;
    if (systems == 0 || (systems == 1 && turns[0].role == TURN_SYSTEM))
        return;
    for (size_t i = 0; i < out->turns.n; i++) {
        if (turns[i].role != TURN_SYSTEM)
            continue;
        for (size_t k = 0; k < turns[i].n_parts; k++) {
            if (out->merged.size > 0)
                buffer_append_text(&out->merged, k ? " " : "\n\n");
            buffer_append(&out->merged, turns[i].parts[k].text.data, turns[i].parts[k].text.size);
        }
    }
    struct turn *moved = heap_array(struct turn, out->turns.n);
    for (size_t i = 0; i < out->turns.n; i++)
        if (turns[i].role != TURN_SYSTEM)
            moved[kept++] = turns[i];
    moved[0] = (struct turn){.role = TURN_SYSTEM, .parts = out->parts + out->n_parts, .n_parts = 1};
    add_part(out, TURN_TEXT, buffer_span(&out->merged), 0);
    heap_free(turns);
    out->turns = (struct turns){moved, kept};
}

/* Which call a result answers: the last one of that id. */
static size_t find_call(const struct turn *assistant, struct span id)
{
    for (size_t i = assistant->n_calls; i > 0; i--)
        if (span_equal(assistant->calls[i - 1].id, id))
            return i - 1;
    return SIZE_MAX;
}

struct placed {
    size_t call, at;
    struct turn turn;
};

static int by_call(const void *a, const void *b)
{
    const struct placed *x = a;
    const struct placed *y = b;

    if (x->call != y->call)
        return x->call < y->call ? -1 : 1;
    return x->at < y->at ? -1 : 1;
}

/* Sort the results [n] that follow an assistant's calls. first: their index in messages. */
static bool order_results(struct reader *r, const struct turn *assistant, struct turn *results,
                          size_t n, size_t first)
{
    struct placed *placed = heap_array(struct placed, n);
    bool ok = true;

    for (size_t i = 0; i < n && ok; i++) {
        placed[i] = (struct placed){find_call(assistant, results[i].tool_call_id), i, results[i]};
        if (placed[i].call == SIZE_MAX) {
            (void)reader_enter_index(r, first + i);
            (void)reader_enter(r, "tool_call_id");
            ok = reader_refuse(r, STATUS_INVALID, "names no call of the assistant message before");
        }
    }
    if (ok) {
        qsort(placed, n, sizeof *placed, by_call);
        for (size_t i = 0; i < n; i++)
            results[i] = placed[i].turn;
    }
    heap_free(placed);
    return ok;
}

static bool order_tools(struct reader *r, struct turn *turns, size_t n)
{
    static const struct turn nobody = {0};
    const struct turn *assistant = &nobody;

    for (size_t i = 0; i < n; i++) {
        if (turns[i].role != TURN_TOOL) {
            assistant = turns[i].role == TURN_ASSISTANT ? &turns[i] : &nobody;
            continue;
        }
        size_t end = i;
        while (end < n && turns[end].role == TURN_TOOL)
            end++;
        if (!order_results(r, assistant, turns + i, end - i, i))
            return false;
        i = end - 1;
    }
    return true;
}

/* A last assistant message with calls, results and text would be rendered with no open turn behind
 * it (spec chat.md section 3): its text, which came before the calls, is left out. */
static void leave_out_text(struct turn *turns, size_t n)
{
    size_t last = n;

    while (last > 0 && turns[last - 1].role == TURN_TOOL)
        last--;
    if (last == n || last == 0)
        return;
    assert(turns[last - 1].role == TURN_ASSISTANT);
    turns[last - 1].n_parts = 0;
}

bool chat_turns_read(struct reader *r, const json_t *messages, struct chat_turns *out)
{
    size_t mark = reader_enter(r, "messages");

    if (!json_is_array(messages))
        return reader_refuse(r, STATUS_INVALID, messages ? "must be a list" : "is missing");
    if (!make_room(r, messages, out))
        return false;
    out->turns.n = json_array_size(messages);
    for (size_t i = 0; i < out->turns.n; i++) {
        size_t at = reader_enter_index(r, i);
        if (!read_message(r, json_array_get(messages, i), &out->turns.items[i], out))
            return false;
        reader_leave(r, at);
    }
    if (!order_tools(r, out->turns.items, out->turns.n))
        return false;
    merge_system(out);
    leave_out_text(out->turns.items, out->turns.n);
    reader_leave(r, mark);
    return true;
}

size_t chat_turns_media(const struct chat_turns *turns, size_t out[BODY_MEDIA_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < turns->turns.n; i++) {
        const struct turn *turn = &turns->turns.items[i];
        for (size_t k = 0; k < turn->n_parts; k++) {
            if (turn->parts[k].kind == TURN_TEXT)
                continue;
            assert(n < BODY_MEDIA_MAX);
            out[n++] = turns->media[turn->parts + k - turns->parts];
        }
    }
    return n;
}
