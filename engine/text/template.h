/* template.h - a chat (turns, tools, places for media) to token ids, spans and cut points. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/text/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

#define TEMPLATE_TOKENS_MAX ((size_t)1 << 20) /* of a prompt */

/* A developer message that comes first is a system message. CHAT_OTHER: see role_name. */
enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_DEVELOPER, CHAT_OTHER };
enum media_kind { MEDIA_NONE = 0, MEDIA_IMAGE = 1, MEDIA_VIDEO = 2, MEDIA_AUDIO = 3 };

/* A piece of a message: text, or the place of a medium (kind != MEDIA_NONE). */
struct chat_part {
    enum media_kind kind;
    struct span text; /* UTF-8; of a text part */
    size_t medium;    /* of a medium: index into chat.media */
};

/* What of a medium stands in the prompt (spec media.md section 6): a picture or a sound is one run
 * of slots. A video is its frames, each behind its time and a space, joined by a space; then, as if
 * they were sounds that follow it, the pieces of its sound track. */
struct chat_medium {
    size_t tokens; /* soft tokens of a picture, a sound, each frame; 0: the bare marker, as the
                    * template leaves it */
    const struct span *times; /* video: [n_frames] "mm:ss" */
    size_t n_frames;
    const size_t *sounds; /* video: [n_sounds] soft tokens of each piece, none 0 */
    size_t n_sounds;
};

struct chat_call {
    struct span id, name;
    struct span arguments; /* JSON text of an object, in its own spelling; "{}" or "null" is none */
};

/* An answer in the model's native form, a part of the assistant message with the call. */
struct chat_response {
    struct span name;  /* empty: "unknown" */
    struct span value; /* JSON text */
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
    struct span value; /* tool only, instead of parts: JSON text of null, a number, true or false */
    const struct chat_response *responses; /* assistant only, instead of tool messages after it */
    size_t n_responses;
    struct span role_name; /* CHAT_OTHER only */
};

struct chat {
    const struct chat_message *messages;
    size_t n_messages;
    struct span tools; /* JSON text of the tools array as the client wrote it; empty: none */
    bool thinking;
    bool preserve_thinking;
    bool generation_prompt;
    /* The template ends a last message with calls, answers and text so that the model has no turn
     * to go on with (spec chat.md section 3). We leave that text out; true: as the template. */
    bool keep_flaw;
    const struct chat_medium *media; /* [n_media] in order of appearance; NULL: bare markers */
    size_t n_media;
};

/* A run of soft slots in the prompt. */
struct soft_span {
    size_t start, count; /* in tokens */
    enum media_kind kind;
    size_t medium; /* which medium fills it; of a video there are several runs, in order */
};

struct prompt {
    struct ids ids; /* slots hold <|image|>, <|audio|> or <|video|> */
    struct soft_span *spans;
    size_t n_spans;
    struct ids cuts; /* positions that a later request may share (design, section 3): after the
                      * system turn, after each medium, before the generation suffix; ascending,
                      * above 0 and at most ids.size (an answer that goes on behind a tool's) */
    bool starts_in_thought; /* the prompt ends inside an open thought */
};
void prompt_clear(struct prompt *p);

/* Write the prompt of the July 2026 template (spec chat.md sections 2 to 5). Foreign text never
 * becomes a control token. Fails, naming the place
 * ("messages[2].tool_calls[0].function.arguments: not an object"), on what the template refuses
 * and on tools that are no list of functions; out is then untouched. A later system message is a
 * turn of its own. A medium at a place that is not shown (a tool message without its call, a first
 * system message) is refused, unless it has 0 tokens: spans are all media, in order. Cuts after
 * media are behind all of a video, its sound included. */
MUST_CHECK bool template_render(const struct tokenizer *t, const struct chat *chat,
                                struct prompt *out, struct status *st);
