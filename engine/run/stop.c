#include "engine/run/stop.h"
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "engine/text/tokenizer.h"
#include <assert.h>
#include <string.h>

/* An ill-formed byte becomes a U+FFFD of three bytes; a character in the making has four at most.
 */
#define GROWTH ((size_t)3)
#define HELD_MAX 4
/* The text is cut back to what a stop string may still need when it has grown beyond this. */
#define TEXT_KEPT ((size_t)2 * BATCH_STOP_BYTES_MAX)

struct stop {
    const struct tokenizer *tokenizer;
    struct span texts[BATCH_STOPS_MAX];
    size_t n_texts;
    char *bytes; /* the texts themselves, one after the other */

    /* The answer: tokens [0, taken) are given out, [taken, ready) may be, [ready, n) are held. */
    int32_t *ids; /* [tokens_max] */
    size_t *ends; /* [tokens_max] offset in the text at which a token's part of it ends */
    size_t tokens_max, n, ready, taken;

    bool hidden;        /* inside a thought or a tool call */
    struct buffer text; /* the last bytes of the visible text since the last special token */
    size_t text_begin;  /* offset of text.data[0] */
    struct detokenizer detokenizer;
};

static size_t longest_piece(const struct tokenizer *t)
{
    size_t longest = 0;

    for (size_t id = 0; id < tokenizer_size(t); id++) {
        size_t size = tokenizer_piece(t, (int32_t)id).size;
        longest = size > longest ? size : longest;
    }
    return longest;
}

static bool check_texts(const char *const *texts, size_t n_texts, struct status *st)
{
    if (n_texts > BATCH_STOPS_MAX)
        return status_fail(st, STATUS_LIMIT, "stop: %zu strings, the limit is %d", n_texts,
                           BATCH_STOPS_MAX);
    for (size_t i = 0; i < n_texts; i++) {
        size_t size = strlen(texts[i]);
        if (size == 0)
            return status_fail(st, STATUS_INVALID, "stop[%zu]: empty", i);
        if (size > BATCH_STOP_BYTES_MAX)
            return status_fail(st, STATUS_LIMIT, "stop[%zu]: %zu bytes, the limit is %d", i, size,
                               BATCH_STOP_BYTES_MAX);
        if (utf8_valid_prefix((const uint8_t *)texts[i], size) != size)
            return status_fail(st, STATUS_INVALID, "stop[%zu]: not UTF-8", i);
    }
    return true;
}

bool stop_new(struct stop **out, const struct tokenizer *t, const char *const *texts,
              size_t n_texts, size_t tokens_max, bool in_thought, struct status *st)
{
    struct stop *s;

    if (!check_texts(texts, n_texts, st))
        return false;
    s = heap_new(1, sizeof *s);
    *s = (struct stop){.tokenizer = t,
                       .n_texts = n_texts,
                       .bytes = heap_new(BATCH_STOPS_MAX, BATCH_STOP_BYTES_MAX),
                       .ids = heap_array(int32_t, tokens_max),
                       .ends = heap_array(size_t, tokens_max),
                       .tokens_max = tokens_max,
                       .hidden = in_thought};
    for (size_t i = 0; i < n_texts; i++) {
        char *copy = s->bytes + i * (size_t)BATCH_STOP_BYTES_MAX;
        s->texts[i] = span_of(copy, strlen(texts[i]));
        memcpy(copy, texts[i], s->texts[i].size);
    }
    if (n_texts > 0)
        buffer_reserve(&s->text, TEXT_KEPT + GROWTH * (longest_piece(t) + HELD_MAX) + HELD_MAX);
    *out = s;
    return true;
}

void stop_free(struct stop *s)
{
    if (!s)
        return;
    buffer_clear(&s->text);
    heap_free(s->bytes);
    heap_free(s->ids);
    heap_free(s->ends);
    heap_free(s);
}

/* Where in the text, from its byte `fresh` on completed, the first stop string begins; text.size
 * when there is none. */
static size_t find_stop(const struct stop *s, size_t fresh)
{
    size_t found = s->text.size;

    for (size_t i = 0; i < s->n_texts; i++) {
        size_t size = s->texts[i].size;
        size_t at = fresh + 1 > size ? fresh + 1 - size : 0;
        for (; at < found && at + size <= s->text.size; at++)
            if (memcmp(s->text.data + at, s->texts[i].data, size) == 0)
                found = at;
    }
    return found;
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t open_tail(const struct stop *s)
{
    size_t longest = 0;

    for (size_t i = 0; i < s->n_texts; i++) {
        size_t size = s->texts[i].size - 1;
        for (size = size < s->text.size ? size : s->text.size; size > longest; size--)
            if (memcmp(s->text.data + s->text.size - size, s->texts[i].data, size) == 0)
                longest = size;
    }
    return longest;
}

static void release_until(struct stop *s, size_t offset)
{
    while (s->ready < s->n && s->ends[s->ready] <= offset)
        s->ready++;
}

static void cut_back(struct stop *s)
{
    size_t drop;

    if (s->text.size <= TEXT_KEPT)
        return;
    drop = s->text.size - BATCH_STOP_BYTES_MAX;
    memmove(s->text.data, s->text.data + drop, BATCH_STOP_BYTES_MAX);
    s->text.size = BATCH_STOP_BYTES_MAX;
    s->text_begin += drop;
}

/* A special token: no stop string reaches across it. */
static enum batch_finish push_special(struct stop *s, int32_t id)
{
    const struct tokenizer *t = s->tokenizer;

    if (id == tokenizer_special(t, SPECIAL_CHANNEL) || id == tokenizer_special(t, SPECIAL_CALL))
        s->hidden = true;
    if (id == tokenizer_special(t, SPECIAL_CHANNEL_END) ||
        id == tokenizer_special(t, SPECIAL_CALL_END))
        s->hidden = false;
    s->text_begin += s->text.size;
    s->text.size = 0;
    s->detokenizer = (struct detokenizer){0};
    s->ready = s->n;
    return tokenizer_is_stop(t, id) ? BATCH_STOP : BATCH_RUNNING;
}

static enum batch_finish push_text(struct stop *s, int32_t id)
{
    size_t fresh = s->text.size, begin, held;

    detokenizer_push(&s->detokenizer, s->tokenizer, id, false, &s->text);
    held = s->detokenizer.n_held;
    /* An unfinished character counts to the token that began it. */
    s->ends[s->n - 1] = s->text_begin + s->text.size + held;
    begin = find_stop(s, fresh);
    if (begin < s->text.size) {
        release_until(s, s->text_begin + begin);
        return BATCH_STOP_STRING;
    }
    buffer_append(&s->text, s->detokenizer.held, held);
    release_until(s, s->text_begin + s->text.size - open_tail(s));
    s->text.size -= held;
    cut_back(s);
    return BATCH_RUNNING;
}

enum batch_finish stop_push(struct stop *s, int32_t id)
{
    assert(s->n < s->tokens_max);
    s->ids[s->n] = id;
    s->ends[s->n++] = s->text_begin + s->text.size;
    if (tokenizer_is_stop(s->tokenizer, id) || tokenizer_is_special(s->tokenizer, id))
        return push_special(s, id);
    if (s->hidden || s->n_texts == 0) {
        s->ready = s->n;
        return BATCH_RUNNING;
    }
    return push_text(s, id);
}

enum batch_finish stop_resume(struct stop *s, const int32_t *ids, size_t n)
{
    enum batch_finish finish = BATCH_RUNNING;

    for (size_t i = 0; i < n; i++)
        finish = stop_push(s, ids[i]);
    s->ready = s->taken = s->n;
    return finish == BATCH_STOP ? BATCH_STOP : BATCH_RUNNING;
}

void stop_end(struct stop *s)
{
    s->ready = s->n;
}

size_t stop_take(struct stop *s, int32_t *out, size_t n_max, size_t *out_index)
{
    size_t n = s->ready - s->taken;

    n = n < n_max ? n : n_max;
    *out_index = s->taken;
    memcpy(out, s->ids + s->taken, n * sizeof *out);
    s->taken += n;
    return n;
}

size_t stop_ready(const struct stop *s)
{
    return s->ready - s->taken;
}

size_t stop_pushed(const struct stop *s)
{
    return s->n;
}
