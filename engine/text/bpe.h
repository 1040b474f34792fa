/* bpe.h - byte pair encoding of text that holds no special token (spec chat.md section 1.1).
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct bpe;              /* opaque: tables of characters, merges and cuts */
struct ids;              /* engine/text/tokenizer.h */
struct vocabulary_index; /* engine/text/vocabulary.h */

/* bytes: the ids of the byte tokens. fixed [n_pieces]: 1 for what takes part in no merge (byte and
 * special tokens). Fails, naming the merge, when a merge has not two known parts with a known
 * result, touches a fixed piece, or comes twice. */
MUST_CHECK bool bpe_new(struct bpe **out, const struct vocabulary_index *index,
                        const int32_t bytes[256], const uint8_t *fixed, struct status *st);
void bpe_free(struct bpe *b);

/* Append the ids of text. Text is cut where no merge can ever reach across, which is at least
 * before every word; each part then costs n log n. */
void bpe_encode(const struct bpe *b, struct span text, struct ids *out);
