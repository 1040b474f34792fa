/* styles.h - the table of output styles: events of an answer to bytes. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/text/parse.h"
#include "proto/msg.h"

/* What an answer's frame is made of; spans are valid during a call. */
struct style_request {
    struct rid rid;
    int64_t created; /* unix seconds */
    struct span model;
    struct span notes; /* JSON text: what was made of media, a list; empty: nothing to say */
    bool stream, include_usage;
};

/* How an answer ended. */
struct style_end {
    const char *finish; /* "stop", "length", "tool_calls" */
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    double prefill_ms, decode_ms;
    int64_t drafted, accepted; /* guesses of the drafter, and those that were right */
};

/* One style; `state` is its own. */
struct style_row {
    const char *name;
    void *(*begin)(const struct style_request *request, struct buffer *out); /* out: the opening */
    void (*event)(void *state, const struct parse_event *event, struct buffer *out);
    void (*end)(void *state, const struct style_end *end, struct buffer *out);
    void (*free)(void *state);
};

extern const struct style_row style_chat; /* OpenAI chat completions */

/* NULL: no style of that name. */
const struct style_row *style_find(struct span name);
