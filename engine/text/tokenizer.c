#include "engine/text/tokenizer.h"
#include "engine/base/heap.h"
#include "engine/text/bpe.h"
#include "engine/text/vocabulary.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define SPECIAL_BYTES_MAX 17 /* of <tool_response|> */

static const struct {
    const char *name;
    bool needed; /* a vocabulary without it is refused */
} specials[SPECIAL_COUNT] = {
    // clang-format off
    [SPECIAL_PAD]          = {"<pad>", false},
    [SPECIAL_EOS]          = {"<eos>", true},
    [SPECIAL_BOS]          = {"<bos>", true},
    [SPECIAL_UNK]          = {"<unk>", false},
    [SPECIAL_MASK]         = {"<mask>", false},
    [SPECIAL_TOOL]         = {"<|tool>", false},
    [SPECIAL_TOOL_END]     = {"<tool|>", false},
    [SPECIAL_CALL]         = {"<|tool_call>", false},
    [SPECIAL_CALL_END]     = {"<tool_call|>", false},
    [SPECIAL_RESPONSE]     = {"<|tool_response>", false},
    [SPECIAL_RESPONSE_END] = {"<tool_response|>", false},
    [SPECIAL_QUOTE]        = {"<|\"|>", false},
    [SPECIAL_THINK]        = {"<|think|>", false},
    [SPECIAL_CHANNEL]      = {"<|channel>", true},
    [SPECIAL_CHANNEL_END]  = {"<channel|>", true},
    [SPECIAL_TURN]         = {"<|turn>", true},
    [SPECIAL_TURN_END]     = {"<turn|>", true},
    [SPECIAL_IMAGE_BEGIN]  = {"<|image>", false},
    [SPECIAL_AUDIO_BEGIN]  = {"<|audio>", false},
    [SPECIAL_IMAGE]        = {"<|image|>", false},
    [SPECIAL_AUDIO]        = {"<|audio|>", false},
    [SPECIAL_IMAGE_END]    = {"<image|>", false},
    [SPECIAL_AUDIO_END]    = {"<audio|>", false},
    [SPECIAL_VIDEO]        = {"<|video|>", false},
    // clang-format on
};

struct tokenizer {
    struct bpe *bpe;
    int32_t special_ids[SPECIAL_COUNT]; /* -1: not in this vocabulary */
    uint8_t *is_special;                /* [n] */
    uint8_t *text;                      /* what the tokens say, one after the other */
    uint32_t *starts;                   /* [n + 1] into text */
    size_t n;
    uint64_t hash;
};

void ids_push(struct ids *ids, int32_t id)
{
    ids_append(ids, &id, 1);
}

void ids_append(struct ids *ids, const int32_t *data, size_t n)
{
    if (n == 0)
        return;
    if (ids->capacity - ids->size < n) {
        size_t capacity = ids->capacity + ids->capacity / 2 + 32;
        if (capacity < ids->size + n)
            capacity = ids->size + n;
        ids->data = heap_resize(ids->data, capacity, sizeof(ids->data[0]));
        ids->capacity = capacity;
    }
    memcpy(ids->data + ids->size, data, n * sizeof(data[0]));
    ids->size += n;
}

void ids_clear(struct ids *ids)
{
    heap_free(ids->data);
    *ids = (struct ids){0};
}

/* ---- building ---- */

static bool find_specials(struct tokenizer *t, const struct vocabulary_index *index,
                          struct status *st)
{
    for (size_t i = 0; i < SPECIAL_COUNT; i++) {
        const int32_t id = vocabulary_find(index, span_text(specials[i].name), span_of(NULL, 0));
        if (id < 0 && specials[i].needed)
            return status_fail(st, STATUS_UNSUPPORTED, "tokenizer.ggml.tokens: %s is missing",
                               specials[i].name);
        t->special_ids[i] = id;
        if (id >= 0)
            t->is_special[id] = 1;
    }
    return true;
}

static bool find_bytes(int32_t bytes[256], const struct vocabulary_index *index, struct status *st)
{
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "<0x%02X>", i);
        bytes[i] = vocabulary_find(index, span_text(name), span_of(NULL, 0));
        if (bytes[i] < 0 || index->vocabulary->types[bytes[i]] != VOCABULARY_TYPE_BYTE)
            return status_fail(st, STATUS_UNSUPPORTED,
                               "tokenizer.ggml.tokens: no byte token %s of type %d", name,
                               VOCABULARY_TYPE_BYTE);
    }
    return true;
}

/* What each token says: U+2581 as a space, a byte token as its byte. */
static void fill_text(struct tokenizer *t, const struct vocabulary *v, const int32_t bytes[256])
{
    int16_t *byte_of = heap_array(int16_t, v->n_pieces); /* byte + 1; 0: no byte token */
    for (int i = 0; i < 256; i++)
        byte_of[bytes[i]] = (int16_t)(i + 1);
    size_t size = 0;
    for (size_t i = 0; i < v->n_pieces; i++)
        size += v->pieces[i].size;
    t->text = heap_array(uint8_t, size);
    t->starts = heap_array(uint32_t, v->n_pieces + 1);
    uint32_t at = 0;
    for (size_t i = 0; i < v->n_pieces; i++) {
        const struct span piece = v->pieces[i];
        t->starts[i] = at;
        if (byte_of[i] > 0) {
            t->text[at++] = (uint8_t)(byte_of[i] - 1);
            continue;
        }
        for (size_t k = 0; k < piece.size; k++) {
            const bool mark = piece.size - k >= 3 && memcmp(piece.data + k, "\xe2\x96\x81", 3) == 0;
            t->text[at++] = mark ? ' ' : piece.data[k];
            k += mark ? 2 : 0;
        }
    }
    t->starts[v->n_pieces] = at;
    heap_free(byte_of);
}

bool tokenizer_new_from(struct tokenizer **out, const struct vocabulary *v, struct status *st)
{
    struct vocabulary_index index;
    if (!vocabulary_index_init(&index, v, st))
        return false;
    struct tokenizer *t = heap_new(1, sizeof(*t));
    t->n = v->n_pieces;
    t->is_special = heap_array(uint8_t, t->n);
    uint8_t *fixed = heap_array(uint8_t, t->n);
    int32_t bytes[256];
    if (!find_specials(t, &index, st) || !find_bytes(bytes, &index, st))
        goto fail;
    memcpy(fixed, t->is_special, t->n);
    for (size_t i = 0; i < 256; i++)
        fixed[bytes[i]] = 1;
    if (!bpe_new(&t->bpe, &index, bytes, fixed, st))
        goto fail;
    fill_text(t, v, bytes);
    t->hash = vocabulary_hash(v);
    heap_free(fixed);
    vocabulary_index_clear(&index);
    *out = t;
    return true;
fail:
    heap_free(fixed);
    vocabulary_index_clear(&index);
    tokenizer_free(t);
    return false;
}

void tokenizer_free(struct tokenizer *t)
{
    if (t == NULL)
        return;
    bpe_free(t->bpe);
    heap_free(t->is_special);
    heap_free(t->text);
    heap_free(t->starts);
    heap_free(t);
}

/* ---- looking up ---- */

size_t tokenizer_size(const struct tokenizer *t)
{
    return t->n;
}

int32_t tokenizer_special(const struct tokenizer *t, enum special which)
{
    return t->special_ids[which];
}

const char *tokenizer_special_name(enum special which)
{
    return specials[which].name;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    assert(id >= 0 && (size_t)id < t->n);
    return t->is_special[id] != 0;
}

bool tokenizer_is_stop(const struct tokenizer *t, int32_t id)
{
    return id >= 0 &&
           (id == t->special_ids[SPECIAL_EOS] || id == t->special_ids[SPECIAL_TURN_END] ||
            id == t->special_ids[SPECIAL_RESPONSE]);
}

uint64_t tokenizer_hash(const struct tokenizer *t)
{
    return t->hash;
}

struct span tokenizer_piece(const struct tokenizer *t, int32_t id)
{
    assert(id >= 0 && (size_t)id < t->n);
    return span_of(t->text + t->starts[id], t->starts[id + 1] - t->starts[id]);
}

/* ---- text to ids ---- */

/* The special token whose name starts at text.data[at], or SPECIAL_COUNT. */
static size_t special_at(const struct tokenizer *t, struct span text, size_t at)
{
    const size_t left = text.size - at;
    const uint8_t *end =
        memchr(text.data + at, '>', left < SPECIAL_BYTES_MAX ? left : SPECIAL_BYTES_MAX);
    size_t which = SPECIAL_COUNT;
    if (end == NULL)
        return which;
    const struct span name = span_of(text.data + at, (size_t)(end + 1 - text.data) - at);
    for (which = 0; which < SPECIAL_COUNT; which++)
        if (t->special_ids[which] >= 0 && span_is(name, specials[which].name))
            break;
    return which;
}

void tokenizer_encode(const struct tokenizer *t, struct span text, bool with_specials,
                      struct ids *out)
{
    /* A name has one '<', first, and one '>', last: names cannot overlap or be parts of others. */
    size_t begin = 0;
    for (size_t at = 0; with_specials && at < text.size;) {
        const uint8_t *open = memchr(text.data + at, '<', text.size - at);
        if (open == NULL)
            break;
        at = (size_t)(open - text.data);
        const size_t which = special_at(t, text, at);
        if (which == SPECIAL_COUNT) {
            at++;
            continue;
        }
        bpe_encode(t->bpe, span_of(text.data + begin, at - begin), out);
        ids_push(out, t->special_ids[which]);
        at += strlen(specials[which].name);
        begin = at;
    }
    if (begin < text.size)
        bpe_encode(t->bpe, span_of(text.data + begin, text.size - begin), out);
}

/* ---- ids to text ---- */

/* How many bytes at data[0] go together (size > 0), and as what: a character, the beginning of one
 * that may still be completed, or a maximal ill-formed piece. */
enum utf8_shape { UTF8_WHOLE, UTF8_CUT, UTF8_BAD };

static enum utf8_shape utf8_shape(const uint8_t *data, size_t size, size_t *out_n)
{
    uint32_t code_point;
    *out_n = utf8_decode(data, size, &code_point);
    if (*out_n > 0)
        return UTF8_WHOLE;
    const uint8_t first = data[0];
    *out_n = 1;
    if (first < 0xc2 || first > 0xf4)
        return UTF8_BAD;
    if (size == 1)
        return UTF8_CUT;
    /* The first half of a surrogate is bad, but held as long as it ends the text: CPython's
     * incremental decoder does so, and golden/detokenize.jsonl with it. */
    if (first == 0xed && size == 2 && data[1] >= 0xa0 && data[1] <= 0xbf) {
        *out_n = 2;
        return UTF8_CUT;
    }
    const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    const size_t needed = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (data[1] < low || data[1] > high)
        return UTF8_BAD;
    *out_n = 2;
    while (*out_n < needed && *out_n < size && (data[*out_n] & 0xc0) == 0x80)
        (*out_n)++;
    return *out_n == size ? UTF8_CUT : UTF8_BAD;
}

void detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t id,
                      bool show_specials, struct buffer *out)
{
    const struct span piece = tokenizer_piece(t, id);
    if (t->is_special[id]) {
        detokenizer_end(d, out);
        if (show_specials)
            buffer_append(out, piece.data, piece.size);
        return;
    }
    uint8_t bytes[sizeof(d->held) + VOCABULARY_PIECE_BYTES_MAX];
    memcpy(bytes, d->held, d->n_held);
    memcpy(bytes + d->n_held, piece.data, piece.size);
    const size_t size = d->n_held + piece.size;
    d->n_held = 0;
    for (size_t at = 0; at < size;) {
        size_t n;
        const enum utf8_shape shape = utf8_shape(bytes + at, size - at, &n);
        if (shape == UTF8_CUT) {
            memcpy(d->held, bytes + at, n);
            d->n_held = n;
            return;
        }
        buffer_append(out, shape == UTF8_WHOLE ? bytes + at : (const uint8_t *)"\xef\xbf\xbd",
                      shape == UTF8_WHOLE ? n : 3);
        at += n;
    }
}

void detokenizer_end(struct detokenizer *d, struct buffer *out)
{
    /* One piece, but for the first half of a surrogate, which is two. */
    const bool two = d->n_held == 2 && d->held[0] == 0xed && d->held[1] >= 0xa0;
    if (d->n_held > 0)
        buffer_append_text(out, two ? "\xef\xbf\xbd\xef\xbf\xbd" : "\xef\xbf\xbd");
    d->n_held = 0;
}
