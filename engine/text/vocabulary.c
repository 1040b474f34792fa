#include "engine/text/vocabulary.h"
#include "engine/base/heap.h"
#include <string.h>

#define FNV_START UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

static uint64_t fnv(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * FNV_PRIME;
    return hash;
}

static uint64_t fnv_number(uint64_t hash, uint64_t number)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(number >> (8 * i));
    return fnv(hash, bytes, sizeof(bytes));
}

uint64_t vocabulary_hash(const struct vocabulary *v)
{
    uint64_t hash = fnv_number(FNV_START, v->n_pieces);
    for (size_t i = 0; i < v->n_pieces; i++) {
        hash = fnv_number(hash, v->pieces[i].size);
        hash = fnv(hash, v->pieces[i].data, v->pieces[i].size);
        hash = fnv_number(hash, (uint64_t)v->types[i]);
    }
    hash = fnv_number(hash, v->n_merges);
    for (size_t i = 0; i < v->n_merges; i++) {
        hash = fnv_number(hash, v->merges[i].size);
        hash = fnv(hash, v->merges[i].data, v->merges[i].size);
    }
    return hash;
}

static bool check_counts(const struct vocabulary *v, struct status *st)
{
    if (v->n_pieces == 0)
        return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.tokens: empty");
    if (v->n_pieces > VOCABULARY_PIECES_MAX)
        return status_fail(st, STATUS_LIMIT, "tokenizer.ggml.tokens: %zu pieces, at most %zu",
                           v->n_pieces, VOCABULARY_PIECES_MAX);
    if (v->n_merges > VOCABULARY_MERGES_MAX)
        return status_fail(st, STATUS_LIMIT, "tokenizer.ggml.merges: %zu merges, at most %zu",
                           v->n_merges, VOCABULARY_MERGES_MAX);
    return true;
}

static bool check_piece(const struct vocabulary *v, size_t i, struct status *st)
{
    const struct span piece = v->pieces[i];
    if (piece.size == 0 || piece.size > VOCABULARY_PIECE_BYTES_MAX)
        return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.tokens[%zu]: %zu bytes, 1 to %d", i,
                           piece.size, VOCABULARY_PIECE_BYTES_MAX);
    if (utf8_valid_prefix(piece.data, piece.size) != piece.size)
        return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.tokens[%zu]: not UTF-8", i);
    if (v->types[i] < 0 || v->types[i] > VOCABULARY_TYPE_BYTE)
        return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.token_type[%zu]: %lld is no type", i,
                           (long long)v->types[i]);
    return true;
}

static uint64_t hash_of(struct span left, struct span right)
{
    return fnv(fnv(FNV_START, left.data, left.size), right.data, right.size);
}

/* The slot where the piece is or would be. */
static struct vocabulary_slot *find_slot(const struct vocabulary_index *index, uint64_t hash,
                                         struct span left, struct span right)
{
    const uint32_t tag = (uint32_t)(hash >> 32);
    size_t slot = (size_t)(hash ^ (hash >> 32)) & index->mask;
    for (; index->slots[slot].id >= 0; slot = (slot + 1) & index->mask) {
        if (index->slots[slot].tag != tag)
            continue;
        const struct span at = index->vocabulary->pieces[index->slots[slot].id];
        if (at.size == left.size + right.size && memcmp(at.data, left.data, left.size) == 0 &&
            (right.size == 0 || memcmp(at.data + left.size, right.data, right.size) == 0))
            break;
    }
    return &index->slots[slot];
}

bool vocabulary_index_init(struct vocabulary_index *index, const struct vocabulary *v,
                           struct status *st)
{
    *index = (struct vocabulary_index){.vocabulary = v};
    if (!check_counts(v, st))
        return false;
    size_t slots = 16;
    while (slots < 2 * v->n_pieces)
        slots *= 2;
    index->mask = slots - 1;
    index->slots = heap_array(struct vocabulary_slot, slots);
    memset(index->slots, 0xff, slots * sizeof(index->slots[0]));
    size_t bytes = 0;
    for (size_t i = 0; i < v->n_pieces; i++) {
        if (!check_piece(v, i, st))
            goto fail;
        bytes += v->pieces[i].size;
        const struct span none = span_of(NULL, 0);
        const uint64_t hash = hash_of(v->pieces[i], none);
        struct vocabulary_slot *slot = find_slot(index, hash, v->pieces[i], none);
        if (slot->id >= 0) {
            status_set(st, STATUS_CORRUPT, "tokenizer.ggml.tokens[%zu]: same piece as [%d]", i,
                       (int)slot->id);
            goto fail;
        }
        *slot = (struct vocabulary_slot){(uint32_t)(hash >> 32), (int32_t)i};
    }
    if (bytes > VOCABULARY_BYTES_MAX) {
        status_set(st, STATUS_LIMIT, "tokenizer.ggml.tokens: %zu bytes, at most %zu", bytes,
                   VOCABULARY_BYTES_MAX);
        goto fail;
    }
    return true;
fail:
    vocabulary_index_clear(index);
    return false;
}

void vocabulary_index_clear(struct vocabulary_index *index)
{
    heap_free(index->slots);
    *index = (struct vocabulary_index){0};
}

int32_t vocabulary_find(const struct vocabulary_index *index, struct span left, struct span right)
{
    return find_slot(index, hash_of(left, right), left, right)->id;
}
