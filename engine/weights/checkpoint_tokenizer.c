/* checkpoint_tokenizer.c - tokenizer.json as the arrays that GGUF holds (spec chat.md section 1).
 */
#include "engine/base/heap.h"
#include "engine/weights/checkpoint.h"
#include <stdlib.h>
#include <string.h>

/* Token types as GGUF numbers them. */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

/* Of the added tokens these are shown, the others are control tokens (spec chat.md section 1.2). */
static const char *const shown[] = {"<|tool_call>",     "<tool_call|>", "<|tool_response>",
                                    "<tool_response|>", "<|\"|>",       "<|channel>",
                                    "<channel|>"};

struct piece {
    size_t at; /* in bytes; SIZE_MAX: no piece of that id yet */
    uint32_t size;
    int32_t type;
};

struct tokenizer_file {
    struct buffer bytes; /* of all pieces */
    struct piece *pieces;
    size_t room, n_pieces;
    struct buffer merges; /* as GGUF: u64 length and "left right", one after the other */
    size_t n_merges;
    bool bpe, byte_fallback, vocabulary, has_merges;
    struct buffer text;
    struct status *st;
};

static bool check_text(const struct tokenizer_file *f)
{
    if (f->bytes.size + f->merges.size <= CHECKPOINT_TEXT_BYTES_MAX)
        return true;
    return status_fail(f->st, STATUS_LIMIT, "pieces and merges are more than %zu bytes",
                       CHECKPOINT_TEXT_BYTES_MAX);
}

static bool same(const struct tokenizer_file *f, const struct piece *piece, struct span text)
{
    return span_equal(span_of(f->bytes.data + piece->at, piece->size), text);
}

/* The piece of that id; the same one may be said again by another list. */
static bool set_piece(struct tokenizer_file *f, uint64_t id, struct span text, int32_t type)
{
    if (id >= CHECKPOINT_PIECES_MAX)
        return status_fail(f->st, STATUS_LIMIT, "id %llu, allowed are less than %zu",
                           (unsigned long long)id, CHECKPOINT_PIECES_MAX);
    if (id >= f->room) {
        size_t room = f->room ? f->room : 1024;
        while (room <= id)
            room *= 2;
        f->pieces = heap_resize(f->pieces, room, sizeof *f->pieces);
        for (size_t i = f->room; i < room; i++)
            f->pieces[i] = (struct piece){.at = SIZE_MAX};
        f->room = room;
    }
    struct piece *piece = &f->pieces[id];
    if (piece->at != SIZE_MAX && !same(f, piece, text))
        return status_fail(f->st, STATUS_CORRUPT, "id %llu is given to two pieces",
                           (unsigned long long)id);
    if (piece->at == SIZE_MAX) {
        *piece = (struct piece){.at = f->bytes.size, .size = (uint32_t)text.size};
        buffer_append(&f->bytes, text.data, text.size);
    }
    if (type != TYPE_NORMAL || piece->type == 0)
        piece->type = type;
    if (id >= f->n_pieces)
        f->n_pieces = (size_t)id + 1;
    return check_text(f);
}

/* "<0x4A>" */
static bool is_byte(struct span text)
{
    bool good = text.size == 6 && memcmp(text.data, "<0x", 3) == 0 && text.data[5] == '>';
    for (size_t i = 3; good && i < 5; i++)
        good = (text.data[i] >= '0' && text.data[i] <= '9') ||
               (text.data[i] >= 'A' && text.data[i] <= 'F');
    return good;
}

static bool read_id(struct json_scan *json, uint64_t *out, struct status *st)
{
    struct span number;
    if (!json_scan_number(json, &number, st))
        return false;
    return span_number(number, 0, UINT64_MAX, out) ||
           status_fail(st, STATUS_CORRUPT, "an id is no whole number");
}

/* Each reader below has one member of an object or one element of an array before it. */
typedef bool read_part(struct tokenizer_file *f, struct json_scan *json, struct span name);

static bool walk_object(struct tokenizer_file *f, struct json_scan *json, read_part *read)
{
    struct buffer name = {0};
    struct json_walk walk = {0};
    bool ok = true;

    while (ok && json_scan_member(json, &walk, &name, f->st))
        ok = read(f, json, buffer_span(&name));
    buffer_clear(&name);
    return ok && walk.ended;
}

static bool walk_array(struct tokenizer_file *f, struct json_scan *json, read_part *read)
{
    struct json_walk walk = {0};

    while (json_scan_next(json, '[', &walk, f->st))
        if (!read(f, json, span_of(NULL, 0)))
            return false;
    return walk.ended;
}

static bool read_vocabulary(struct tokenizer_file *f, struct json_scan *json, struct span name)
{
    uint64_t id;
    return read_id(json, &id, f->st) &&
           set_piece(f, id, name, is_byte(name) ? TYPE_BYTE : TYPE_NORMAL);
}

/* A merge as "left right". */
static bool read_merge_text(struct tokenizer_file *f, struct json_scan *json)
{
    return json_scan_string(json, &f->merges, f->st);
}

/* A merge as ["left", "right"]. */
static bool read_merge_pair(struct tokenizer_file *f, struct json_scan *json)
{
    struct json_walk walk = {0};
    size_t n = 0;

    while (json_scan_next(json, '[', &walk, f->st)) {
        if (n == 1)
            buffer_append_byte(&f->merges, ' ');
        if (n++ == 2)
            return json_scan_refuse(json, "two pieces were expected", f->st);
        if (!json_scan_string(json, &f->merges, f->st))
            return false;
    }
    return walk.ended && (n == 2 || json_scan_refuse(json, "two pieces were expected", f->st));
}

static bool read_merge(struct tokenizer_file *f, struct json_scan *json, struct span name)
{
    const size_t start = f->merges.size;
    uint64_t size = 0;

    (void)name;
    if (f->n_merges == CHECKPOINT_MERGES_MAX)
        return status_fail(f->st, STATUS_LIMIT, "more than %zu merges", CHECKPOINT_MERGES_MAX);
    buffer_append(&f->merges, &size, sizeof size);
    if (json_scan_peek(json) == '[' ? !read_merge_pair(f, json) : !read_merge_text(f, json))
        return false;
    size = f->merges.size - start - sizeof size;
    if (size < 3)
        return json_scan_refuse(json, "a merge of two pieces was expected", f->st);
    memcpy(f->merges.data + start, &size, sizeof size);
    f->n_merges++;
    return check_text(f);
}

static bool read_model(struct tokenizer_file *f, struct json_scan *json, struct span name)
{
    if (span_is(name, "type")) {
        buffer_reset(&f->text);
        if (!json_scan_string(json, &f->text, f->st))
            return status_wrap(f->st, "type");
        f->bpe = span_is(buffer_span(&f->text), "BPE");
        return true;
    }
    if (span_is(name, "byte_fallback")) {
        f->byte_fallback = json_scan_peek(json) == 't';
        return json_scan_skip(json, f->st);
    }
    if (span_is(name, "vocab") && !f->vocabulary) {
        f->vocabulary = true;
        return walk_object(f, json, read_vocabulary) || status_wrap(f->st, "vocab");
    }
    if (span_is(name, "merges") && !f->has_merges) {
        f->has_merges = true;
        return walk_array(f, json, read_merge) || status_wrap(f->st, "merges");
    }
    return json_scan_skip(json, f->st);
}

/* ---- added tokens ---- */

struct added {
    struct tokenizer_file *f;
    uint64_t id;
    bool has_id, has_content;
};

static bool read_added(struct tokenizer_file *f, struct json_scan *json, struct span none)
{
    struct added added = {.f = f};
    struct buffer name = {0};
    struct json_walk walk = {0};
    bool ok = true;

    (void)none;
    buffer_reset(&f->text);
    while (ok && json_scan_member(json, &walk, &name, f->st)) {
        if (span_is(buffer_span(&name), "id")) {
            ok = read_id(json, &added.id, f->st);
            added.has_id = ok;
        } else if (span_is(buffer_span(&name), "content")) {
            buffer_reset(&f->text);
            ok = json_scan_string(json, &f->text, f->st);
            added.has_content = ok;
        } else {
            ok = json_scan_skip(json, f->st);
        }
    }
    buffer_clear(&name);
    ok = ok && walk.ended;
    if (ok && !(added.has_id && added.has_content))
        ok = json_scan_refuse(json, "a token with id and content was expected", f->st);
    int32_t type = TYPE_CONTROL;
    for (size_t i = 0; ok && i < sizeof shown / sizeof *shown; i++)
        if (span_is(buffer_span(&f->text), shown[i]))
            type = TYPE_USER;
    return ok && set_piece(f, added.id, buffer_span(&f->text), type);
}

static bool read_top(struct tokenizer_file *f, struct json_scan *json, struct span name)
{
    if (span_is(name, "model"))
        return walk_object(f, json, read_model) || status_wrap(f->st, "model");
    if (span_is(name, "added_tokens"))
        return walk_array(f, json, read_added) || status_wrap(f->st, "added_tokens");
    return json_scan_skip(json, f->st);
}

/* ---- giving ---- */

static bool check(const struct tokenizer_file *f)
{
    if (!f->bpe || !f->byte_fallback)
        return status_fail(f->st, STATUS_UNSUPPORTED,
                           "model: only BPE with byte_fallback is read by this version");
    for (size_t i = 0; i < f->n_pieces; i++)
        if (f->pieces[i].at == SIZE_MAX)
            return status_fail(f->st, STATUS_CORRUPT, "vocab: id %zu has no piece", i);
    return true;
}

static void give(const struct tokenizer_file *f, struct weights *w)
{
    struct buffer tokens = {0};
    int32_t *types = heap_array(int32_t, f->n_pieces);

    buffer_reserve(&tokens, f->bytes.size + f->n_pieces * sizeof(uint64_t));
    for (size_t i = 0; i < f->n_pieces; i++) {
        uint64_t size = f->pieces[i].size;
        buffer_append(&tokens, &size, sizeof size);
        buffer_append(&tokens, f->bytes.data + f->pieces[i].at, f->pieces[i].size);
        types[i] = f->pieces[i].type;
    }
    weights_add_string(w, "tokenizer.ggml.model", span_text("gemma4"));
    weights_add_array(w, "tokenizer.ggml.tokens", VALUE_STRING, f->n_pieces, tokens.data,
                      tokens.size);
    weights_add_array(w, "tokenizer.ggml.token_type", VALUE_I32, f->n_pieces, types,
                      f->n_pieces * sizeof *types);
    weights_add_array(w, "tokenizer.ggml.merges", VALUE_STRING, f->n_merges, f->merges.data,
                      f->merges.size);
    heap_free(types);
    buffer_clear(&tokens);
}

bool checkpoint_tokenizer(struct weights *w, struct span text, struct status *st)
{
    struct tokenizer_file f = {.st = st};
    struct json_scan json = {.text = text};
    bool ok = walk_object(&f, &json, read_top) && json_scan_end(&json, st) && check(&f);

    if (ok)
        give(&f, w);
    buffer_clear(&f.bytes);
    buffer_clear(&f.merges);
    buffer_clear(&f.text);
    heap_free(f.pieces);
    return ok;
}
