#include "tests/engine/text/vocabulary.h"
#include "engine/base/heap.h"
#include "engine/weights/weights.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define KEY(name) "tokenizer.ggml." name

void test_vocabulary_init(struct test_vocabulary *v)
{
    struct status st = {0};
    *v = (struct test_vocabulary){0};
    if (!weights_open(&v->file, "tests/golden/text/vocabulary.gguf", &st))
        fail_msg("%s", st.text);
    const size_t n = weights_array_length(v->file, KEY("tokens"));
    const size_t n_merges = weights_array_length(v->file, KEY("merges"));
    v->pieces = heap_array(struct span, n);
    v->types = heap_array(int64_t, n);
    v->merges = heap_array(struct span, n_merges);
    if (!weights_array_strings(v->file, KEY("tokens"), n, v->pieces, &st) ||
        !weights_array_i64(v->file, KEY("token_type"), n, v->types, &st) ||
        !weights_array_strings(v->file, KEY("merges"), n_merges, v->merges, &st))
        fail_msg("%s", st.text);
    v->v = (struct vocabulary){v->pieces, v->types, n, v->merges, n_merges};
}

void test_vocabulary_clear(struct test_vocabulary *v)
{
    weights_close(v->file);
    heap_free(v->pieces);
    heap_free(v->types);
    heap_free(v->merges);
    *v = (struct test_vocabulary){0};
}

struct tokenizer *small_tokenizer(void)
{
    struct test_vocabulary v;
    struct tokenizer *t = NULL;
    struct status st = {0};
    test_vocabulary_init(&v);
    if (!tokenizer_new_from(&t, &v.v, &st))
        fail_msg("%s", st.text);
    test_vocabulary_clear(&v);
    return t;
}
