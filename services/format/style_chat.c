/* OpenAI chat completions: server-sent events of chunks, or one object. */
#include "engine/base/heap.h"
#include "engine/text/json_text.h"
#include "services/format/styles.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct chat_state {
    struct rid rid;
    int64_t created;
    char *model;
    bool stream, include_usage;
    struct buffer opening; /* of every chunk, up to its delta; streams only */
    size_t n_calls;
    struct buffer content, reasoning; /* whole answers only */
    json_t *calls;                    /* whole answers only */
    json_t *media;                    /* what was made of media; NULL: nothing to say */
};

static int append(const char *text, size_t size, void *out)
{
    buffer_append(out, text, size);
    return 0;
}

static void write_json(json_t *value, struct buffer *out)
{
    (void)json_dump_callback(value, append, out, JSON_COMPACT);
    json_decref(value);
}

static json_t *json_text_of(struct span text)
{
    /* Of nothing there is no pointer, which jansson would take for an error. */
    return text.size ? json_stringn((const char *)text.data, text.size) : json_string("");
}

static json_t *frame(const struct chat_state *s, const char *object)
{
    char id[64];

    (void)snprintf(id, sizeof id, "chatcmpl-%s", rid_hex(s->rid).text);
    return json_pack("{s:s, s:s, s:I, s:s}", "id", id, "object", object, "created",
                     (json_int_t)s->created, "model", s->model);
}

static void make_opening(struct chat_state *s)
{
    write_json(frame(s, "chat.completion.chunk"), &s->opening);
    s->opening.size--; /* the object goes on */
    buffer_append_text(&s->opening, ",\"choices\":[{\"index\":0,\"delta\":");
}

/* A chunk is opened, its delta written, and closed: as text, since building it as an object would
 * be most of the work for a token. */
static void open_chunk(const struct chat_state *s, struct buffer *out)
{
    buffer_append_text(out, "data: ");
    buffer_append(out, s->opening.data, s->opening.size);
}

/* Takes over own, our part of it. finish and own may be NULL. */
static void close_chunk(const struct chat_state *s, const char *finish, json_t *own,
                        struct buffer *out)
{
    buffer_append_text(out, ",\"finish_reason\":");
    if (finish)
        json_text_quote(span_text(finish), out);
    else
        buffer_append_text(out, "null");
    buffer_append_text(out, s->include_usage ? "}],\"usage\":null" : "}]");
    if (own) {
        buffer_append_text(out, ",\"millrace\":");
        write_json(own, out);
    }
    buffer_append_text(out, "}\n\n");
}

static json_t *call_object(struct chat_state *s, const struct parse_event *event)
{
    char id[64];

    (void)snprintf(id, sizeof id, "call_%.12s_%zu", rid_hex(s->rid).text, s->n_calls);
    return json_pack("{s:s, s:s, s:{s:o, s:o}}", "id", id, "type", "function", "function", "name",
                     json_text_of(event->name), "arguments", json_text_of(event->text));
}

static void *chat_begin(const struct style_request *request, struct buffer *out)
{
    struct chat_state *s = heap_new(1, sizeof *s);

    s->rid = request->rid;
    s->created = request->created;
    s->model = heap_text((const char *)request->model.data, request->model.size);
    s->stream = request->stream;
    s->include_usage = request->include_usage && request->stream;
    s->calls = json_array();
    if (request->notes.size > 0)
        s->media = json_loadb((const char *)request->notes.data, request->notes.size,
                              JSON_REJECT_DUPLICATES, NULL);
    if (!s->stream)
        return s;
    make_opening(s);
    open_chunk(s, out);
    buffer_append_text(out, "{\"role\":\"assistant\",\"content\":\"\"}");
    close_chunk(s, NULL, s->media ? json_pack("{s:O}", "media", s->media) : NULL, out);
    return s;
}

static void stream_event(struct chat_state *s, const struct parse_event *event, struct buffer *out)
{
    open_chunk(s, out);
    if (event->kind == PARSE_CALL) {
        json_t *call = call_object(s, event);
        (void)json_object_set_new(call, "index", json_integer((json_int_t)s->n_calls++));
        buffer_append_text(out, "{\"tool_calls\":[");
        write_json(call, out);
        buffer_append_text(out, "]}");
    } else {
        buffer_append_text(out, event->kind == PARSE_CONTENT ? "{\"content\":"
                                                             : "{\"reasoning_content\":");
        json_text_quote(event->text, out);
        buffer_append_byte(out, '}');
    }
    close_chunk(s, NULL, NULL, out);
}

static void chat_event(void *state, const struct parse_event *event, struct buffer *out)
{
    struct chat_state *s = state;

    if (s->stream) {
        stream_event(s, event, out);
        return;
    }
    switch (event->kind) {
    case PARSE_CONTENT:
        buffer_append(&s->content, event->text.data, event->text.size);
        break;
    case PARSE_REASONING:
        buffer_append(&s->reasoning, event->text.data, event->text.size);
        break;
    case PARSE_CALL:
        (void)json_array_append_new(s->calls, call_object(s, event));
        s->n_calls++;
        break;
    }
}

static json_t *usage(const struct style_end *end)
{
    json_int_t prompt = end->prompt_tokens;
    json_int_t completion = end->completion_tokens;
    json_int_t cached = end->cached_tokens;

    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens",
                     completion, "total_tokens", prompt + completion, "prompt_tokens_details",
                     "cached_tokens", cached);
}

static json_t *timings(const struct style_end *end)
{
    return json_pack("{s:f, s:f, s:I, s:I}", "prefill_ms", end->prefill_ms, "decode_ms",
                     end->decode_ms, "drafted", (json_int_t)end->drafted, "accepted",
                     (json_int_t)end->accepted);
}

static void stream_end(const struct chat_state *s, const struct style_end *end, struct buffer *out)
{
    open_chunk(s, out);
    buffer_append_text(out, "{}");
    close_chunk(s, end->finish, NULL, out);
    if (s->include_usage) {
        json_t *chunk = frame(s, "chat.completion.chunk");
        (void)json_object_set_new(chunk, "choices", json_array());
        (void)json_object_set_new(chunk, "usage", usage(end));
        (void)json_object_set_new(chunk, "millrace", timings(end));
        buffer_append_text(out, "data: ");
        write_json(chunk, out);
        buffer_append_text(out, "\n\n");
    }
    buffer_append_text(out, "data: [DONE]\n\n");
}

static void chat_end(void *state, const struct style_end *end, struct buffer *out)
{
    struct chat_state *s = state;

    if (s->stream) {
        stream_end(s, end, out);
        return;
    }
    /* An answer of calls alone has no content, as OpenAI's clients expect. */
    json_t *content = s->content.size == 0 && s->n_calls > 0
                          ? json_null()
                          : json_text_of(buffer_span(&s->content));
    json_t *message =
        json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", content, "refusal");
    if (s->reasoning.size)
        (void)json_object_set_new(message, "reasoning_content",
                                  json_text_of(buffer_span(&s->reasoning)));
    if (s->n_calls)
        (void)json_object_set(message, "tool_calls", s->calls);
    json_t *whole = frame(s, "chat.completion");
    (void)json_object_set_new(whole, "choices",
                              json_pack("[{s:i, s:o, s:n, s:s}]", "index", 0, "message", message,
                                        "logprobs", "finish_reason", end->finish));
    (void)json_object_set_new(whole, "usage", usage(end));
    json_t *own = timings(end);
    if (s->media)
        (void)json_object_set(own, "media", s->media);
    (void)json_object_set_new(whole, "millrace", own);
    write_json(whole, out);
}

static void chat_free(void *state)
{
    struct chat_state *s = state;

    buffer_clear(&s->opening);
    buffer_clear(&s->content);
    buffer_clear(&s->reasoning);
    json_decref(s->calls);
    json_decref(s->media);
    heap_free(s->model);
    heap_free(s);
}

const struct style_row style_chat = {
    .name = "chat",
    .begin = chat_begin,
    .event = chat_event,
    .end = chat_end,
    .free = chat_free,
};
