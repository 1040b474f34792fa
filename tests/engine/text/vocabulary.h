/* cases.h - golden case files of the text side and the vocabulary they are written in.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include <jansson.h>

/* A vocabulary in memory, to be changed by tests that want it refused. */
struct test_vocabulary {
    json_t *json; /* owns the texts */
    struct span *pieces, *merges;
    int64_t *types;
    struct vocabulary v;
};

/* tests/golden/text/vocabulary.json; fails the test when it cannot be read. */
void test_vocabulary_init(struct test_vocabulary *v);
void test_vocabulary_clear(struct test_vocabulary *v);
struct tokenizer *small_tokenizer(void);

/* Run `one` on each line of tests/golden/text/<name>.jsonl; returns how many. `line` is the text as
 * it stands in the file, for numbers that jansson cannot keep. */
struct golden_case {
    const struct tokenizer *tokenizer;
    const json_t *json;
    struct span line;
};
typedef void case_function(const struct golden_case *c);
size_t each_case(const struct tokenizer *t, const char *folder, const char *name,
                 case_function *one);
#define SMALL_FOLDER "tests/golden/text"

/* A member of the case as a span; fails the test when it is no text. */
struct span case_text(const json_t *json, const char *key);

/* A list of numbers, and comparisons that show the case. */
void ids_of(const json_t *list, struct ids *out);
void assert_ids(const struct golden_case *c, const struct ids *got);
void assert_text(const struct golden_case *c, struct span got, struct span expected);

/* Does the engine what the case says? For tokenizer, tokenizer-special, detokenize, parse and chat
 * (chat_case.c). */
case_function case_encode, case_encode_special, case_detokenize, case_parse, case_chat;
