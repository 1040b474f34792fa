/* Text to ids and back: what a vocabulary is refused for, long text. */
#include "engine/base/heap.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/vocabulary.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void refuse(const struct vocabulary *v, const char *text)
{
    struct tokenizer *t = NULL;
    struct status st = {0};
    assert_false(tokenizer_new_from(&t, v, &st));
    assert_null(t);
    if (strstr(st.text, text) == NULL)
        fail_msg("'%s' does not say '%s'", st.text, text);
}

/* Refused with one piece replaced. */
static void refuse_piece(struct test_vocabulary *v, size_t at, struct span piece, const char *text)
{
    const struct span kept = v->pieces[at];
    v->pieces[at] = piece;
    refuse(&v->v, text);
    v->pieces[at] = kept;
}

static size_t place_of(const struct test_vocabulary *v, const char *piece)
{
    size_t at = 0;
    while (!span_is(v->pieces[at], piece))
        at++;
    return at;
}

static void test_refuses_pieces(void **state)
{
    (void)state;
    struct test_vocabulary v;
    test_vocabulary_init(&v);
    static const char *const needed[] = {"<eos>",      "<bos>",   "<|channel>",
                                         "<channel|>", "<|turn>", "<turn|>"};
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        refuse_piece(&v, place_of(&v, needed[i]), span_text("<gone>"), needed[i]);
    refuse_piece(&v, place_of(&v, "<0x41>"), span_text("<0x41"), "no byte token <0x41>");
    refuse_piece(&v, 7, span_of("", 0), "tokenizer.ggml.tokens[7]: 0 bytes");
    refuse_piece(&v, 7, span_of("\xc3", 1), "tokenizer.ggml.tokens[7]: not UTF-8");
    refuse_piece(&v, v.v.n_pieces - 1, v.pieces[0], "same piece as [0]");
    char long_piece[VOCABULARY_PIECE_BYTES_MAX + 1];
    memset(long_piece, 'x', sizeof(long_piece));
    refuse_piece(&v, 7, span_of(long_piece, sizeof(long_piece)), "tokens[7]: 1025 bytes");
    v.types[place_of(&v, "<0x41>")] = 1;
    refuse(&v.v, "no byte token <0x41> of type 6");
    v.types[3] = 7;
    refuse(&v.v, "tokenizer.ggml.token_type[3]: 7 is no type");
    v.types[3] = -1;
    refuse(&v.v, "tokenizer.ggml.token_type[3]");
    v.v.n_pieces = 0;
    refuse(&v.v, "tokenizer.ggml.tokens: empty");
    v.v.n_pieces = VOCABULARY_PIECES_MAX + 1;
    refuse(&v.v, "tokenizer.ggml.tokens: 524289 pieces");
    test_vocabulary_clear(&v);
}

static void test_refuses_merges(void **state)
{
    (void)state;
    struct test_vocabulary v;
    test_vocabulary_init(&v);
    static const struct {
        const char *merge, *text;
    } bad[] = {
        {"ab", "merges[2]: not two pieces"},
        {" ab", "merges[2]: not two pieces"},
        {"ab ", "merges[2]: not two pieces"},
        {"", "merges[2]: not two pieces"},
        {"a b c", "merges[2]: not two pieces"},
        {"\xe2\x82\xac\xe2\x82\xac a", "its left part"},
        {"a \xe2\x82\xac\xe2\x82\xac", "its right part"},
        {"q x", "its result"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        v.merges[2] = span_text(bad[i].merge);
        refuse(&v.v, bad[i].text);
    }
    v.merges[2] = v.merges[0];
    refuse(&v.v, "tokenizer.ggml.merges[2]: same as [0]");
    v.pieces[place_of(&v, "a")] = span_text("<0x4");
    v.pieces[place_of(&v, "b")] = span_text("1>");
    v.merges[0] = span_text("<0x4 1>");
    refuse(&v.v, "merges[0]: has a byte or control token in it");
    v.v.n_merges = VOCABULARY_MERGES_MAX + 1;
    refuse(&v.v, "tokenizer.ggml.merges: 1048577 merges");
    test_vocabulary_clear(&v);
}

static void test_looks_up(void **state)
{
    (void)state;
    struct test_vocabulary v;
    test_vocabulary_init(&v);
    struct tokenizer *t = small_tokenizer();
    assert_int_equal(tokenizer_size(t), v.v.n_pieces);
    const int32_t turn_end = (int32_t)place_of(&v, "<turn|>");
    const int32_t think = (int32_t)place_of(&v, "<|think|>");
    assert_int_equal(tokenizer_special(t, SPECIAL_TURN_END), turn_end);
    assert_true(tokenizer_is_special(t, turn_end) && tokenizer_is_stop(t, turn_end));
    assert_true(tokenizer_is_special(t, think) && !tokenizer_is_stop(t, think));
    assert_true(tokenizer_is_stop(t, tokenizer_special(t, SPECIAL_EOS)));
    assert_true(tokenizer_is_stop(t, tokenizer_special(t, SPECIAL_RESPONSE)));
    assert_false(tokenizer_is_stop(t, -1));
    assert_true(span_is(tokenizer_piece(t, turn_end), "<turn|>"));
    assert_true(span_is(tokenizer_piece(t, (int32_t)place_of(&v, "<0x41>")), "A"));
    assert_true(span_is(tokenizer_piece(t, (int32_t)place_of(&v, "\xe2\x96\x81the")), " the"));
    struct tokenizer *other = NULL;
    struct status st = {0};
    v.pieces[place_of(&v, "<|think|>")] = span_text("<|other|>"); /* not needed, may be missing */
    assert_true(tokenizer_new_from(&other, &v.v, &st));
    assert_int_equal(tokenizer_special(other, SPECIAL_THINK), -1);
    assert_true(tokenizer_hash(t) != tokenizer_hash(other));
    tokenizer_free(other);
    tokenizer_free(t);
    tokenizer_free(NULL);
    test_vocabulary_clear(&v);
}

/* ---- against the rule, read word by word ---- */

/* Spec chat.md section 1.1, step 4, in quadratic time: the whole text at once, by pieces. */
static void encode_slowly(const struct test_vocabulary *v, struct span text, struct buffer *out)
{
    struct span parts[64];
    size_t n = 0;
    for (size_t at = 0; at < text.size; n++) {
        uint32_t code_point;
        const size_t size = utf8_decode(text.data + at, text.size - at, &code_point);
        parts[n] = span_of(text.data + at, size);
        at += size;
    }
    for (;;) {
        size_t best = v->v.n_merges;
        size_t place = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t rank = 0; rank < best; rank++) {
                const struct span m = v->merges[rank];
                if (m.size == parts[i].size + 1 + parts[i + 1].size &&
                    memcmp(m.data, parts[i].data, parts[i].size) == 0 &&
                    m.data[parts[i].size] == ' ' &&
                    memcmp(m.data + parts[i].size + 1, parts[i + 1].data, parts[i + 1].size) == 0) {
                    best = rank;
                    place = i;
                }
            }
        if (best == v->v.n_merges)
            break;
        parts[place].size += parts[place + 1].size;
        memmove(&parts[place + 1], &parts[place + 2], (n - place - 2) * sizeof(parts[0]));
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        buffer_append(out, parts[i].data, parts[i].size);
        buffer_append_byte(out, '|');
    }
}

/* What a vocabulary cannot do without, then all words of a and b up to four letters, and half of
 * all merges of them in random order: merges that make a new, better pair are common. */
#define WORDS 30
#define MERGES 68 /* pairs of words that make a word: 4 + 2 * 8 + 3 * 16 */
static void random_vocabulary(struct test_vocabulary *v, char words[WORDS][5],
                              char merges[MERGES][6], unsigned *seed)
{
    size_t n = 0;
    for (size_t i = 0; i < v->v.n_pieces; i++)
        if (v->types[i] == VOCABULARY_TYPE_BYTE || v->pieces[i].data[0] == '<') {
            v->types[n] = v->types[i];
            v->pieces[n++] = v->pieces[i];
        }
    size_t n_merges = 0;
    size_t n_words = 0;
    for (size_t letters = 1; letters <= 4; letters++)
        for (unsigned bits = 0; bits < 1U << letters; bits++) {
            char *word = words[n_words++];
            for (size_t i = 0; i < letters; i++)
                word[i] = (bits >> i & 1) != 0 ? 'b' : 'a';
            word[letters] = 0;
            v->types[n] = 1;
            v->pieces[n++] = span_text(word);
            for (size_t cut = 1; cut < letters; cut++)
                (void)snprintf(merges[n_merges++], 6, "%.*s %s", (int)cut, word, word + cut);
        }
    assert_int_equal(n_words, WORDS);
    assert_int_equal(n_merges, MERGES);
    for (size_t i = 0; i < MERGES; i++)
        v->merges[i] = span_text(merges[i]);
    for (size_t i = MERGES - 1; i > 0; i--) {
        const size_t other = (size_t)rand_r(seed) % (i + 1);
        const struct span kept = v->merges[i];
        v->merges[i] = v->merges[other];
        v->merges[other] = kept;
    }
    v->v.n_pieces = n;
    v->v.n_merges = MERGES / 2;
}

static void compare_with_slow(const struct test_vocabulary *v, const struct tokenizer *t,
                              unsigned *seed)
{
    char text[60];
    const size_t size = (size_t)rand_r(seed) % sizeof(text) + 1;
    for (size_t i = 0; i < size; i++)
        text[i] = rand_r(seed) % 3 == 0 ? 'b' : 'a';
    struct buffer slow = {0};
    struct buffer fast = {0};
    struct ids ids = {0};
    encode_slowly(v, span_of(text, size), &slow);
    tokenizer_encode(t, span_of(text, size), false, &ids);
    for (size_t i = 0; i < ids.size; i++) {
        const struct span piece = tokenizer_piece(t, ids.data[i]);
        buffer_append(&fast, piece.data, piece.size);
        buffer_append_byte(&fast, '|');
    }
    if (!span_equal(buffer_span(&slow), buffer_span(&fast)))
        fail_msg("got %.*s, expected %.*s", (int)fast.size, (char *)fast.data, (int)slow.size,
                 (char *)slow.data);
    buffer_clear(&slow);
    buffer_clear(&fast);
    ids_clear(&ids);
}

static void test_random_merges(void **state)
{
    (void)state;
    unsigned seed = 20261124;
    print_message("seed %u\n", seed);
    for (int round = 0; round < 20; round++) {
        char words[WORDS][5];
        char merges[MERGES][6];
        struct test_vocabulary v;
        struct tokenizer *t = NULL;
        struct status st = {0};
        test_vocabulary_init(&v);
        random_vocabulary(&v, words, merges, &seed);
        assert_true(tokenizer_new_from(&t, &v.v, &st));
        for (int i = 0; i < 50; i++)
            compare_with_slow(&v, t, &seed);
        tokenizer_free(t);
        test_vocabulary_clear(&v);
    }
}

/* ---- odd and long text ---- */

static void test_every_byte_comes_back(void **state)
{
    (void)state;
    struct tokenizer *t = small_tokenizer();
    unsigned seed = 7;
    print_message("seed %u\n", seed);
    for (int round = 0; round < 200; round++) {
        uint8_t text[64];
        const size_t size = (size_t)rand_r(&seed) % sizeof(text);
        for (size_t i = 0; i < size; i++)
            text[i] = (uint8_t)rand_r(&seed);
        struct ids ids = {0};
        struct buffer out = {0};
        tokenizer_encode(t, span_of(text, size), false, &ids);
        for (size_t i = 0; i < ids.size; i++) {
            const struct span piece = tokenizer_piece(t, ids.data[i]);
            buffer_append(&out, piece.data, piece.size);
        }
        assert_true(span_equal(buffer_span(&out), span_of(text, size)));
        ids_clear(&ids);
        buffer_clear(&out);
    }
    tokenizer_free(t);
}

/* Time on the processor, not on the wall: other programs run here too. */
static int64_t used_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t encode_us(const struct tokenizer *t, const uint8_t *text, size_t size)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        struct ids ids = {0};
        const int64_t start = used_us();
        tokenizer_encode(t, span_of(text, size), false, &ids);
        const int64_t us = used_us() - start;
        best = us < best ? us : best;
        ids_clear(&ids);
    }
    return best;
}

/* Sixteen times the text may take 16 times as long, and some noise; quadratic would be 256. */
static void test_one_letter_is_about_linear(void **state)
{
    (void)state;
    struct tokenizer *t = small_tokenizer();
    const size_t size = (size_t)64 << 10;
    uint8_t *text = heap_array(uint8_t, size);
    memset(text, '\n', size);
    const int64_t small = encode_us(t, text, size / 16) + 1;
    const int64_t large = encode_us(t, text, size);
    print_message("4 KiB: %lld us, 64 KiB: %lld us\n", (long long)small, (long long)large);
    assert_true(large < 64 * small);
    heap_free(text);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_pieces),
        cmocka_unit_test(test_refuses_merges),
        cmocka_unit_test(test_looks_up),
        cmocka_unit_test(test_random_merges),
        cmocka_unit_test(test_every_byte_comes_back),
        cmocka_unit_test(test_one_letter_is_about_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
