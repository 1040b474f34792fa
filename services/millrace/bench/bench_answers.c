/* Answers that are written at once, each company in a batch of its own, so that they can be timed
 * in turn. */
#include "engine/base/clock.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "services/millrace/bench/bench.h"
#include "services/millrace/bench/bench_model.h"
#include <assert.h>

#define STREAMS_MAX 8
#define ANSWER_TOKENS 512 /* then a company begins anew */

/* Tokens that a step gave; *out_begun: answers that gave their first. */
static size_t step(struct company *c, size_t *out_begun)
{
    struct batch_event events[STREAMS_MAX];
    size_t n = batch_step(c->batch, events);
    size_t tokens = 0;

    for (size_t i = 0; i < n; i++) {
        tokens += events[i].n_tokens;
        *out_begun += events[i].index == 0 && events[i].n_tokens > 0;
    }
    return tokens;
}

/* All answers anew, past their prompts. */
static void begin(struct bench *b, struct company *c)
{
    struct status st = {0};
    size_t slot, begun = 0;

    for (size_t i = 0; i < c->streams; i++)
        batch_remove(c->batch, i);
    for (size_t i = 0; i < c->streams; i++) {
        struct batch_request request = {
            .ids = b->ids + i, .n_ids = PROMPT_SHORT, .tokens_max = ANSWER_TOKENS};
        bool added = batch_add(c->batch, &request, &slot, &st);
        assert(added); /* a slot for each */
    }
    while (begun < c->streams)
        (void)step(c, &begun);
    /* The pass that is under way was begun without those that came last. */
    while (step(c, &begun) == 0)
        continue;
}

static struct company *company_of(struct bench *b, size_t streams)
{
    struct company *c = b->company;
    struct batch_options options = {.slots = streams,
                                    .context_max = PROMPT_SHORT + ANSWER_TOKENS,
                                    .chunk_tokens = BATCH_CHUNK_TOKENS,
                                    .step_us = BATCH_STEP_US};
    struct status st = {0};

    assert(streams <= STREAMS_MAX && b->prompt_max >= STREAMS_MAX + PROMPT_SHORT);
    while (c->batch && c->streams != streams)
        c++;
    assert(c < b->company + COMPANIES);
    if (!c->batch) {
        c->streams = streams;
        bool made = batch_new(&c->batch, b->model, b->tokenizer, &options, &st);
        assert(made); /* the options are ours */
        begin(b, c);
    }
    return c;
}

double bench_step_s(struct bench *b, size_t streams)
{
    struct company *c = company_of(b, streams);
    size_t begun = 0;

    for (;;) {
        if (batch_active(c->batch) < streams)
            begin(b, c);
        int64_t begun_us = clock_now_us();
        size_t tokens = 0;
        while (tokens == 0)
            tokens = step(c, &begun);
        if (tokens >= streams) /* fewer: an answer of a real model has ended */
            return (double)(clock_now_us() - begun_us) * 1e-6;
        begin(b, c);
    }
}
