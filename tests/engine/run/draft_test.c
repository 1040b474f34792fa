/* Drafts change nothing but the time: every answer is the one that comes without them. */
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/run/session.h"
#include "tests/engine/run/answers.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "models/nano-q4_0.gguf"
#define SEEDS 60 /* of requests, to find one whose answer ends early */

static void test_refused(void **state)
{
    static const size_t wrong[] = {0, BATCH_DRAFT_TOKENS_MAX + 1};
    struct line l;

    (void)state;
    line_open_drafted(&l, MODEL, 1, 1000);
    for (size_t i = 0; i < 2; i++) {
        const struct batch_options options = {.slots = 1,
                                              .context_max = 128,
                                              .chunk_tokens = 20,
                                              .step_us = 1000,
                                              .drafter = l.drafter,
                                              .draft_tokens = wrong[i]};
        struct batch *none = NULL;
        struct status st = {0};
        assert_false(batch_new(&none, l.m.model, l.tokenizer, &options, &st));
        assert_int_equal(st.code, STATUS_INVALID);
        assert_non_null(strstr(st.text, "draft_tokens"));
        assert_null(none);
    }
    line_close(&l);
}

/* Alone, greedy and sampled, with media: any number of guesses, any length of a step. */
static void check_alone(const char *model)
{
    static const size_t tokens[] = {1, 3, BATCH_DRAFT_TOKENS_MAX};
    struct answer expected[REQUESTS];

    answers_reference(model, expected);
    for (size_t k = 0; k < 3; k++) {
        struct line l;
        size_t drafted = 0, accepted = 0;
        line_open_drafted(&l, model, tokens[k], k % 2 ? 1000000 : 1);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            struct request q;
            request_make(&q, i);
            struct answer a = line_answer(&l, &q.r);
            answer_assert_same(&a, &expected[i], 0);
            assert_true(a.accepted <= a.drafted);
            assert_true(a.drafted > 0 || a.n < 3);
            drafted += a.drafted;
            accepted += a.accepted;
        }
        print_message("    %zu guesses a round: %zu of %zu right\n", tokens[k], accepted, drafted);
        line_close(&l);
    }
}

static void test_alone(void **state)
{
    (void)state;
    check_alone(MODEL);
    check_alone("models/nano-q8_0.gguf");
}

/* A prompt that the drafter was made for: of its guesses in the batch some are right. */
static void test_golden_run(void **state)
{
    struct weights *c = golden_case_open("speculate");
    struct weights *file = NULL;
    struct golden_model m;
    struct drafter *d = NULL;
    struct tokenizer *t = NULL;
    struct batch *b = NULL;
    struct status st = {0};
    size_t n_prompt = 0, n = 0, slot = 0;
    const int32_t *prompt = golden_i32(c, "prompt", &n_prompt);
    const int32_t *expected = golden_i32(c, "ids", &n);
    const struct batch_request r = {.ids = prompt, .n_ids = n_prompt, .tokens_max = n};

    (void)state;
    golden_model_open(&m, "models/nano-f32.gguf", true, 1);
    assert_true(weights_open(&file, DRAFTER, &st) &&
                drafter_open(&d, file, m.model, DRAFT_STEP_ROWS, &st));
    const struct batch_options options = {.slots = 1,
                                          .context_max = 512,
                                          .chunk_tokens = 64,
                                          .step_us = 50000,
                                          .drafter = d,
                                          .draft_tokens = 3,
                                          .draft_always = true};
    assert_true(tokenizer_new(&t, m.weights, &st) && batch_new(&b, m.model, t, &options, &st) &&
                batch_add(b, &r, &slot, &st));
    struct batch_event e = answer_assert_ids(b, expected, n);
    print_message("    %zu of %zu guesses right\n", e.accepted, e.drafted);
    assert_true(e.accepted > e.drafted / 10);
    batch_free(b);
    tokenizer_free(t);
    drafter_close(d);
    weights_close(file);
    golden_model_close(&m);
    weights_close(c);
}

static void test_resume_at_every_token(void **state)
{
    struct answer expected[REQUESTS];
    struct line l;

    (void)state;
    answers_reference(MODEL, expected);
    line_open_drafted(&l, MODEL, 3, 1000);
    line_assert_resume(&l, expected);
    line_close(&l);
}

/* Requests come and go at random, while others guess, are read, or are judged. */
static void test_company(void **state)
{
    struct answer expected[REQUESTS];
    struct line l;

    (void)state;
    answers_reference(MODEL, expected);
    line_open_drafted(&l, MODEL, 3, 1);
    line_assert_company(&l, expected, 5);
    line_close(&l);
}

/* ---- guesses that are told: right ones, wrong ones, at any place */

/* What a session is driven with, in place of a batch. */
struct told {
    struct forward *forward;
    struct sampler *sampler;
    struct model_input inputs[PROMPT + ANSWER];
    struct session_rows rows;
    float *logits; /* of a guess */
    const struct answer *truth;
    size_t tokens, right_of_ten;
    uint32_t random;
};

static void told_init(struct told *t, struct line *l, const struct answer *truth)
{
    *t = (struct told){
        .forward = forward_new(l->m.model, PROMPT + ANSWER),
        .sampler = sampler_new(VOCABULARY),
        .rows = {.logits = heap_array(float, (size_t)(BATCH_DRAFT_TOKENS_MAX + 1) * VOCABULARY),
                 .hidden = heap_array(float, (size_t)(BATCH_DRAFT_TOKENS_MAX + 1) * WIDTH)},
        .logits = heap_array(float, VOCABULARY),
        .truth = truth,
        .random = 3};
}

static void told_clear(struct told *t)
{
    forward_free(t->forward);
    sampler_free(t->sampler);
    heap_free(t->rows.logits);
    heap_free(t->rows.hidden);
    heap_free(t->logits);
}

static void tell_drafts(struct told *t, struct session *s, size_t prompt)
{
    while (session_drafts(s) < t->tokens && session_can_draft(s)) {
        size_t index = session_known(s) - prompt + session_drafts(s);
        size_t id = index < t->truth->n ? (size_t)t->truth->tokens[index] : 300;
        if (next_random(&t->random) % 10 >= t->right_of_ten)
            id = (id + 1 + next_random(&t->random) % 200) % VOCABULARY;
        memset(t->logits, 0, VOCABULARY * sizeof *t->logits);
        t->logits[id] = 10000;
        session_draft(s, t->sampler, t->logits);
    }
}

static struct answer told_answer(struct told *t, struct line *l, const struct batch_request *r)
{
    const struct session_limits limits = {
        .context_max = 128, .rows_max = PROMPT + ANSWER, .drafts = true};
    struct answer a = {.n = r->n_emitted};
    struct session *s = NULL;
    struct status st = {0};

    if (!session_new(&s, l->m.model, l->tokenizer, r, &limits, &st))
        fail_msg("%s", st.text);
    while (a.finish == BATCH_RUNNING) {
        struct batch_event e;
        if (session_hidden(s))
            tell_drafts(t, s, r->n_ids);
        size_t n = session_inputs(s, t->inputs, PROMPT + ANSWER, &t->rows);
        forward_begin(t->forward, t->inputs, n);
        while (!forward_advance(t->forward, 1000000))
            continue;
        (void)session_choose(s, t->sampler, &t->rows);
        assert_int_equal(session_drafts(s), 0);
        assert_int_equal(session_read(s) + 1, session_known(s));
        while (session_event(s, &e))
            answer_take(&a, &e);
    }
    session_free(s);
    return a;
}

/* The request's answer by told guesses of every kind, against the one that comes without. */
static void check_told(struct line *l, const struct batch_request *r, const struct answer *truth)
{
    static const size_t right_of_ten[] = {0, 7, 10}, tokens[] = {1, 3, BATCH_DRAFT_TOKENS_MAX};
    struct answer expected = line_answer(l, r);
    struct told t;

    told_init(&t, l, truth);
    for (size_t k = 0; k < 3; k++)
        for (size_t n = 0; n < 3; n++) {
            t.tokens = tokens[n];
            t.right_of_ten = right_of_ten[k];
            struct answer a = told_answer(&t, l, r);
            answer_assert_same(&a, &expected, 0);
            if (right_of_ten[k] == 10 && a.finish == BATCH_LENGTH)
                assert_int_equal(a.accepted, a.drafted);
            if (right_of_ten[k] == 10)
                assert_true(a.accepted >= (a.n - 1) / 2);
            if (right_of_ten[k] == 0)
                assert_int_equal(a.accepted, 0);
        }
    told_clear(&t);
}

static void test_told(void **state)
{
    struct line l;

    (void)state;
    line_open(&l, MODEL, 1, 64, 1000000);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request q;
        request_make(&q, i);
        struct answer truth = line_answer(&l, &q.r);
        check_told(&l, &q.r, &truth);
        /* Every length, so that it ends at every place within the guesses. */
        for (q.r.tokens_max = 1; q.r.tokens_max < 12; q.r.tokens_max += 1 + i)
            check_told(&l, &q.r, &truth);
    }
    line_close(&l);
}

/* An answer that ends by an end token: guesses go up to it, and none is chosen behind it. */
static void test_told_end(void **state)
{
    struct line l;
    size_t ended = 0;

    (void)state;
    line_open(&l, MODEL, 1, 64, 1000000);
    for (uint32_t i = 0; i < SEEDS && ended < 3; i++) {
        struct request q;
        request_make(&q, i);
        struct answer truth = line_answer(&l, &q.r);
        if (truth.finish != BATCH_STOP || truth.n < 3)
            continue;
        check_told(&l, &q.r, &truth);
        ended++;
    }
    assert_int_equal(ended, 3);
    line_close(&l);
}

/* Stop strings from every place of an answer, of two tokens and more. */
static void test_told_stop_string(void **state)
{
    struct line l;
    size_t stopped = 0;

    (void)state;
    line_open(&l, MODEL, 1, 64, 1000000);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request q;
        request_make(&q, i);
        struct answer truth = line_answer(&l, &q.r);
        for (size_t at = 1; at + 3 < truth.n; at += 6) {
            struct buffer text = {0};
            struct detokenizer d = {0};
            for (size_t k = at; k < at + 3; k++)
                detokenizer_push(&d, l.tokenizer, truth.tokens[k], false, &text);
            detokenizer_end(&d, &text);
            buffer_append(&text, "", 1);
            q.r.stops[0] = (const char *)text.data;
            q.r.n_stops = text.size > 3 && text.size < BATCH_STOP_BYTES_MAX;
            struct answer a = line_answer(&l, &q.r);
            stopped += a.finish == BATCH_STOP_STRING;
            if (a.finish == BATCH_STOP_STRING)
                check_told(&l, &q.r, &truth);
            buffer_clear(&text);
        }
    }
    print_message("    %zu stopped\n", stopped);
    assert_true(stopped > 5);
    line_close(&l);
}

/* Resumed: the guesses begin behind what was given out. */
static void test_told_resume(void **state)
{
    struct line l;

    (void)state;
    line_open(&l, MODEL, 1, 64, 1000000);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request q;
        struct told t;
        request_make(&q, i);
        struct answer truth = line_answer(&l, &q.r);
        told_init(&t, &l, &truth);
        t.tokens = 3;
        t.right_of_ten = 7;
        q.r.emitted = truth.tokens;
        for (q.r.n_emitted = 0; q.r.n_emitted < truth.n; q.r.n_emitted += 3) {
            struct answer a = told_answer(&t, &l, &q.r);
            answer_assert_same(&a, &truth, q.r.n_emitted);
        }
        told_clear(&t);
    }
    line_close(&l);
}

/* Drafts behind a prompt whose beginning was read before, up to its very end. */
static void test_known_beginning(void **state)
{
    struct line l;

    (void)state;
    line_open_drafted(&l, MODEL, 3, 1); /* also between two parts of a pass */
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request q;
        struct line plain;
        request_make(&q, i);
        line_open(&plain, MODEL, 1, 64, 1000000);
        struct answer truth = line_answer(&plain, &q.r);
        line_close(&plain);
        int32_t n = (int32_t)q.r.n_ids, cuts[][2] = {{4, 38}, {19, n - 1}, {38, n}};
        for (size_t k = 0; k < 3; k++) {
            q.r.cuts = cuts[k];
            q.r.n_cuts = 2;
            q.r.n_emitted = 0;
            size_t known = k == 0 ? 0 : (size_t)cuts[k - 1][1]; /* by the round before */
            struct answer a = line_answer(&l, &q.r);
            answer_assert_same(&a, &truth, 0);
            assert_int_equal(a.cached, known);
            assert_true(a.drafted > 0);
            q.r.emitted = truth.tokens;
            q.r.n_emitted = 5;
            a = line_answer(&l, &q.r);
            answer_assert_same(&a, &truth, 5);
            assert_int_equal(a.cached, cuts[k][1]);
        }
    }
    line_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_alone),
        cmocka_unit_test(test_golden_run),  cmocka_unit_test(test_resume_at_every_token),
        cmocka_unit_test(test_company),     cmocka_unit_test(test_told),
        cmocka_unit_test(test_told_end),    cmocka_unit_test(test_told_stop_string),
        cmocka_unit_test(test_told_resume), cmocka_unit_test(test_known_beginning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
