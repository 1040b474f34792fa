/* The way from a model file to a tokenizer. */
#include "engine/base/heap.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include "engine/weights/weights.h"

static bool check_model(const struct weights *w, struct status *st)
{
    struct span model;
    struct span pre;
    if (!weights_string(w, "tokenizer.ggml.model", &model, st))
        return false;
    if (span_is(model, "gemma4"))
        return true;
    if (span_is(model, "llama") && weights_has(w, "tokenizer.ggml.pre")) {
        if (!weights_string(w, "tokenizer.ggml.pre", &pre, st))
            return false;
        if (span_is(pre, "gemma4"))
            return true;
    }
    return status_fail(st, STATUS_UNSUPPORTED, "tokenizer.ggml.model: '%.*s' is not gemma4",
                       (int)(model.size < 40 ? model.size : 40), (const char *)model.data);
}

static bool check_length(const struct weights *w, const char *key, size_t most, size_t *out,
                         struct status *st)
{
    *out = weights_array_length(w, key);
    if (!weights_is_array(w, key))
        return status_fail(st, STATUS_CORRUPT, "%s: missing, or no array", key);
    if (*out > most)
        return status_fail(st, STATUS_LIMIT, "%s: %zu elements, at most %zu", key, *out, most);
    return true;
}

bool tokenizer_new(struct tokenizer **out, const struct weights *w, struct status *st)
{
    size_t n_pieces;
    size_t n_types;
    size_t n_merges;
    if (!check_model(w, st) ||
        !check_length(w, "tokenizer.ggml.tokens", VOCABULARY_PIECES_MAX, &n_pieces, st) ||
        !check_length(w, "tokenizer.ggml.token_type", VOCABULARY_PIECES_MAX, &n_types, st) ||
        !check_length(w, "tokenizer.ggml.merges", VOCABULARY_MERGES_MAX, &n_merges, st))
        return false;
    if (n_types != n_pieces)
        return status_fail(st, STATUS_CORRUPT,
                           "tokenizer.ggml.token_type: %zu types for %zu tokens", n_types,
                           n_pieces);
    struct span *pieces = heap_array(struct span, n_pieces);
    struct span *merges = heap_array(struct span, n_merges);
    int64_t *types = heap_array(int64_t, n_pieces);
    const struct vocabulary v = {pieces, types, n_pieces, merges, n_merges};
    const bool ok = weights_array_strings(w, "tokenizer.ggml.tokens", n_pieces, pieces, st) &&
                    weights_array_i64(w, "tokenizer.ggml.token_type", n_pieces, types, st) &&
                    weights_array_strings(w, "tokenizer.ggml.merges", n_merges, merges, st) &&
                    tokenizer_new_from(out, &v, st);
    heap_free(pieces);
    heap_free(merges);
    heap_free(types);
    return ok;
}
