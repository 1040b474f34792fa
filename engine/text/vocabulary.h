/* vocabulary.h - the arrays a tokenizer is made from, checked, and found by name.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define VOCABULARY_PIECES_MAX ((size_t)1 << 19) /* Gemma 4 has 2^18 */
#define VOCABULARY_MERGES_MAX ((size_t)1 << 20) /* Gemma 4 has 514,906 */
#define VOCABULARY_PIECE_BYTES_MAX 1024
#define VOCABULARY_BYTES_MAX ((size_t)1 << 28) /* all pieces together */

/* Token types as GGUF numbers them; only the byte type means something to us (spec chat.md 1.2). */
#define VOCABULARY_TYPE_BYTE 6

/* As a model file holds it: all borrowed. A merge is two pieces with one space between. */
struct vocabulary {
    const struct span *pieces;
    const int64_t *types; /* [n_pieces] */
    size_t n_pieces;
    const struct span *merges; /* best first */
    size_t n_merges;
};

struct vocabulary_slot {
    uint32_t tag; /* more of the hash: other pieces need not be looked at */
    int32_t id;   /* -1: free */
};

/* Piece to id. The vocabulary must outlive it. */
struct vocabulary_index {
    const struct vocabulary *vocabulary;
    struct vocabulary_slot *slots; /* [mask + 1] */
    size_t mask;
};

/* Check counts, sizes, UTF-8, types and that no piece comes twice; the error names the field. */
MUST_CHECK bool vocabulary_index_init(struct vocabulary_index *index, const struct vocabulary *v,
                                      struct status *st);
void vocabulary_index_clear(struct vocabulary_index *index);

/* The id of the piece that is `left` and `right` joined (right may be empty), or -1. */
int32_t vocabulary_find(const struct vocabulary_index *index, struct span left, struct span right);

/* FNV-1a 64 over pieces, types and merges, each with its length. */
uint64_t vocabulary_hash(const struct vocabulary *v);
