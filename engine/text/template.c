#include "engine/text/template.h"
#include "engine/base/heap.h"
#include "engine/text/declare.h"
#include "engine/text/json_text.h"
#include "engine/text/unicode.h"
#include "engine/text/writer.h"
#include <string.h>

/* What was written last, as far as the generation prompt hangs on it. */
enum last { LAST_OTHER, LAST_CALL, LAST_RESPONSE };

#define NO_MESSAGE SIZE_MAX

struct render {
    struct writer w;
    const struct chat *chat;
    size_t first;     /* message after the system message, if that comes first */
    size_t last_user; /* NO_MESSAGE: there is none */
    size_t previous;  /* the message before that is not of a tool, NO_MESSAGE: none */
    enum last last;
};

static bool is_system(enum chat_role role)
{
    return role == CHAT_SYSTEM || role == CHAT_DEVELOPER;
}

/* ---- text of messages ---- */

static const uint8_t *find(struct span text, const char *word)
{
    const size_t size = strlen(word);
    for (size_t at = 0; at + size <= text.size; at++) {
        const uint8_t *hit = memchr(text.data + at, word[0], text.size - at - size + 1);
        if (hit == NULL)
            return NULL;
        if (memcmp(hit, word, size) == 0)
            return hit;
        at = (size_t)(hit - text.data);
    }
    return NULL;
}

/* Raw thoughts in an old answer are dropped: all from each "<|channel>" to the "<channel|>" after
 * it, or to the end. Then trimmed. */
static void strip_thoughts(struct span text, struct buffer *out)
{
    static const char close_word[] = "<channel|>";
    struct buffer kept = {0};
    for (;;) {
        const uint8_t *end = find(text, close_word);
        const struct span part =
            span_of(text.data, end == NULL ? text.size : (size_t)(end - text.data));
        const uint8_t *open = find(part, "<|channel>");
        buffer_append(&kept, part.data, open == NULL ? part.size : (size_t)(open - part.data));
        if (end == NULL)
            break;
        const size_t used = part.size + sizeof(close_word) - 1;
        text = span_of(text.data + used, text.size - used);
    }
    const struct span stripped = unicode_strip(buffer_span(&kept));
    buffer_append(out, stripped.data, stripped.size);
    buffer_clear(&kept);
}

/* One part of a message; *has_content when anything was written. */
static bool write_part(struct render *r, const struct chat_message *message,
                       const struct chat_part *part, bool *has_content, struct status *st)
{
    struct buffer text = {0};
    if (part->kind != MEDIA_NONE) {
        *has_content = true;
        return write_medium(&r->w, part->kind, part->medium, st);
    }
    if (message->role == CHAT_ASSISTANT) {
        strip_thoughts(part->text, &text);
    } else {
        const struct span stripped = unicode_strip(part->text);
        buffer_append(&text, stripped.data, stripped.size);
    }
    *has_content = *has_content || text.size > 0;
    write_text(&r->w, buffer_span(&text));
    buffer_clear(&text);
    return true;
}

static bool write_content(struct render *r, size_t i, bool *has_content, struct status *st)
{
    const struct chat_message *message = &r->chat->messages[i];
    for (size_t k = 0; k < message->n_parts; k++)
        if (!write_part(r, message, &message->parts[k], has_content, st))
            return status_wrap(st, "messages[%zu].content[%zu]", i, k);
    return true;
}

/* ---- system turn ---- */

static bool write_tools(struct render *r, struct status *st)
{
    struct json_text tools = {0};
    if (r->chat->tools.size == 0)
        return true;
    if (!json_text_init(&tools, r->chat->tools, st))
        return status_wrap(st, "tools");
    const bool ok = !json_text_truth(tools.root) || declare_tools(&r->w, tools.root, st);
    json_text_clear(&tools);
    return ok;
}

/* Whether there is at least one tool, which a list of none is not. */
static bool any_tools(const struct chat *chat)
{
    struct json_text tools;
    struct status st = {0};
    if (chat->tools.size == 0)
        return false;
    if (!json_text_init(&tools, chat->tools, &st))
        return true; /* write_tools will say why not */
    const bool any = json_text_truth(tools.root);
    json_text_clear(&tools);
    return any;
}

static bool write_system(struct render *r, struct status *st)
{
    const struct chat *chat = r->chat;
    const bool given = chat->n_messages > 0 && is_system(chat->messages[0].role);
    if (!chat->thinking && !given && !any_tools(chat))
        return true;
    write_special(&r->w, SPECIAL_TURN);
    write_ours(&r->w, "system\n");
    if (chat->thinking) {
        write_special(&r->w, SPECIAL_THINK);
        write_ours(&r->w, "\n");
    }
    for (size_t i = 0; given && i < chat->messages[0].n_parts; i++) {
        /* A list is spaced; a medium in it counts as an empty text. */
        const struct chat_part *part = &chat->messages[0].parts[i];
        if (part->kind == MEDIA_NONE)
            write_text(&r->w, unicode_strip(part->text));
        if (chat->messages[0].is_list)
            write_ours(&r->w, " ");
    }
    if (!write_tools(r, st))
        return false;
    write_special(&r->w, SPECIAL_TURN_END);
    write_ours(&r->w, "\n");
    write_cut(&r->w);
    r->first = given ? 1 : 0;
    return true;
}

/* ---- calls and answers ---- */

static bool write_call(struct render *r, const struct chat_call *call, struct status *st)
{
    struct json_text json = {0};
    if (call->arguments.size > 0 && !json_text_init(&json, call->arguments, st))
        return false;
    const enum json_text_kind kind = json.root == NULL ? JSON_TEXT_NULL : json.root->kind;
    if (kind != JSON_TEXT_OBJECT && kind != JSON_TEXT_NULL) {
        json_text_clear(&json);
        return status_fail(st, STATUS_INVALID, "not an object");
    }
    write_special(&r->w, SPECIAL_CALL);
    write_ours(&r->w, "call:");
    write_text(&r->w, call->name);
    write_ours(&r->w, "{");
    if (kind == JSON_TEXT_OBJECT)
        write_members(&r->w, json.root, false);
    write_ours(&r->w, "}");
    write_special(&r->w, SPECIAL_CALL_END);
    json_text_clear(&json);
    return true;
}

static void open_response(struct render *r, struct span name)
{
    write_special(&r->w, SPECIAL_RESPONSE);
    write_ours(&r->w, "response:");
    write_text(&r->w, name.size > 0 ? name : span_text("unknown"));
    write_ours(&r->w, "{");
    r->last = LAST_RESPONSE;
}

static void close_response(struct render *r)
{
    write_ours(&r->w, "}");
    write_special(&r->w, SPECIAL_RESPONSE_END);
}

/* An answer that is JSON: an object's members (only in the native form), or one value. */
static bool write_response_value(struct render *r, struct span name, struct span value, bool native,
                                 struct status *st)
{
    struct json_text json;
    if (!json_text_init(&json, value, st))
        return false;
    const bool object = json.root->kind == JSON_TEXT_OBJECT;
    if (!native && (object || json.root->kind == JSON_TEXT_ARRAY)) {
        json_text_clear(&json);
        return status_fail(st, STATUS_INVALID, "neither a text nor a list of parts");
    }
    open_response(r, name);
    if (object) {
        write_members(&r->w, json.root, false);
    } else {
        write_ours(&r->w, "value:");
        write_value(&r->w, json.root, false);
    }
    close_response(r);
    json_text_clear(&json);
    return true;
}

/* Its name is that of the last call with the same id; no id on either side counts as equal. */
static bool write_tool_message(struct render *r, const struct chat_message *message,
                               const struct chat_message *tool, struct status *st)
{
    struct span name = tool->name;
    struct buffer text = {0};
    for (size_t i = 0; i < message->n_calls; i++)
        if (span_equal(message->calls[i].id, tool->tool_call_id))
            name = message->calls[i].name;
    if (tool->value.size > 0)
        return write_response_value(r, name, tool->value, false, st);
    for (size_t i = 0; i < tool->n_parts; i++)
        if (tool->parts[i].kind == MEDIA_NONE)
            buffer_append(&text, tool->parts[i].text.data, tool->parts[i].text.size);
    open_response(r, name);
    write_ours(&r->w, "value:");
    write_quoted(&r->w, buffer_span(&text));
    close_response(r);
    buffer_clear(&text);
    for (size_t i = 0; i < tool->n_parts; i++)
        if (tool->parts[i].kind != MEDIA_NONE &&
            !write_medium(&r->w, tool->parts[i].kind, tool->parts[i].medium, st))
            return false;
    return true;
}

static bool write_calls_and_answers(struct render *r, size_t i, struct status *st)
{
    const struct chat *chat = r->chat;
    const struct chat_message *message = &chat->messages[i];
    for (size_t k = 0; k < message->n_calls; k++) {
        if (!write_call(r, &message->calls[k], st))
            return status_wrap(st, "messages[%zu].tool_calls[%zu].function.arguments", i, k);
        r->last = LAST_CALL;
    }
    for (size_t k = 0; k < message->n_responses; k++)
        if (!write_response_value(r, message->responses[k].name, message->responses[k].value, true,
                                  st))
            return status_wrap(st, "messages[%zu].tool_responses[%zu].response", i, k);
    if (message->n_responses > 0 || message->n_calls == 0)
        return true;
    for (size_t k = i + 1; k < chat->n_messages && chat->messages[k].role == CHAT_TOOL; k++)
        if (!write_tool_message(r, message, &chat->messages[k], st))
            return status_wrap(st, "messages[%zu].content", k);
    return true;
}

/* ---- turns ---- */

static void open_turn(struct render *r, const struct chat_message *message)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "system",
        [CHAT_USER] = "user",
        [CHAT_ASSISTANT] = "model",
        [CHAT_DEVELOPER] = "developer",
    };
    write_special(&r->w, SPECIAL_TURN);
    if (message->role == CHAT_OTHER)
        write_text(&r->w, message->role_name);
    else
        write_ours(&r->w, names[message->role]);
    write_ours(&r->w, "\n");
}

static void write_reasoning(struct render *r, size_t i)
{
    const struct chat_message *message = &r->chat->messages[i];
    const bool live = r->last_user == NO_MESSAGE || i > r->last_user;
    if (message->reasoning.size == 0 ||
        !(live || (r->chat->preserve_thinking && message->n_calls > 0)))
        return;
    write_special(&r->w, SPECIAL_CHANNEL);
    write_ours(&r->w, "thought\n");
    write_text(&r->w, message->reasoning);
    write_ours(&r->w, "\n");
    write_special(&r->w, SPECIAL_CHANNEL_END);
}

/* The next message that is not of a tool, or NO_MESSAGE. */
static size_t next_message(const struct chat *chat, size_t i)
{
    for (i++; i < chat->n_messages; i++)
        if (chat->messages[i].role != CHAT_TOOL)
            return i;
    return NO_MESSAGE;
}

static bool write_message(struct render *r, size_t i, struct status *st)
{
    const struct chat *chat = r->chat;
    const struct chat_message *message = &chat->messages[i];
    const bool model = message->role == CHAT_ASSISTANT;
    const size_t next = next_message(chat, i);
    bool has_content = false;
    r->last = LAST_OTHER;
    /* Assistant messages in a row are one turn of the model. */
    if (!model || r->previous == NO_MESSAGE || chat->messages[r->previous].role != CHAT_ASSISTANT)
        open_turn(r, message);
    r->previous = i;
    if (model) {
        write_reasoning(r, i);
        if (!write_calls_and_answers(r, i, st))
            return false;
    }
    const bool answered = r->last == LAST_RESPONSE;
    const bool late = answered && next == NO_MESSAGE && chat->generation_prompt;
    if (!(late && !chat->keep_flaw) && !write_content(r, i, &has_content, st))
        return false;
    const bool goes_on = model && next != NO_MESSAGE &&
                         chat->messages[next].role == CHAT_ASSISTANT &&
                         (message->n_calls == 0 || answered);
    if (r->last == LAST_CALL) {
        write_special(&r->w, SPECIAL_RESPONSE);
    } else if (!goes_on && !(answered && !has_content && next == NO_MESSAGE)) {
        write_special(&r->w, SPECIAL_TURN_END);
        write_ours(&r->w, "\n");
    }
    return true;
}

static void write_generation(struct render *r)
{
    const bool thinking = r->chat->thinking;
    write_cut(&r->w);
    if (r->last == LAST_OTHER) {
        write_special(&r->w, SPECIAL_TURN);
        write_ours(&r->w, "model\n");
    }
    if ((r->last == LAST_OTHER && !thinking) || (r->last == LAST_RESPONSE && thinking)) {
        write_special(&r->w, SPECIAL_CHANNEL);
        write_ours(&r->w, "thought\n");
    }
    if (r->last == LAST_OTHER && !thinking)
        write_special(&r->w, SPECIAL_CHANNEL_END);
    r->w.prompt->starts_in_thought = r->last == LAST_RESPONSE && thinking;
}

static bool write_prompt(struct render *r, struct status *st)
{
    const struct chat *chat = r->chat;
    write_special(&r->w, SPECIAL_BOS);
    if (!write_system(r, st))
        return false;
    for (size_t i = r->first; i < chat->n_messages; i++)
        if (chat->messages[i].role == CHAT_USER)
            r->last_user = i;
    for (size_t i = r->first; i < chat->n_messages; i++)
        if (chat->messages[i].role != CHAT_TOOL && !write_message(r, i, st))
            return false;
    if (chat->generation_prompt)
        write_generation(r);
    return writer_end(&r->w, st);
}

bool template_render(const struct tokenizer *t, const struct chat *chat, struct prompt *out,
                     struct status *st)
{
    struct prompt prompt = {0};
    struct render r = {.chat = chat, .last_user = NO_MESSAGE, .previous = NO_MESSAGE};
    writer_init(&r.w, t, chat, &prompt);
    const bool ok = write_prompt(&r, st);
    writer_clear(&r.w);
    if (!ok) {
        prompt_clear(&prompt);
        return false;
    }
    *out = prompt;
    return true;
}

void prompt_clear(struct prompt *p)
{
    ids_clear(&p->ids);
    ids_clear(&p->cuts);
    heap_free(p->spans);
    *p = (struct prompt){0};
}
