/* parse.h - token ids to thought, answer and tool calls, one id at a time (spec chat.md section 6).
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/text/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

enum parse_event_kind {
    PARSE_CONTENT,   /* text of the answer */
    PARSE_REASONING, /* text of a thought */
    PARSE_CALL,      /* a whole tool call: name, and arguments as JSON text */
};

struct parse_event {
    enum parse_event_kind kind;
    struct span text; /* content, reasoning, or the arguments; valid during the call */
    struct span name; /* of a call */
};

/* Called for every event in order; must copy what it keeps. */
typedef void parse_sink(void *context, const struct parse_event *event);

struct parse; /* opaque: state machine and the text of an open call */

/* The tokenizer must outlive it. in_thought: the prompt ended inside an open thought. */
struct parse *parse_new(const struct tokenizer *t, bool in_thought);
void parse_free(struct parse *p);

/* One more id. After a stop id nothing follows. Text is given as soon as it is certain: characters
 * are never split, and the newline that may end a thought is held back. */
void parse_push(struct parse *p, int32_t id, parse_sink *sink, void *context);

/* No more ids (a stop id has come, or the length limit): flushes what is held. */
void parse_end(struct parse *p, parse_sink *sink, void *context);

/* "stop", "tool_calls" or "length", as spec chat.md section 6; valid after parse_end. */
const char *parse_finish(const struct parse *p);
size_t parse_calls(const struct parse *p); /* calls read so far */
