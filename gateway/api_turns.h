/* api_turns.h - the messages of a chat request → turns for encode, and the order of their media. */
#pragma once
#include "gateway/reader.h"
#include "proto/codec.h"

#define CHAT_CALLS_MAX 128 /* tool calls of one message */
#define CHAT_NAME_BYTES_MAX 256

/* Zeroed is empty. The spans point into the body, its JSON tree and `merged`. */
struct chat_turns {
    struct turns turns;
    struct turn_part *parts; /* of all turns */
    size_t *media;           /* [n_parts] medium of the body that fills the part */
    size_t n_parts;
    struct turn_call *calls; /* of all turns */
    size_t n_calls;
    struct buffer merged; /* text of several system messages */
    size_t text_bytes;
};
void chat_turns_clear(struct chat_turns *turns);

/* Read the array `messages`: a closed schema. Later system messages are merged into the first one,
 * and the results of tool calls are put in the order of the calls (spec chat.md sections 2, 5). */
MUST_CHECK bool chat_turns_read(struct reader *r, const json_t *messages, struct chat_turns *out);

/* The media in the order of their parts; returns how many. */
size_t chat_turns_media(const struct chat_turns *turns, size_t out[BODY_MEDIA_MAX]);
