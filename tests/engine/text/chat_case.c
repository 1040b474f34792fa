/* A line of chat.jsonl as struct chat. It is read with our own JSON reader, because the numbers in
 * tools and arguments must keep their spelling. */
#include "engine/base/heap.h"
#include "engine/text/json_text.h"
#include "engine/text/template.h"
#include "tests/engine/text/cases.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LIST_MAX 64

struct message_memory {
    struct chat_part parts[LIST_MAX];
    struct chat_call calls[LIST_MAX];
    struct chat_response responses[LIST_MAX];
};

struct chat_memory {
    struct chat chat;
    struct chat_message *messages;
    struct message_memory *memory; /* [n_messages] */
    struct buffer texts[256];      /* JSON written again */
    size_t n_texts;
};

static struct span text_of(const struct json_value *value)
{
    return value == NULL ? span_of(NULL, 0) : value->text;
}

static struct span json_of(struct chat_memory *m, const struct json_value *value)
{
    if (value == NULL)
        return span_of(NULL, 0);
    assert_true(m->n_texts < sizeof(m->texts) / sizeof(m->texts[0]));
    struct buffer *text = &m->texts[m->n_texts++];
    json_text_write(value, text);
    return buffer_span(text);
}

/* A part of an unknown type is left out; in a system message everything but text is an empty one.
 */
static void add_part(struct chat_message *to, struct chat_part *parts,
                     const struct json_value *value, bool system)
{
    static const struct {
        const char *type;
        enum media_kind kind;
    } kinds[] = {
        {"text", MEDIA_NONE},   {"image", MEDIA_IMAGE},       {"image_url", MEDIA_IMAGE},
        {"audio", MEDIA_AUDIO}, {"input_audio", MEDIA_AUDIO}, {"video", MEDIA_VIDEO},
    };
    const struct span type = text_of(json_text_get(value, "type"));
    size_t i = 0;
    while (i < sizeof(kinds) / sizeof(kinds[0]) && !span_is(type, kinds[i].type))
        i++;
    if (i == sizeof(kinds) / sizeof(kinds[0])) {
        if (!system)
            return;
        i = 0;
    }
    assert_true(to->n_parts < LIST_MAX);
    parts[to->n_parts++] =
        (struct chat_part){.kind = kinds[i].kind, .text = text_of(json_text_get(value, "text"))};
}

static void add_content(struct chat_memory *m, struct chat_message *to, struct chat_part *parts,
                        const struct json_value *content)
{
    const bool system = to->role == CHAT_SYSTEM || to->role == CHAT_DEVELOPER;
    if (content == NULL)
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
    for (const struct json_value *at = content->first; at != NULL; at = at->next)
        add_part(to, parts, at, system);
}

static enum chat_role role_of(struct span name)
{
    static const char *const names[] = {"system", "user", "assistant", "tool", "developer"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (span_is(name, names[i]))
            return (enum chat_role)i;
    return CHAT_OTHER;
}

static void add_message(struct chat_memory *m, const struct json_value *value)
{
    const size_t i = m->chat.n_messages++;
    struct chat_message *to = &m->messages[i];
    struct message_memory *memory = &m->memory[i];
    const struct json_value *calls = json_text_get(value, "tool_calls");
    const struct json_value *responses = json_text_get(value, "tool_responses");
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
    for (const struct json_value *at = calls == NULL ? NULL : calls->first; at; at = at->next) {
        const struct json_value *function = json_text_get(at, "function");
        assert_true(to->n_calls < LIST_MAX);
        memory->calls[to->n_calls++] =
            (struct chat_call){.id = text_of(json_text_get(at, "id")),
                               .name = text_of(json_text_get(function, "name")),
                               .arguments = json_of(m, json_text_get(function, "arguments"))};
    }
    for (const struct json_value *at = responses == NULL ? NULL : responses->first; at;
         at = at->next) {
        assert_true(to->n_responses < LIST_MAX);
        memory->responses[to->n_responses++] =
            (struct chat_response){.name = text_of(json_text_get(at, "name")),
                                   .value = json_of(m, json_text_get(at, "response"))};
    }
}

static void check_prompt(const struct golden_case *c, const struct prompt *prompt,
                         struct span expected)
{
    struct detokenizer d = {0};
    struct buffer text = {0};
    for (size_t i = 0; i < prompt->ids.size; i++)
        detokenizer_push(&d, c->tokenizer, prompt->ids.data[i], true, &text);
    detokenizer_end(&d, &text);
    assert_text(c, buffer_span(&text), expected);
    buffer_clear(&text);
    /* Where a caller's text has control words, it is ordinary text here, and there are no ids. */
    if (json_object_get(c->json, "ids") != NULL)
        assert_ids(c, &prompt->ids);
}

void case_chat(const struct golden_case *c)
{
    struct json_text line;
    struct status st = {0};
    struct prompt prompt = {0};
    if (!json_text_init(&line, c->line, &st))
        fail_msg("%s", st.text);
    const struct json_value *messages = json_text_get(line.root, "messages");
    const struct json_value *options = json_text_get(line.root, "options");
    const struct json_value *tools = json_text_get(line.root, "tools");
    struct chat_memory *m = heap_new(1, sizeof(*m));
    m->messages = heap_array(struct chat_message, messages->n);
    m->memory = heap_array(struct message_memory, messages->n);
    for (const struct json_value *at = messages->first; at != NULL; at = at->next)
        add_message(m, at);
    m->chat.messages = m->messages;
    m->chat.tools = json_of(m, tools);
    m->chat.thinking = json_text_truth(json_text_get(options, "enable_thinking"));
    m->chat.preserve_thinking = json_text_truth(json_text_get(options, "preserve_thinking"));
    m->chat.generation_prompt = json_text_truth(json_text_get(options, "add_generation_prompt"));
    m->chat.keep_flaw = true;
    const struct json_value *expected = json_text_get(line.root, "prompt");
    const bool ok = template_render(c->tokenizer, &m->chat, &prompt, &st);
    if (expected->kind == JSON_TEXT_NULL && ok)
        fail_msg("not refused: %.*s", (int)c->line.size, (const char *)c->line.data);
    if (expected->kind == JSON_TEXT_STRING && !ok)
        fail_msg("%s: %.*s", st.text, (int)c->line.size, (const char *)c->line.data);
    if (ok)
        check_prompt(c, &prompt, expected->text);
    prompt_clear(&prompt);
    for (size_t i = 0; i < m->n_texts; i++)
        buffer_clear(&m->texts[i]);
    heap_free(m->messages);
    heap_free(m->memory);
    heap_free(m);
    json_text_clear(&line);
}
