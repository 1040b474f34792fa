/* writer.h - puts a prompt together: our control tokens, and text that never becomes one.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/text/json_text.h"
#include "engine/text/template.h"

/* Text waits in `pending` until a control token ends it, so that pieces of text that follow one
 * another are encoded as one (spec chat.md section 1.3). */
struct writer {
    const struct tokenizer *tokenizer;
    struct prompt *prompt;
    struct buffer pending;
    size_t n_media;
    const struct chat_medium *media; /* NULL: bare markers */
    enum special missing; /* the first control token that the vocabulary lacks; SPECIAL_COUNT */
    bool too_long;
};

void writer_init(struct writer *w, const struct tokenizer *t, const struct chat *chat,
                 struct prompt *prompt);
void writer_clear(struct writer *w);

void write_special(struct writer *w, enum special which);
void write_text(struct writer *w, struct span text);
void write_ours(struct writer *w, const char *text); /* no control token in it */
void write_quoted(struct writer *w, struct span text);

/* What a medium is in the prompt (struct chat_medium), its spans, and a cut after it. Fails for a
 * medium that the chat does not have, and for a video without frames. */
MUST_CHECK bool write_medium(struct writer *w, enum media_kind kind, size_t medium,
                             struct status *st);

/* A place that a later request may share. A control token, or nothing, comes next. */
void write_cut(struct writer *w);

/* Encode what is pending. Fails when a control token or a medium is missing, or the prompt is too
 * long. */
MUST_CHECK bool writer_end(struct writer *w, struct status *st);

/* A value of a call, an answer or a declaration (spec chat.md section 5); keys of objects are bare
 * or quoted. */
void write_value(struct writer *w, const struct json_value *value, bool quoted_keys);
/* The members of an object so, without its braces. */
void write_members(struct writer *w, const struct json_value *object, bool quoted_keys);
