#include "tests/engine/run/answers.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

void request_make(struct request *q, uint32_t seed)
{
    uint32_t state = seed;
    const int32_t spans[] = {5, 13, MEDIA_IMAGE, 20, 3, MEDIA_AUDIO, 23, 14, MEDIA_IMAGE};

    memset(q, 0, sizeof *q);
    for (size_t i = 0; i < PROMPT; i++)
        q->ids[i] = 107 + (int32_t)(next_random(&state) % 390);
    for (size_t i = 0; i < sizeof q->soft / sizeof *q->soft; i++)
        q->soft[i] = (float)(next_random(&state) % 2001) / 500.0F - 2.0F;
    memcpy(q->spans, spans, sizeof spans);
    q->r = (struct batch_request){
        .ids = q->ids,
        .n_ids = PROMPT - seed % 7,
        .spans = q->spans,
        .n_spans = seed % 4,
        .soft = q->soft,
        .tokens_max = ANSWER - seed % 5,
        .sampling = {.temperature = seed % 3 ? 1.2F : 0, .top_k = 64, .top_p = 0.95F, .seed = seed},
    };
}

static void open_batch(struct line *l, const struct batch_options *options)
{
    struct status st = {0};

    if (!tokenizer_new(&l->tokenizer, l->m.weights, &st) ||
        !batch_new(&l->batch, l->m.model, l->tokenizer, options, &st))
        fail_msg("%s", st.text);
}

void line_open(struct line *l, const char *model, size_t threads, size_t chunk, int64_t step_us)
{
    const struct batch_options options = {
        .slots = SLOTS, .context_max = 128, .chunk_tokens = chunk, .step_us = step_us};

    *l = (struct line){0};
    golden_model_open(&l->m, model, false, threads);
    open_batch(l, &options);
}

void line_open_drafted(struct line *l, const char *model, size_t draft_tokens, int64_t step_us)
{
    struct status st = {0};
    struct batch_options options = {.slots = SLOTS,
                                    .context_max = 128,
                                    .chunk_tokens = 20,
                                    .step_us = step_us,
                                    .draft_tokens = draft_tokens,
                                    .draft_always = true};

    *l = (struct line){0};
    golden_model_open(&l->m, model, false, 1);
    if (!weights_open(&l->drafter_file, DRAFTER, &st) ||
        !drafter_open(&l->drafter, l->drafter_file, l->m.model, DRAFT_STEP_ROWS, &st))
        fail_msg("%s", st.text);
    options.drafter = l->drafter;
    open_batch(l, &options);
}

void line_close(struct line *l)
{
    batch_free(l->batch);
    tokenizer_free(l->tokenizer);
    drafter_close(l->drafter);
    weights_close(l->drafter_file);
    golden_model_close(&l->m);
}

size_t line_add(struct line *l, const struct batch_request *r)
{
    struct status st = {0};
    size_t slot = 0;

    if (!batch_add(l->batch, r, &slot, &st))
        fail_msg("%s", st.text);
    return slot;
}

void answer_take(struct answer *a, const struct batch_event *e)
{
    assert_int_equal(a->n, e->index);
    assert_true(a->n + e->n_tokens <= ANSWER);
    memcpy(a->tokens + a->n, e->tokens, e->n_tokens * sizeof *e->tokens);
    a->n += e->n_tokens;
    a->finish = e->finish;
    a->drafted = e->drafted;
    a->accepted = e->accepted;
    a->cached = e->cached_tokens;
}

struct answer line_answer(struct line *l, const struct batch_request *r)
{
    struct answer a = {.n = r->n_emitted};
    size_t slot = line_add(l, r);

    while (a.finish == BATCH_RUNNING) {
        struct batch_event events[SLOTS];
        size_t n = batch_step(l->batch, events);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(events[i].slot, slot);
            answer_take(&a, &events[i]);
        }
    }
    assert_int_equal(batch_active(l->batch), 0);
    return a;
}

void answer_assert_same(const struct answer *a, const struct answer *b, size_t from)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->finish, b->finish);
    assert_memory_equal(a->tokens + from, b->tokens + from, (a->n - from) * sizeof *a->tokens);
}

void answers_reference(const char *model, struct answer *out)
{
    struct line l;

    line_open(&l, model, 1, 64, 1000000);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request q;
        request_make(&q, i);
        out[i] = line_answer(&l, &q.r);
    }
    line_close(&l);
}

void line_assert_company(struct line *l, const struct answer *expected, uint32_t seed)
{
    uint32_t random = seed;
    struct answer got[SLOTS];
    uint32_t which[SLOTS];
    bool here[SLOTS] = {false};
    size_t done = 0, removed = 0;

    print_message("    seed %u\n", seed);
    while (done < 15) {
        struct batch_event events[SLOTS];
        uint32_t roll = next_random(&random) % 400;
        if (roll < 8 && batch_active(l->batch) < SLOTS) {
            struct request q;
            request_make(&q, roll % REQUESTS);
            size_t slot = line_add(l, &q.r);
            which[slot] = roll % REQUESTS;
            got[slot] = (struct answer){0};
            here[slot] = true;
        } else if (roll == 9 && here[random % SLOTS]) {
            batch_remove(l->batch, random % SLOTS);
            here[random % SLOTS] = false;
            removed++;
        }
        size_t n = batch_step(l->batch, events);
        for (size_t i = 0; i < n; i++) {
            size_t slot = events[i].slot;
            assert_true(here[slot]);
            answer_take(&got[slot], &events[i]);
            if (events[i].finish == BATCH_RUNNING)
                continue;
            answer_assert_same(&got[slot], &expected[which[slot]], 0);
            here[slot] = false;
            done++;
        }
    }
    print_message("    %zu ended, %zu were let go\n", done, removed);
    assert_true(removed > 3);
}

void line_assert_resume(struct line *l, const struct answer *expected)
{
    for (uint32_t i = 0; i < REQUESTS; i++)
        for (size_t n = i % 5; n <= expected[i].n; n += 5) {
            struct request q;
            request_make(&q, i);
            q.r.emitted = expected[i].tokens;
            q.r.n_emitted = n;
            struct answer a = line_answer(l, &q.r);
            answer_assert_same(&a, &expected[i], n);
        }
}

struct batch_event answer_assert_ids(struct batch *b, const int32_t *expected, size_t n)
{
    struct batch_event e = {0};
    size_t at = 0;

    while (batch_active(b) > 0) {
        if (batch_step(b, &e) == 0)
            continue;
        assert_true(at + e.n_tokens <= n);
        assert_memory_equal(e.tokens, expected + at, e.n_tokens * sizeof *e.tokens);
        at += e.n_tokens;
    }
    assert_int_equal(at, n);
    return e;
}
