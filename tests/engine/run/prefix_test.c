/* What was read before: which cuts are refused; what is found, by whom; the answer is the one of a
 * prompt read anew; who runs has room. */
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/run/prefix.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/model/golden.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WIDTH 64 /* of the nano models */
#define CONTEXT 512
#define ANSWER 12
#define SLOTS 4
#define SPANS 8
#define SOFT 100 /* slots of a prompt */

/* A prompt that grows, as a chat does. */
struct script {
    int32_t ids[CONTEXT];
    size_t n;
    int32_t spans[3 * SPANS];
    size_t n_spans;
    float soft[SOFT * WIDTH];
    size_t n_soft;
    int32_t cuts[16];
    size_t n_cuts;
};

static void add_text(struct script *p, uint32_t seed, size_t n)
{
    uint32_t state = seed;

    for (size_t i = 0; i < n; i++)
        p->ids[p->n++] = 107 + (int32_t)(next_random(&state) % 390);
}

static void cut(struct script *p)
{
    p->cuts[p->n_cuts++] = (int32_t)p->n;
}

/* Slots, their end mark, and a cut. */
static void add_medium(struct script *p, uint32_t seed, size_t slots, enum media_kind kind)
{
    uint32_t state = seed;
    int32_t *span = p->spans + 3 * p->n_spans++;

    span[0] = (int32_t)p->n;
    span[1] = (int32_t)slots;
    span[2] = (int32_t)kind;
    for (size_t i = 0; i < slots * WIDTH; i++)
        p->soft[p->n_soft * WIDTH + i] = (float)(next_random(&state) % 2001) / 500.0F - 2.0F;
    p->n_soft += slots;
    p->n += slots;
    p->ids[p->n++] = 106;
    cut(p);
}

static struct batch_request request_of(const struct script *p, uint64_t tenant)
{
    return (struct batch_request){.ids = p->ids,
                                  .n_ids = p->n,
                                  .spans = p->spans,
                                  .n_spans = p->n_spans,
                                  .soft = p->soft,
                                  .cuts = p->cuts,
                                  .n_cuts = p->n_cuts,
                                  .tenant = tenant,
                                  .tokens_max = ANSWER,
                                  .sampling = {.temperature = 1.2F, .top_p = 1, .seed = 5}};
}

struct answer {
    int32_t tokens[ANSWER];
    size_t n, cached;
};

/* Everything a batch stands on. */
struct line {
    struct golden_model m;
    struct tokenizer *tokenizer;
    struct model *model;
    struct batch *batch;
};

/* kv_sequences: memory for so many sequences of CONTEXT; 0: plenty. */
static void line_open(struct line *l, const char *model, bool exact, size_t chunk,
                      size_t kv_sequences)
{
    struct status st = {0};
    const struct batch_options batch = {
        .slots = SLOTS, .context_max = CONTEXT, .chunk_tokens = chunk, .step_us = 1000};
    struct model_options options = {
        .exact = exact, .context_max = CONTEXT, .kv_bytes = (size_t)64 << 20};

    *l = (struct line){0};
    golden_model_open(&l->m, model, exact, 1);
    if (kv_sequences > 0)
        options.kv_bytes = kv_sequences * model_sequence_bytes(l->m.model, CONTEXT);
    if (!model_open(&l->model, l->m.weights, NULL, &options, &st) ||
        !tokenizer_new(&l->tokenizer, l->m.weights, &st) ||
        !batch_new(&l->batch, l->model, l->tokenizer, &batch, &st))
        fail_msg("%s", st.text);
}

static void line_close(struct line *l)
{
    batch_free(l->batch);
    tokenizer_free(l->tokenizer);
    model_close(l->model);
    golden_model_close(&l->m);
}

static size_t add(struct line *l, const struct batch_request *r)
{
    struct status st = {0};
    size_t slot = 0;

    if (!batch_add(l->batch, r, &slot, &st))
        fail_msg("%s", st.text);
    return slot;
}

/* Steps until all that run have ended; answers by slot. */
static void finish(struct line *l, struct answer *answers)
{
    while (batch_active(l->batch) > 0) {
        struct batch_event events[SLOTS];
        size_t n = batch_step(l->batch, events);
        for (size_t i = 0; i < n; i++) {
            struct answer *a = &answers[events[i].slot];
            assert_int_equal(a->n, events[i].index);
            memcpy(a->tokens + a->n, events[i].tokens, events[i].n_tokens * sizeof *a->tokens);
            a->n += events[i].n_tokens;
            a->cached = events[i].cached_tokens;
        }
    }
}

static struct answer ask(struct line *l, const struct batch_request *r)
{
    struct answer answers[SLOTS] = {0};
    size_t slot;

    for (size_t i = 0; i < SLOTS; i++)
        answers[i].n = r->n_emitted;
    slot = add(l, r);
    finish(l, answers);
    return answers[slot];
}

/* The answer of a batch that has read nothing before. */
static struct answer ask_anew(const char *model, bool exact, const struct batch_request *r)
{
    struct line l;
    struct answer a;

    line_open(&l, model, exact, 64, 0);
    a = ask(&l, r);
    assert_int_equal(a.cached, 0);
    line_close(&l);
    return a;
}

static void assert_same(const struct answer *a, const struct answer *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->tokens, b->tokens, a->n * sizeof *a->tokens);
}

/* ---- refusals */

static void test_refuses(void **state)
{
    static const struct {
        int32_t cuts[3];
        size_t n;
        const char *words;
    } cases[] = {{{0}, 1, "cuts[0]"},         {{-4}, 1, "cuts[0]"},       {{5, 5}, 2, "cuts[1]"},
                 {{9, 4}, 2, "cuts[1]"},      {{5, 9, 72}, 3, "cuts[2]"}, {{5, 25}, 2, "medium"},
                 {{INT32_MAX}, 1, "cuts[0]"}, {{41}, 1, "medium"}};
    struct line l;
    struct script p = {0};

    (void)state;
    line_open(&l, "models/nano-q4_0.gguf", false, 64, 0);
    add_text(&p, 1, 20);
    add_medium(&p, 2, 10, MEDIA_IMAGE); /* 20 to 29 */
    add_text(&p, 3, 9);
    add_medium(&p, 4, 10, MEDIA_AUDIO); /* 40 to 49 */
    add_text(&p, 5, 20);
    assert_int_equal(p.n, 71);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct batch_request r = request_of(&p, 0);
        struct status st = {0};
        size_t slot = 0;
        r.cuts = cases[i].cuts;
        r.n_cuts = cases[i].n;
        assert_false(batch_add(l.batch, &r, &slot, &st));
        assert_int_equal(st.code, STATUS_INVALID);
        if (!strstr(st.text, cases[i].words))
            fail_msg("'%s' does not speak of '%s'", st.text, cases[i].words);
    }
    line_close(&l);
}

/* ---- the same answer */

/* System turn, then turns of text, pictures and sounds. */
static void grow(struct script *p, uint32_t turn)
{
    if (turn == 0) {
        add_text(p, 100, 21);
        cut(p);
    }
    add_text(p, 200 + turn, 3 + 17 * (turn % 3));
    if (turn % 3 == 1)
        add_medium(p, 300 + turn, 11 + turn, MEDIA_IMAGE);
    if (turn % 3 == 2)
        add_medium(p, 400 + turn, 5, MEDIA_AUDIO);
    add_text(p, 500 + turn, 8);
    cut(p);
}

/* The next turn begins where the last one ended, without its suffix. */
static void check_chat(const char *model, bool exact, size_t chunk)
{
    struct line l;
    struct script p = {0};
    size_t before = 0;

    line_open(&l, model, exact, chunk, 0);
    for (uint32_t turn = 0; turn < 6; turn++) {
        struct script whole;
        grow(&p, turn);
        whole = p;
        add_text(&whole, 600, 5); /* the suffix */
        struct batch_request r = request_of(&whole, 0);
        struct answer expected = ask_anew(model, exact, &r);
        struct answer got = ask(&l, &r);
        assert_same(&got, &expected);
        assert_int_equal(got.cached, before);
        got = ask(&l, &r); /* asked again: all but the suffix is known */
        assert_same(&got, &expected);
        assert_int_equal(got.cached, p.n);
        before = p.n;
        p.n_cuts = 1; /* the system turn; of old turns only media are marked, and they are read */
        add_text(&p, 700 + turn, 30); /* the answer as history has it */
    }
    line_close(&l);
}

static void test_chat(void **state)
{
    (void)state;
    check_chat("models/nano-q4_0.gguf", false, 7);
    check_chat("models/nano-q4_0.gguf", false, 256);
    check_chat("models/nano-q8_0.gguf", true, 64);
}

/* A burst of equal beginnings: only the first is read. A stream that goes on elsewhere finds its
 * prompt too. */
static void test_company(void **state)
{
    const char *model = "models/nano-q4_0.gguf";
    struct line l;
    struct script p[SLOTS] = {0};
    struct answer answers[SLOTS] = {0};
    struct batch_request r;

    (void)state;
    line_open(&l, model, false, 32, 0);
    for (uint32_t i = 0; i < SLOTS; i++) {
        grow(&p[i], 0);
        add_text(&p[i], 900 + i, 40);
        r = request_of(&p[i], 0);
        r.n_cuts--; /* the newest turn ends at the system turn, as it were */
        r.cuts = p[i].cuts;
        assert_int_equal(add(&l, &r), i);
    }
    finish(&l, answers);
    for (uint32_t i = 0; i < SLOTS; i++) {
        r = request_of(&p[i], 0);
        struct answer expected = ask_anew(model, false, &r);
        assert_same(&answers[i], &expected);
        assert_int_equal(answers[i].cached, i == 0 ? 0 : 21);
    }
    r = request_of(&p[2], 0);
    r.emitted = answers[2].tokens;
    r.n_emitted = 5;
    struct answer resumed = ask(&l, &r);
    assert_int_equal(resumed.n, answers[2].n);
    assert_memory_equal(resumed.tokens + 5, answers[2].tokens + 5,
                        (resumed.n - 5) * sizeof *resumed.tokens);
    assert_int_equal(resumed.cached, 21);
    line_close(&l);
}

/* ---- who finds what */

static void test_tenants(void **state)
{
    struct line l;
    struct script p = {0};

    (void)state;
    line_open(&l, "models/nano-q4_0.gguf", false, 64, 0);
    grow(&p, 0);
    add_text(&p, 1, 5);
    struct batch_request ours = request_of(&p, 1), theirs = request_of(&p, 2);
    assert_int_equal(ask(&l, &ours).cached, 0);
    assert_int_equal(ask(&l, &theirs).cached, 0);
    assert_int_equal(ask(&l, &ours).cached, p.n - 5);
    assert_int_equal(ask(&l, &theirs).cached, p.n - 5);
    theirs.tenant = 3;
    assert_int_equal(ask(&l, &theirs).cached, 0);
    line_close(&l);
}

/* Another sound, another picture, a picture that goes on: what follows is another beginning. */
static void test_media_are_part_of_the_name(void **state)
{
    const char *model = "models/nano-q4_0.gguf";
    struct line l;
    struct script p = {0}, joined = {0};
    struct batch_request r;

    (void)state;
    line_open(&l, model, false, 64, 0);
    add_text(&p, 1, 70);
    add_medium(&p, 2, 12, MEDIA_IMAGE);
    size_t after = p.n;
    add_text(&p, 3, 6);
    cut(&p);
    add_text(&p, 4, 5);
    r = request_of(&p, 0);
    assert_int_equal(ask(&l, &r).cached, 0);
    assert_int_equal(ask(&l, &r).cached, p.n - 5);
    p.ids[after + 2]++; /* another question about the picture */
    assert_int_equal(ask(&l, &r).cached, after);
    p.soft[11 * WIDTH + 63] += 0.001F;
    assert_int_equal(ask(&l, &r).cached, 0);
    p.soft[11 * WIDTH + 63] -= 0.001F;
    p.spans[2] = MEDIA_AUDIO; /* the same values heard, not seen */
    assert_int_equal(ask(&l, &r).cached, 0);
    /* A cut right behind a picture's slots, and a second picture that touches it: they see each
     * other, so what was read of the first alone does not help. */
    add_text(&joined, 1, 70);
    add_medium(&joined, 2, 12, MEDIA_IMAGE);
    joined.n--;
    joined.cuts[0] = (int32_t)joined.n;
    r = request_of(&joined, 0);
    r.n_ids++; /* a token behind it */
    assert_int_equal(ask(&l, &r).cached, 0);
    joined.n_cuts = 0;
    add_medium(&joined, 5, 9, MEDIA_IMAGE);
    r = request_of(&joined, 0);
    struct answer expected = ask_anew(model, false, &r);
    struct answer got = ask(&l, &r);
    assert_same(&got, &expected);
    assert_int_equal(got.cached, 0);
    line_close(&l);
}

/* ---- room */

/* With memory for three requests, three always run, whatever was kept before; and what is kept is
 * never in the way of an answer. */
static void test_who_runs_has_room(void **state)
{
    const char *model = "models/nano-q4_0.gguf";
    struct line l;
    struct script p[2] = {0};
    size_t found = 0;

    (void)state;
    line_open(&l, model, false, 64, 3);
    for (uint32_t i = 0; i < 40; i++) {
        struct answer answers[SLOTS] = {0};
        struct batch_request r[2];
        for (uint32_t k = 0; k < 2; k++) {
            if (i % 5 == 0)
                p[k] = (struct script){0};
            add_text(&p[k], 1000 * k + i, 61 + i % 3);
            cut(&p[k]);
            add_text(&p[k], 3, 2);
            r[k] = request_of(&p[k], 0);
            r[k].tokens_max = i % 5 < 4 ? ANSWER : CONTEXT - p[k].n;
            assert_int_equal(add(&l, &r[k]), k);
        }
        if (i % 5 == 4) {
            assert_int_equal(add(&l, &r[1]), 2);
            batch_remove(l.batch, 2);
        }
        struct batch_event events[SLOTS];
        while (answers[0].n < ANSWER || answers[1].n < ANSWER) {
            size_t n = batch_step(l.batch, events);
            for (size_t e = 0; e < n; e++) {
                struct answer *a = &answers[events[e].slot];
                for (size_t t = 0; t < events[e].n_tokens && a->n < ANSWER; t++)
                    a->tokens[a->n++] = events[e].tokens[t];
                a->cached = events[e].cached_tokens;
                if (events[e].finish != BATCH_RUNNING)
                    a->n = ANSWER; /* ended by itself: zeroes follow */
            }
        }
        for (size_t k = 0; k < 2; k++) {
            batch_remove(l.batch, k);
            r[k].tokens_max = ANSWER;
            struct answer expected = ask_anew(model, false, &r[k]);
            assert_memory_equal(answers[k].tokens, expected.tokens,
                                expected.n * sizeof *expected.tokens);
            found += answers[k].cached > 0;
        }
    }
    assert_true(found > 5);
    line_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_company),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_media_are_part_of_the_name),
        cmocka_unit_test(test_who_runs_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
