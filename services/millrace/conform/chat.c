/* Lines of chats. They are read with our own JSON reader, because numbers in tools and arguments
 * must keep their spelling. */
#include "engine/base/heap.h"
#include "engine/text/template.h"
#include "services/millrace/conform/lines.h"
#include <string.h>

#define LIST_MAX 64   /* parts, calls or responses of a message */
#define TEXTS_MAX 256 /* JSON values of a chat that are written again */

struct message_memory {
    struct chat_part parts[LIST_MAX];
    struct chat_call calls[LIST_MAX];
    struct chat_response responses[LIST_MAX];
};

struct chat_memory {
    struct line_case *line;
    struct chat chat;
    struct chat_message *messages;
    struct message_memory *memory; /* [n_messages] */
    struct buffer texts[TEXTS_MAX];
    size_t n_texts;
};

static struct span text_of(const struct json_value *value)
{
    return value ? value->text : span_of(NULL, 0);
}

static struct span json_of(struct chat_memory *m, const struct json_value *value)
{
    if (!value)
        return span_of(NULL, 0);
    if (m->n_texts == TEXTS_MAX) {
        line_fail(m->line, "a chat of too many values");
        return span_of(NULL, 0);
    }
    struct buffer *text = &m->texts[m->n_texts++];
    json_text_write(value, text);
    return buffer_span(text);
}

static bool room(struct chat_memory *m, size_t n)
{
    if (n == LIST_MAX)
        line_fail(m->line, "a message of more than %d items", LIST_MAX);
    return n < LIST_MAX;
}

/* A part of an unknown type is left out; in a system message everything but text is an empty one.
 */
static void add_part(struct chat_memory *m, struct chat_message *to, struct chat_part *parts,
                     const struct json_value *value, bool system)
{
    static const struct {
        const char *type;
        enum media_kind kind;
    } kinds[] = {
        {"text", MEDIA_NONE},   {"image", MEDIA_IMAGE},       {"image_url", MEDIA_IMAGE},
        {"audio", MEDIA_AUDIO}, {"input_audio", MEDIA_AUDIO}, {"video", MEDIA_VIDEO},
    };
    struct span type = text_of(json_text_get(value, "type"));
    size_t i = 0;

    while (i < sizeof kinds / sizeof *kinds && !span_is(type, kinds[i].type))
        i++;
    if (i == sizeof kinds / sizeof *kinds) {
        if (!system)
            return;
        i = 0;
    }
    if (room(m, to->n_parts))
        parts[to->n_parts++] = (struct chat_part){.kind = kinds[i].kind,
                                                  .text = text_of(json_text_get(value, "text"))};
}

static void add_content(struct chat_memory *m, struct chat_message *to, struct chat_part *parts,
                        const struct json_value *content)
{
    bool system = to->role == CHAT_SYSTEM || to->role == CHAT_DEVELOPER;

    if (!content)
        return;
    if (content->kind == JSON_TEXT_STRING) {
        parts[to->n_parts++].text = content->text;
        return;
    }
    if (content->kind != JSON_TEXT_ARRAY) {
        if (to->role == CHAT_TOOL) /* null, number, true or false; an object is to be refused */
            to->value = json_of(m, content);
        return;
    }
    to->is_list = true;
    for (const struct json_value *v = content->first; v; v = v->next)
        add_part(m, to, parts, v, system);
}

static enum chat_role role_of(struct span name)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM},
                 {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT},
                 {"tool", CHAT_TOOL},
                 {"developer", CHAT_DEVELOPER}};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (span_is(name, roles[i].name))
            return roles[i].role;
    return CHAT_OTHER;
}

static void add_calls(struct chat_memory *m, struct chat_message *to, struct message_memory *memory,
                      const struct json_value *message)
{
    const struct json_value *calls = json_text_get(message, "tool_calls");
    const struct json_value *responses = json_text_get(message, "tool_responses");

    for (const struct json_value *v = calls ? calls->first : NULL; v; v = v->next) {
        const struct json_value *function = json_text_get(v, "function");
        if (room(m, to->n_calls))
            memory->calls[to->n_calls++] =
                (struct chat_call){.id = text_of(json_text_get(v, "id")),
                                   .name = text_of(json_text_get(function, "name")),
                                   .arguments = json_of(m, json_text_get(function, "arguments"))};
    }
    for (const struct json_value *v = responses ? responses->first : NULL; v; v = v->next)
        if (room(m, to->n_responses))
            memory->responses[to->n_responses++] =
                (struct chat_response){.name = text_of(json_text_get(v, "name")),
                                       .value = json_of(m, json_text_get(v, "response"))};
}

static void add_message(struct chat_memory *m, const struct json_value *value)
{
    size_t i = m->chat.n_messages++;
    struct chat_message *to = &m->messages[i];
    struct message_memory *memory = &m->memory[i];

    to->role_name = text_of(json_text_get(value, "role"));
    to->role = role_of(to->role_name);
    to->parts = memory->parts;
    to->calls = memory->calls;
    to->responses = memory->responses;
    to->reasoning = text_of(json_text_get(value, "reasoning"));
    if (to->reasoning.size == 0)
        to->reasoning = text_of(json_text_get(value, "reasoning_content"));
    to->tool_call_id = text_of(json_text_get(value, "tool_call_id"));
    to->name = text_of(json_text_get(value, "name"));
    add_content(m, to, memory->parts, json_text_get(value, "content"));
    add_calls(m, to, memory, value);
}

static void check_prompt(struct line_case *c, const struct prompt *prompt,
                         const struct json_value *wanted)
{
    struct detokenizer d = {0};
    struct buffer text = {0};

    for (size_t i = 0; i < prompt->ids.size; i++)
        detokenizer_push(&d, c->tokenizer, prompt->ids.data[i], true, &text);
    detokenizer_end(&d, &text);
    (void)line_same_text(c, "prompt", buffer_span(&text), wanted);
    /* Where a caller's text has control words, it is ordinary text here, and there are no ids. */
    if (json_text_get(c->root, "ids"))
        (void)line_same_ids(c, &prompt->ids);
    buffer_clear(&text);
}

static void render(struct chat_memory *m, const struct json_value *wanted)
{
    struct line_case *c = m->line;
    struct prompt prompt = {0};
    struct status st = {0};
    bool refused = wanted && wanted->kind == JSON_TEXT_NULL;
    bool ok = template_render(c->tokenizer, &m->chat, &prompt, &st);

    if (refused && ok)
        line_fail(c, "was not refused");
    if (!refused && !ok)
        line_fail(c, "%s", st.text);
    if (!refused && ok)
        check_prompt(c, &prompt, wanted);
    prompt_clear(&prompt);
}

void line_chat(struct line_case *c)
{
    const struct json_value *messages = json_text_get(c->root, "messages");
    const struct json_value *options = json_text_get(c->root, "options");
    struct chat_memory *m = heap_new(1, sizeof *m);

    m->line = c;
    m->messages = heap_array(struct chat_message, messages->n);
    m->memory = heap_array(struct message_memory, messages->n);
    for (const struct json_value *v = messages->first; v; v = v->next)
        add_message(m, v);
    m->chat.messages = m->messages;
    m->chat.tools = json_of(m, json_text_get(c->root, "tools"));
    m->chat.thinking = json_text_truth(json_text_get(options, "enable_thinking"));
    m->chat.preserve_thinking = json_text_truth(json_text_get(options, "preserve_thinking"));
    m->chat.generation_prompt = json_text_truth(json_text_get(options, "add_generation_prompt"));
    m->chat.keep_flaw = true;
    render(m, json_text_get(c->root, "prompt"));
    for (size_t i = 0; i < m->n_texts; i++)
        buffer_clear(&m->texts[i]);
    heap_free(m->messages);
    heap_free(m->memory);
    heap_free(m);
}
