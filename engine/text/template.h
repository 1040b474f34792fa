/* template.h - a chat (turns, tools, places for media) to token ids, spans and cut points. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/text/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
enum media_kind { MEDIA_NONE = 0, MEDIA_IMAGE = 1, MEDIA_VIDEO = 2, MEDIA_AUDIO = 3 };

/* A piece of a message: text, or the place of a medium (kind != MEDIA_NONE). */
struct chat_part {
    enum media_kind kind;
    struct span text; /* UTF-8; of a text part */
    size_t medium;    /* of a medium: index into chat.media_tokens */
};

struct chat_call {
    struct span id, name;
    struct span arguments; /* JSON text of an object, in its own spelling; "{}" or "null" is none */
};

struct chat_message {
    enum chat_role role;
    bool is_list; /* content was a list of parts: the parts of a system message are then spaced */
    const struct chat_part *parts;
    size_t n_parts;
    const struct chat_call *calls; /* assistant only */
    size_t n_calls;
    struct span reasoning;    /* assistant only; empty: none */
    struct span tool_call_id; /* tool only */
    struct span name;         /* tool only; may be empty */
};

struct chat {
    const struct chat_message *messages;
    size_t n_messages;
    struct span tools; /* JSON text of the tools array as the client wrote it; empty: none */
    bool thinking;
    bool preserve_thinking;
    bool generation_prompt;
    const size_t *media_tokens; /* [n_media] soft tokens of each medium, in order of appearance */
    size_t n_media;
};

/* A run of soft slots in the prompt. */
struct soft_span {
    size_t start, count; /* in tokens */
    enum media_kind kind;
    size_t medium; /* which medium fills it */
};

struct prompt {
    struct ids ids; /* slots hold <|image|>, <|audio|> or <|video|> */
    struct soft_span *spans;
    size_t n_spans;
    struct ids cuts; /* ascending positions that a later request may share (design, section 3) */
    bool starts_in_thought; /* the prompt ends inside an open thought */
};
void prompt_clear(struct prompt *p);

/* Write the prompt of the July 2026 template (spec chat.md sections 2 to 5). Foreign text never
 * becomes a control token. Fails, naming the place
 * ("messages[2].tool_calls[0].function.arguments"), on what the template refuses; out is then
 * untouched. Later system messages are merged into the first one. */
MUST_CHECK bool template_render(const struct tokenizer *t, const struct chat *chat,
                                struct prompt *out, struct status *st);
