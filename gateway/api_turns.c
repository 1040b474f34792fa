#include "gateway/api_turns.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PART_KINDS (TURN_AUDIO + 1)

/* A message while it is read. */
struct message {
    struct span role, name, tool_call_id, reasoning;
    const json_t *content, *calls;
};
struct part {
    struct span type;
    const json_t *of[PART_KINDS]; /* what it holds, by its kind */
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

/* ---- media ---- */

struct medium {
    const json_t *bytes;
    struct span said; /* checked and let go */
};

static bool read_detail(struct reader *r, const json_t *value, const struct reader_row *row,
                        void *into)
{
    (void)row;
    return reader_word(r, value, "auto low high", &((struct medium *)into)->said);
}

#define MEDIUM(field) offsetof(struct medium, field)
// clang-format off
/* By kind: the word for it, which also names its field; and of a medium, what that field holds. */
static const struct {
    const char *word;
    struct reader_row rows[2];
    size_t n_rows;
    const char *mime; /* of the data: URL that is wanted */
} kinds[PART_KINDS] = {
    [TURN_TEXT] = {"text", {{0}}, 0, NULL},
    [TURN_IMAGE] = {"image_url", {{"url", keep_value, MEDIUM(bytes), 0, 0},
                                  {"detail", read_detail, 0, 0, 0}}, 2, "image"},
    [TURN_VIDEO] = {"video_url", {{"url", keep_value, MEDIUM(bytes), 0, 0}}, 1, "video"},
    [TURN_AUDIO] = {"input_audio", {{"data", keep_value, MEDIUM(bytes), 0, 0},
                                    {"format", read_text, MEDIUM(said), 1, 32}}, 2, "audio"},
};
// clang-format on

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

static bool read_medium(struct reader *r, const json_t *value, size_t kind, size_t *out)
{
    struct medium medium = {0};

    return reader_object(r, value, kinds[kind].rows, kinds[kind].n_rows, &medium) &&
           take_medium(r, medium.bytes, kinds[kind].rows[0].key, kinds[kind].mime, out);
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
        {"text", keep_value, offsetof(struct part, of[TURN_TEXT]), 0, 0},
        {"image_url", keep_value, offsetof(struct part, of[TURN_IMAGE]), 0, 0},
        {"video_url", keep_value, offsetof(struct part, of[TURN_VIDEO]), 0, 0},
        {"input_audio", keep_value, offsetof(struct part, of[TURN_AUDIO]), 0, 0},
    };
    struct part part = {0};
    struct span text = {0};
    size_t kind = PART_KINDS, held = 0, medium = 0;

    if (!reader_object(r, value, rows, sizeof rows / sizeof *rows, &part))
        return false;
    for (size_t i = 0; i < PART_KINDS; i++) {
        held += part.of[i] != NULL;
        if (span_is(part.type, kinds[i].word))
            kind = i;
    }
    if (kind == PART_KINDS || held > (part.of[kind] != NULL)) {
        (void)reader_enter(r, "type");
        return reader_refuse(r, STATUS_INVALID,
                             "must be text, image_url, video_url or input_audio, with the field of "
                             "that name and no other");
    }
    if (kind != TURN_TEXT && !media_allowed)
        return reader_refuse(r, STATUS_INVALID, "only text can stand in a message of this role");
    size_t mark = reader_enter(r, kinds[kind].word);
    if (!part.of[kind])
        return reader_refuse(r, STATUS_INVALID, "is missing");
    if (!(kind == TURN_TEXT ? reader_text(r, part.of[kind], &text)
                            : read_medium(r, part.of[kind], kind, &medium)))
        return false;
    reader_leave(r, mark);
    add_part(out, (enum turn_part_kind)kind, text, medium);
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
        {"parsed_arguments", read_nothing, 0, 0, 0}, /* as "parsed" of a message */
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
    /* The last five stand in answers, which clients send back as they got them; "parsed" is added
     * by OpenAI's own. */
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
        {"parsed", read_nothing, 0, 0, 0},
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
