/* Stop strings: what is refused, held back, released and lost. */
#include "engine/base/heap.h"
#include "engine/run/stop.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TOKENS_MAX 400

static struct tokenizer *tokenizer;

static int make_tokenizer(void **state)
{
    struct weights *w = NULL;
    struct status st = {0};

    (void)state;
    if (!weights_open(&w, "tests/golden/models/nano-q4_0.gguf", &st) ||
        !tokenizer_new(&tokenizer, w, &st)) {
        print_message("%s\n", st.text);
        return 1;
    }
    weights_close(w);
    return 0;
}

static int free_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static struct stop *stop_of(const char *a, const char *b, bool in_thought)
{
    const char *texts[] = {a, b};
    size_t n = a ? 1 : 0;
    struct stop *s = NULL;
    struct status st = {0};

    n += b ? 1 : 0;
    if (!stop_new(&s, tokenizer, texts, n, TOKENS_MAX, in_thought, &st))
        fail_msg("%s", st.text);
    return s;
}

static int32_t id_of(const char *text)
{
    struct ids ids = {0};
    int32_t id;

    tokenizer_encode(tokenizer, span_text(text), true, &ids);
    assert_int_equal(ids.size, 1);
    id = ids.data[0];
    ids_clear(&ids);
    return id;
}

/* Push one token, and say how many may be shown after it in all. */
static size_t push(struct stop *s, const char *text, enum batch_finish expected)
{
    assert_int_equal(stop_push(s, id_of(text)), expected);
    return stop_ready(s);
}

static void test_refuses(void **state)
{
    const char *many[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i"};
    char large[BATCH_STOP_BYTES_MAX + 2];
    const char *empty = "", *broken = "a\xff", *too_long = large;
    struct stop *s = NULL;
    struct status st = {0};

    (void)state;
    memset(large, 'x', sizeof large);
    large[sizeof large - 1] = 0;
    assert_false(stop_new(&s, tokenizer, many, 9, 10, false, &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    assert_false(stop_new(&s, tokenizer, &too_long, 1, 10, false, &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    assert_false(stop_new(&s, tokenizer, &empty, 1, 10, false, &st));
    assert_int_equal(st.code, STATUS_INVALID);
    assert_false(stop_new(&s, tokenizer, &broken, 1, 10, false, &st));
    assert_int_equal(st.code, STATUS_INVALID);
    assert_null(s);
}

static void test_held_and_released(void **state)
{
    struct stop *s = stop_of("abc", NULL, false);

    (void)state;
    assert_int_equal(push(s, "x", BATCH_RUNNING), 1);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 1);
    assert_int_equal(push(s, "b", BATCH_RUNNING), 1);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 3); /* "ab" is free, the new "a" is not */
    assert_int_equal(push(s, "b", BATCH_RUNNING), 3);
    assert_int_equal(push(s, "c", BATCH_STOP_STRING), 3);
    stop_free(s);
}

static void test_string_begins_inside_a_token(void **state)
{
    struct stop *s = stop_of("Ax", "zz", false);

    (void)state;
    assert_int_equal(push(s, "z", BATCH_RUNNING), 0);
    assert_int_equal(push(s, "AA", BATCH_RUNNING), 1); /* its second A may begin the string */
    assert_int_equal(push(s, "x", BATCH_STOP_STRING), 1);
    stop_free(s);
}

static void test_length_releases(void **state)
{
    struct stop *s = stop_of("abc", NULL, false);
    int32_t out[3];
    size_t index = 0;

    (void)state;
    (void)push(s, "x", BATCH_RUNNING);
    assert_int_equal(stop_take(s, out, 3, &index), 1);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 0);
    assert_int_equal(push(s, "b", BATCH_RUNNING), 0);
    stop_end(s);
    assert_int_equal(stop_take(s, out, 1, &index), 1);
    assert_int_equal(index, 1);
    assert_int_equal(stop_take(s, out, 3, &index), 1);
    assert_int_equal(index, 2);
    assert_int_equal(out[0], id_of("b"));
    stop_free(s);
}

static void test_stop_ids_and_special_tokens(void **state)
{
    struct stop *s = stop_of("abc", NULL, false);

    (void)state;
    assert_int_equal(push(s, "a", BATCH_RUNNING), 0);
    assert_int_equal(push(s, "b", BATCH_RUNNING), 0);
    assert_int_equal(push(s, "<|channel>", BATCH_RUNNING), 3); /* no string reaches across it */
    assert_int_equal(push(s, "a", BATCH_RUNNING), 4);          /* nor is looked for in a thought */
    assert_int_equal(push(s, "b", BATCH_RUNNING), 5);
    assert_int_equal(push(s, "c", BATCH_RUNNING), 6);
    assert_int_equal(push(s, "<channel|>", BATCH_RUNNING), 7);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 7);
    assert_int_equal(push(s, "<turn|>", BATCH_STOP), 9);
    stop_free(s);
    s = stop_of("abc", NULL, true);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 1);
    assert_int_equal(push(s, "<channel|>", BATCH_RUNNING), 2);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 2);
    stop_free(s);
    s = stop_of(NULL, NULL, false);
    assert_int_equal(push(s, "a", BATCH_RUNNING), 1);
    assert_int_equal(push(s, "<eos>", BATCH_STOP), 2);
    stop_free(s);
}

/* The definition: the text of all tokens, and the first place where a string is complete. */
struct history {
    struct buffer text;
    size_t ends[TOKENS_MAX];
};

static size_t first_match(const struct history *h, const char *text)
{
    size_t size = strlen(text);

    for (size_t at = 0; at + size <= h->text.size; at++)
        if (memcmp(h->text.data + at, text, size) == 0)
            return at;
    return SIZE_MAX;
}

static void random_run(uint32_t *random)
{
    static const char *const letters[] = {"a", "b", "A", "AA", "AB"};
    char texts[2][6] = {{0}};
    struct history h = {0};
    struct stop *s;

    for (size_t i = 0; i < 2; i++) {
        size_t size = 2 + (*random >> 20) % 4;
        for (size_t k = 0; k < size; k++) {
            *random = *random * 1664525U + 1013904223U;
            texts[i][k] = "abAB"[*random >> 30];
        }
    }
    s = stop_of(texts[0], texts[1], false);
    for (size_t n = 0; n < TOKENS_MAX; n++) {
        const char *piece;
        size_t a, b, begin, whole = 0;
        *random = *random * 1664525U + 1013904223U;
        piece = letters[(*random >> 24) % 5];
        buffer_append_text(&h.text, piece);
        h.ends[n] = h.text.size;
        a = first_match(&h, texts[0]);
        b = first_match(&h, texts[1]);
        begin = a < b ? a : b;
        if (stop_push(s, id_of(piece)) == BATCH_STOP_STRING) {
            assert_true(begin < h.text.size);
            while (h.ends[whole] <= begin)
                whole++;
            assert_int_equal(stop_ready(s), whole);
            break;
        }
        assert_true(begin == SIZE_MAX);
        /* What is shown was shown in time: all but a tail shorter than the longest string. */
        assert_true(stop_ready(s) + 5 >= n + 1);
    }
    stop_free(s);
    buffer_clear(&h.text);
}

static void test_random_runs(void **state)
{
    uint32_t random = 20261124;

    (void)state;
    print_message("    seed %u\n", random);
    for (size_t i = 0; i < 300; i++)
        random_run(&random);
}

/* Tokens given out before a crash are not given out again, and count as text. */
static void test_resume(void **state)
{
    struct stop *s = stop_of("abc", NULL, false);
    int32_t ids[] = {id_of("x"), id_of("b")}, out[4];
    size_t index = 0;

    (void)state;
    assert_int_equal(stop_resume(s, ids, 2), BATCH_RUNNING);
    assert_int_equal(stop_ready(s), 0);
    assert_int_equal(push(s, "y", BATCH_RUNNING), 1);
    assert_int_equal(stop_take(s, out, 4, &index), 1);
    assert_int_equal(index, 2);
    stop_free(s);
    s = stop_of("abc", NULL, false);
    ids[1] = id_of("<turn|>");
    assert_int_equal(stop_resume(s, ids, 2), BATCH_STOP);
    stop_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_held_and_released),
        cmocka_unit_test(test_string_begins_inside_a_token),
        cmocka_unit_test(test_length_releases),
        cmocka_unit_test(test_stop_ids_and_special_tokens),
        cmocka_unit_test(test_random_runs),
        cmocka_unit_test(test_resume),
    };
    return cmocka_run_group_tests(tests, make_tokenizer, free_tokenizer);
}
