/* All golden cases of the text side, with the real vocabulary: MILLRACE_GOLDEN or ../shared/golden.
 * A program of its own, so that where the folder is missing nothing else counts as skipped. */
#include "engine/weights/weights.h"
#include "tests/engine/text/cases.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const char *folder; /* NULL: not there */
static struct tokenizer *tokenizer;

static int open_golden(void **state)
{
    (void)state;
    char path[512];
    struct weights *w = NULL;
    struct status st = {0};
    folder = getenv("MILLRACE_GOLDEN");
    if (folder == NULL)
        folder = "../shared/golden";
    (void)snprintf(path, sizeof(path), "%s/gemma-4-vocab.gguf", folder);
    if (access(path, R_OK) != 0) {
        print_message("%s is not there: the real vocabulary is not tried\n", path);
        folder = NULL;
        return 0;
    }
    if (!weights_open(&w, path, &st) || !tokenizer_new(&tokenizer, w, &st))
        print_error("%s\n", st.text);
    weights_close(w);
    return tokenizer == NULL ? -1 : 0;
}

static int close_golden(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static void run(const char *name, case_function *one, size_t at_least)
{
    if (folder == NULL)
        skip();
    assert_true(each_case(tokenizer, folder, name, one) >= at_least);
}

static void test_tokenizer(void **state)
{
    (void)state;
    run("tokenizer", case_encode, 687);
}

static void test_tokenizer_special(void **state)
{
    (void)state;
    run("tokenizer-special", case_encode_special, 102);
}

static void test_detokenize(void **state)
{
    (void)state;
    run("detokenize", case_detokenize, 97);
}

static void test_parse(void **state)
{
    (void)state;
    run("parse", case_parse, 163);
}

static void test_chat(void **state)
{
    (void)state;
    run("chat", case_chat, 236);
}

/* A made-up model has 512 pieces, all control tokens and bytes among them. */
static void test_nano_model(void **state)
{
    (void)state;
    static const char text[] = "<|turn>user\nHELLO, h\xc3\xa9!<turn|>\xff";
    char path[512];
    struct weights *w = NULL;
    struct tokenizer *t = NULL;
    struct status st = {0};
    struct ids ids = {0};
    struct detokenizer d = {0};
    struct buffer out = {0};
    if (folder == NULL)
        skip();
    (void)snprintf(path, sizeof(path), "%s/models/nano-f32.gguf", folder);
    if (!weights_open(&w, path, &st) || !tokenizer_new(&t, w, &st))
        fail_msg("%s", st.text);
    weights_close(w);
    assert_int_equal(tokenizer_size(t), 512);
    tokenizer_encode(t, span_of(text, sizeof(text) - 1), true, &ids);
    assert_int_equal(ids.data[0], tokenizer_special(t, SPECIAL_TURN));
    for (size_t i = 0; i < ids.size; i++)
        detokenizer_push(&d, t, ids.data[i], true, &out);
    detokenizer_end(&d, &out);
    assert_true(span_is(buffer_span(&out), "<|turn>user\nHELLO, h\xc3\xa9!<turn|>\xef\xbf\xbd"));
    ids_clear(&ids);
    buffer_clear(&out);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer),  cmocka_unit_test(test_tokenizer_special),
        cmocka_unit_test(test_detokenize), cmocka_unit_test(test_parse),
        cmocka_unit_test(test_chat),       cmocka_unit_test(test_nano_model),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
