/* tokenizer.h - text to token ids and back. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct vocabulary; /* engine/text/vocabulary.h */
struct weights;    /* engine/weights/weights.h */

/* The control tokens, found in the file by name. */
enum special {
    SPECIAL_PAD,
    SPECIAL_EOS,
    SPECIAL_BOS,
    SPECIAL_UNK,
    SPECIAL_MASK,
    SPECIAL_TOOL,
    SPECIAL_TOOL_END,
    SPECIAL_CALL,
    SPECIAL_CALL_END,
    SPECIAL_RESPONSE,
    SPECIAL_RESPONSE_END,
    SPECIAL_QUOTE,
    SPECIAL_THINK,
    SPECIAL_CHANNEL,
    SPECIAL_CHANNEL_END,
    SPECIAL_TURN,
    SPECIAL_TURN_END,
    SPECIAL_IMAGE_BEGIN,
    SPECIAL_AUDIO_BEGIN,
    SPECIAL_IMAGE,
    SPECIAL_AUDIO,
    SPECIAL_IMAGE_END,
    SPECIAL_AUDIO_END,
    SPECIAL_VIDEO,
    SPECIAL_COUNT
};

/* A growing list of ids. Zeroed is empty; ids_clear frees. */
struct ids {
    int32_t *data;
    size_t size, capacity;
};
void ids_push(struct ids *ids, int32_t id);
void ids_append(struct ids *ids, const int32_t *data, size_t n);
void ids_clear(struct ids *ids);

/* Build from the tokenizer.ggml.* metadata of a model file; copies what it needs, so the weights
 * may be closed afterwards. Refuses a vocabulary without bytes, <bos>, turns or channel tokens. */
MUST_CHECK bool tokenizer_new(struct tokenizer **out, const struct weights *w, struct status *st);
/* The same from plain arrays, which it copies: what tokenizer_new does behind its door. */
MUST_CHECK bool tokenizer_new_from(struct tokenizer **out, const struct vocabulary *v,
                                   struct status *st);
void tokenizer_free(struct tokenizer *t);

size_t tokenizer_size(const struct tokenizer *t);                         /* ids are 0 .. size-1 */
int32_t tokenizer_special(const struct tokenizer *t, enum special which); /* -1: not in this file */
const char *tokenizer_special_name(enum special which);                   /* "<|turn>"; static */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);         /* one of enum special */
bool tokenizer_is_stop(const struct tokenizer *t, int32_t id); /* eos, turn end, tool response */
/* A hash (FNV-1a 64) over pieces, types and merges: equal means the same ids for the same text. */
uint64_t tokenizer_hash(const struct tokenizer *t);

/* Append the ids of text (UTF-8; ill-formed bytes become byte tokens). Byte pair encoding in
 * O(n log n), as spec chat.md section 1.1. With `specials` the 24 names are recognised in the text,
 * else they are ordinary text. No BOS is added. */
void tokenizer_encode(const struct tokenizer *t, struct span text, bool specials, struct ids *out);

/* The bytes of one ordinary token (spaces restored; a byte token is its byte; a special token its
 * name). Valid as long as the tokenizer. */
struct span tokenizer_piece(const struct tokenizer *t, int32_t id);

/* Incremental text: never splits a character, one U+FFFD per maximal ill-formed piece. Zeroed is
 * the start. A special token ends the run (an incomplete character becomes U+FFFD) and is itself
 * written only with show_specials. */
struct detokenizer {
    uint8_t held[4];
    size_t n_held;
};
void detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t id,
                      bool show_specials, struct buffer *out);
void detokenizer_end(struct detokenizer *d, struct buffer *out); /* what is held becomes U+FFFD */
