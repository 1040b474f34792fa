/* answers.h - requests to small models and what comes back, for tests of the batch. */
#pragma once
#include "engine/model/drafter.h"
#include "engine/run/batch.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/model/golden.h"
#include "tests/random.h"
#include <stddef.h>
#include <stdint.h>

#define PROMPT 60
#define ANSWER 40
#define WIDTH 64 /* of the nano models */
#define VOCABULARY 512
#define REQUESTS 5
#define DRAFTER "tests/golden/models/nano-drafter-f32.gguf"
#define SLOTS 4

/* A request with everything it points to. */
struct request {
    struct batch_request r;
    int32_t ids[PROMPT];
    int32_t spans[9];
    float soft[WIDTH * PROMPT];
};
/* Ids, pictures and sounds of a seed; every third is greedy. */
void request_make(struct request *q, uint32_t seed);

struct answer {
    int32_t tokens[ANSWER];
    size_t n;
    enum batch_finish finish;
    size_t drafted, accepted;
    size_t cached; /* tokens of the prompt that were known */
};
void answer_take(struct answer *a, const struct batch_event *e);
/* The same end and the same tokens, from index `from` on. */
void answer_assert_same(const struct answer *a, const struct answer *b, size_t from);

/* The one request of the batch gets these ids [n]; the last event. */
struct batch_event answer_assert_ids(struct batch *b, const int32_t *expected, size_t n);

/* Everything a batch stands on. */
struct line {
    struct golden_model m;
    struct tokenizer *tokenizer;
    struct weights *drafter_file;
    struct drafter *drafter;
    struct batch *batch;
};
void line_open(struct line *l, const char *model, size_t threads, size_t chunk, int64_t step_us);
/* The same with a drafter, which guesses so many tokens, whether it pays or not. */
void line_open_drafted(struct line *l, const char *model, size_t draft_tokens, int64_t step_us);
void line_close(struct line *l);
size_t line_add(struct line *l, const struct batch_request *r);
/* The answer to a request in an empty batch. */
struct answer line_answer(struct line *l, const struct batch_request *r);

/* The answers [REQUESTS] that all others are compared with. */
void answers_reference(const char *model, struct answer *out);
/* Each answer, begun anew behind some of its own tokens, ends as expected [REQUESTS]. */
void line_assert_resume(struct line *l, const struct answer *expected);
/* Requests come and go at random between steps; those that stay get what is expected [REQUESTS]. */
void line_assert_company(struct line *l, const struct answer *expected, uint32_t seed);
