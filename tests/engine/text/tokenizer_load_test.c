/* From a model file to a tokenizer: what is refused, and that nothing is lost on the way. */
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "tests/engine/text/vocabulary.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { GGUF_I32 = 5, GGUF_STRING = 8, GGUF_ARRAY = 9 };

static void put(struct buffer *out, uint64_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        buffer_append_byte(out, (uint8_t)(number >> (8 * i)));
}

static void put_text(struct buffer *out, struct span text)
{
    put(out, text.size, 8);
    buffer_append(out, text.data, text.size);
}

static void put_texts(struct buffer *out, const char *key, const struct span *texts, size_t n)
{
    put_text(out, span_text(key));
    put(out, GGUF_ARRAY, 4);
    put(out, GGUF_STRING, 4);
    put(out, n, 8);
    for (size_t i = 0; i < n; i++)
        put_text(out, texts[i]);
}

/* Which part of the file is left out or changed. */
struct change {
    const char *model; /* NULL: no such key */
    const char *pre;   /* NULL: no such key */
    bool without_tokens, without_types, without_merges;
    size_t types_less; /* so many fewer than tokens */
};

static void write_model(const struct test_vocabulary *v, const struct change *change,
                        const char *path)
{
    struct buffer out = {0};
    const int n_keys = (change->model != NULL) + (change->pre != NULL) + !change->without_tokens +
                       !change->without_types + !change->without_merges;
    buffer_append_text(&out, "GGUF");
    put(&out, 3, 4);
    put(&out, 0, 8);
    put(&out, (uint64_t)n_keys, 8);
    const char *const texts[][2] = {{"tokenizer.ggml.model", change->model},
                                    {"tokenizer.ggml.pre", change->pre}};
    for (size_t i = 0; i < 2; i++)
        if (texts[i][1] != NULL) {
            put_text(&out, span_text(texts[i][0]));
            put(&out, GGUF_STRING, 4);
            put_text(&out, span_text(texts[i][1]));
        }
    if (!change->without_tokens)
        put_texts(&out, "tokenizer.ggml.tokens", v->pieces, v->v.n_pieces);
    if (!change->without_types) {
        put_text(&out, span_text("tokenizer.ggml.token_type"));
        put(&out, GGUF_ARRAY, 4);
        put(&out, GGUF_I32, 4);
        put(&out, v->v.n_pieces - change->types_less, 8);
        for (size_t i = 0; i < v->v.n_pieces - change->types_less; i++)
            put(&out, (uint64_t)v->types[i], 4);
    }
    if (!change->without_merges)
        put_texts(&out, "tokenizer.ggml.merges", v->merges, v->v.n_merges);
    for (int i = 0; i < 4; i++) /* padding before the tensors that are not there */
        put(&out, 0, 8);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(out.data, 1, out.size, file), out.size);
    assert_int_equal(fclose(file), 0);
    buffer_clear(&out);
}

/* NULL: refused, and the error is in *st. */
static struct tokenizer *load(const struct change *change, struct status *st)
{
    char path[] = "/tmp/millrace-tokenizer-XXXXXX";
    struct test_vocabulary v;
    struct weights *w = NULL;
    struct tokenizer *t = NULL;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    test_vocabulary_init(&v);
    write_model(&v, change, path);
    if (!weights_open(&w, path, st))
        fail_msg("%s", st->text);
    const bool ok = tokenizer_new(&t, w, st);
    assert_int_equal(ok, t != NULL);
    weights_close(w);
    (void)unlink(path);
    test_vocabulary_clear(&v);
    return t;
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        struct change change;
        const char *why;
    } bad[] = {
        {{.model = NULL}, "tokenizer.ggml.model"},
        {{.model = "gpt2"}, "tokenizer.ggml.model: 'gpt2' is not gemma4"},
        {{.model = "llama"}, "tokenizer.ggml.model: 'llama' is not gemma4"},
        {{.model = "llama", .pre = "default"}, "tokenizer.ggml.model: 'llama' is not gemma4"},
        {{.model = "gemma4", .without_tokens = true}, "tokenizer.ggml.tokens: missing"},
        {{.model = "gemma4", .without_types = true}, "tokenizer.ggml.token_type: missing"},
        {{.model = "gemma4", .without_merges = true}, "tokenizer.ggml.merges: missing"},
        {{.model = "gemma4", .types_less = 1}, "tokenizer.ggml.token_type: "},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct status st = {0};
        assert_null(load(&bad[i].change, &st));
        if (strstr(st.text, bad[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", st.text, bad[i].why);
    }
}

static void test_loads(void **state)
{
    (void)state;
    static const struct change good[] = {{.model = "gemma4"}, {.model = "llama", .pre = "gemma4"}};
    struct tokenizer *small = small_tokenizer();
    for (size_t i = 0; i < 2; i++) {
        struct status st = {0};
        struct tokenizer *t = load(&good[i], &st); /* the weights are closed again */
        if (t == NULL)
            fail_msg("%s", st.text);
        assert_true(tokenizer_hash(t) == tokenizer_hash(small));
        tokenizer_free(t);
    }
    tokenizer_free(small);
}

/* A made-up model has 512 pieces, all control tokens and bytes among them. */
static void test_nano_model(void **state)
{
    (void)state;
    static const char text[] = "<|turn>user\nHELLO, h\xc3\xa9!<turn|>\xff";
    struct weights *w = NULL;
    struct tokenizer *t = NULL;
    struct status st = {0};
    struct ids ids = {0};
    struct detokenizer d = {0};
    struct buffer out = {0};
    if (!weights_open(&w, "tests/golden/models/nano-q4_0.gguf", &st) || !tokenizer_new(&t, w, &st))
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refuses), cmocka_unit_test(test_loads),
                                       cmocka_unit_test(test_nano_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
