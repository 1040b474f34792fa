/* vocabulary.h - the small vocabulary of tests/golden/text, to be tried and to be spoiled.
 */
#pragma once
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

/* A vocabulary in memory, to be changed by tests that want it refused. */
struct test_vocabulary {
    struct weights *file; /* owns the texts */
    struct span *pieces, *merges;
    int64_t *types;
    struct vocabulary v;
};

/* tests/golden/text/vocabulary.gguf; fails the test when it cannot be read. */
void test_vocabulary_init(struct test_vocabulary *v);
void test_vocabulary_clear(struct test_vocabulary *v);
struct tokenizer *small_tokenizer(void);
