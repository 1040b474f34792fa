#include "engine/text/parse.h"
#include "engine/base/heap.h"
#include "engine/text/parse_call.h"
#include <string.h>

enum state { CONTENT, NAME, THOUGHT, CALL };

struct parse {
    const struct tokenizer *tokenizer;
    enum state state;
    struct detokenizer detokenizer;
    struct buffer piece;  /* what the last id added to the text */
    struct buffer call;   /* of an open call, quote tokens as PARSE_QUOTE */
    struct buffer fields; /* arguments of a call, or the text of an unreadable one */
    bool newline_held;    /* the reasoning so far ends with a newline that was not given yet */
    bool stopped;         /* a stop id has come */
    size_t n_calls;
};

struct parse *parse_new(const struct tokenizer *t, bool in_thought)
{
    struct parse *p = heap_new(1, sizeof(*p));
    p->tokenizer = t;
    p->state = in_thought ? THOUGHT : CONTENT;
    return p;
}

void parse_free(struct parse *p)
{
    if (p == NULL)
        return;
    buffer_clear(&p->piece);
    buffer_clear(&p->call);
    buffer_clear(&p->fields);
    heap_free(p);
}

static void give(enum parse_event_kind kind, struct span text, parse_sink *sink, void *context)
{
    if (text.size > 0)
        sink(context, &(struct parse_event){.kind = kind, .text = text});
}

/* The newline at the very end of all reasoning belongs to the frame: hold one back. */
static void give_reasoning(struct parse *p, struct span text, parse_sink *sink, void *context)
{
    if (text.size == 0)
        return;
    if (p->newline_held)
        give(PARSE_REASONING, span_of("\n", 1), sink, context);
    p->newline_held = text.data[text.size - 1] == '\n';
    text.size -= p->newline_held;
    give(PARSE_REASONING, text, sink, context);
}

static void take_text(struct parse *p, struct span text, parse_sink *sink, void *context)
{
    const uint8_t *newline;
    switch (p->state) {
    case CONTENT:
        give(PARSE_CONTENT, text, sink, context);
        return;
    case NAME: /* up to and with the first newline it is the name of the channel: dropped */
        newline = text.size == 0 ? NULL : memchr(text.data, '\n', text.size);
        if (newline == NULL)
            return;
        p->state = THOUGHT;
        give_reasoning(p, span_of(newline + 1, (size_t)(text.data + text.size - newline) - 1), sink,
                       context);
        return;
    case THOUGHT:
        give_reasoning(p, text, sink, context);
        return;
    case CALL:
        buffer_append(&p->call, text.data, text.size);
        return;
    }
}

/* Read the open call; one that cannot be read is shown as text rather than lost. */
static void end_call(struct parse *p, parse_sink *sink, void *context)
{
    struct parse_event event = {.kind = PARSE_CALL};
    buffer_reset(&p->fields);
    if (parse_call_read(buffer_span(&p->call), &event.name, &p->fields)) {
        event.text = buffer_span(&p->fields);
        p->n_calls++;
        sink(context, &event);
    } else {
        buffer_reset(&p->fields);
        for (size_t i = 0; i < p->call.size; i++)
            if (p->call.data[i] == PARSE_QUOTE)
                buffer_append_text(&p->fields, "<|\"|>");
            else
                buffer_append_byte(&p->fields, p->call.data[i]);
        give(PARSE_CONTENT, buffer_span(&p->fields), sink, context);
    }
    buffer_reset(&p->call);
}

/* Every special token but these is dropped, everywhere. */
static void take_special(struct parse *p, int32_t id, parse_sink *sink, void *context)
{
    const struct tokenizer *t = p->tokenizer;
    const bool opens = id == tokenizer_special(t, SPECIAL_CALL);
    if (tokenizer_is_stop(t, id) || opens) {
        if (p->state == CALL)
            end_call(p, sink, context);
        p->stopped = !opens;
        p->state = opens ? CALL : CONTENT;
    } else if (p->state == CALL) {
        if (id == tokenizer_special(t, SPECIAL_CALL_END)) {
            end_call(p, sink, context);
            p->state = CONTENT;
        } else if (id == tokenizer_special(t, SPECIAL_QUOTE)) {
            buffer_append_byte(&p->call, PARSE_QUOTE);
        }
    } else if (id == tokenizer_special(t, SPECIAL_CHANNEL)) {
        p->state = NAME;
    } else if (id == tokenizer_special(t, SPECIAL_CHANNEL_END)) {
        p->state = CONTENT;
    }
}

void parse_push(struct parse *p, int32_t id, parse_sink *sink, void *context)
{
    if (p->stopped)
        return;
    buffer_reset(&p->piece);
    detokenizer_push(&p->detokenizer, p->tokenizer, id, false, &p->piece);
    take_text(p, buffer_span(&p->piece), sink, context);
    if (tokenizer_is_special(p->tokenizer, id))
        take_special(p, id, sink, context);
}

void parse_end(struct parse *p, parse_sink *sink, void *context)
{
    if (p->stopped)
        return;
    buffer_reset(&p->piece);
    detokenizer_end(&p->detokenizer, &p->piece);
    take_text(p, buffer_span(&p->piece), sink, context);
    /* An open call is dropped, even if it looks complete. */
    buffer_reset(&p->call);
}

const char *parse_finish(const struct parse *p)
{
    if (!p->stopped)
        return "length";
    return p->n_calls > 0 ? "tool_calls" : "stop";
}

size_t parse_calls(const struct parse *p)
{
    return p->n_calls;
}
