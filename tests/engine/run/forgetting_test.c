/* What was read before: what is forgotten first. */
#include "engine/model/model.h"
#include "engine/run/prefix.h"
#include "tests/engine/model/golden.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CONTEXT 512

struct store {
    struct golden_model m;
    struct model *model;
    struct forward *forward;
    struct prefix *prefix;
    int32_t ids[8][CONTEXT];
};

static void store_open(struct store *s, size_t kv_bytes)
{
    const struct model_options options = {.context_max = CONTEXT, .kv_bytes = kv_bytes};
    struct status st = {0};

    golden_model_open(&s->m, "models/nano-q4_0.gguf", false, 1);
    if (!model_open(&s->model, s->m.weights, NULL, &options, &st) || !prefix_new(&s->prefix, &st))
        fail_msg("%s", st.text);
    s->forward = forward_new(s->model, CONTEXT);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t state = i;
        for (size_t k = 0; k < CONTEXT; k++)
            s->ids[i][k] = 107 + (int32_t)(next_random(&state) % 390);
    }
}

static void store_close(struct store *s)
{
    forward_free(s->forward);
    prefix_free(s->prefix);
    model_close(s->model);
    golden_model_close(&s->m);
}

/* Read the first `length` tokens of row `which` and keep them; returns how many were known. */
static size_t read(struct store *s, size_t which, size_t length, bool newest)
{
    struct prefix_prompt prompt = {.ids = s->ids[which],
                                   .n_ids = length + 1,
                                   .cuts = {{.length = length, .newest = newest}},
                                   .n_cuts = 1};
    struct model_input inputs[CONTEXT];
    struct sequence *sequence = NULL;
    struct status st = {0};
    size_t n = 0;

    prefix_name(s->prefix, &prompt);
    assert_true(sequence_new(&sequence, s->model, length + 1, &st));
    prefix_begin(s->prefix, &prompt, sequence, length + 1);
    prefix_mark(&prompt, sequence, length + 1);
    for (size_t i = prompt.found_tokens; i <= length; i++)
        inputs[n++] =
            (struct model_input){.sequence = sequence, .id = s->ids[which][i], .block = -1};
    forward_begin(s->forward, inputs, n);
    while (!forward_advance(s->forward, 1000000))
        continue;
    prefix_keep(s->prefix, &prompt, sequence);
    sequence_free(sequence);
    return prompt.found_tokens;
}

/* Tokens that would be found, without a trace of the question. */
static bool known(struct store *s, size_t which, size_t length)
{
    struct prefix_prompt prompt = {.ids = s->ids[which], .n_ids = length + 1};
    struct sequence *sequence = NULL;
    struct status st = {0};

    assert_true(sequence_new(&sequence, s->model, length + 1, &st));
    prefix_begin(s->prefix, &prompt, sequence, length + 1);
    sequence_free(sequence);
    return prompt.found_tokens == length;
}

static void test_order_of_forgetting(void **state)
{
    struct store s;

    (void)state;
    store_open(&s, (size_t)64 << 20);
    assert_false(prefix_forget(s.prefix));
    /* The page of the window is what counts: more tokens for nearly the same bytes are worth more;
     * what was found is worth more than what was not. */
    assert_int_equal(read(&s, 0, 10, false), 0);
    assert_int_equal(read(&s, 1, 60, false), 0);
    assert_int_equal(read(&s, 2, 10, false), 0);
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(read(&s, 2, 10, false), 10);
    assert_int_equal(prefix_snapshots(s.prefix), 3);
    assert_true(prefix_forget(s.prefix));
    assert_true(prefix_forget(s.prefix));
    assert_int_equal(prefix_snapshots(s.prefix), 1);
    assert_true(known(&s, 2, 10));
    assert_true(prefix_forget(s.prefix));
    assert_false(prefix_forget(s.prefix));
    /* A turn that was followed by the next goes first, though it is longer than another. */
    assert_int_equal(read(&s, 3, 60, true), 0);
    assert_int_equal(read(&s, 3, 110, true), 60);
    assert_int_equal(read(&s, 4, 30, true), 0);
    assert_true(prefix_forget(s.prefix));
    assert_true(known(&s, 3, 110));
    assert_true(known(&s, 4, 30));
    /* One that others begin with too does not: only the first find is a chat that goes on. */
    while (prefix_forget(s.prefix))
        continue;
    assert_int_equal(read(&s, 5, 60, true), 0);
    for (size_t i = 60; i < 64; i++) {
        s.ids[5][70] = (int32_t)(200 + i);
        assert_int_equal(read(&s, 5, 80, true), 60);
    }
    for (size_t i = 0; i < 4; i++)
        assert_true(prefix_forget(s.prefix));
    assert_true(known(&s, 5, 60));
    store_close(&s);
}

/* What is not asked for any more goes in the end, however valuable it was; and where memory is
 * short, a newcomer that is worth less than all that is there is not kept. */
static void test_age(void **state)
{
    struct store s;
    size_t rounds = 0;

    (void)state;
    store_open(&s, (size_t)64 << 20);
    for (size_t i = 0; i < 5; i++)
        (void)read(&s, 0, 100, false);
    for (size_t n = 2; n == 2 && rounds < 100; rounds++) {
        s.ids[1][50] = 107 + (int32_t)rounds;
        assert_int_equal(read(&s, 1, 100, false), 0);
        n = prefix_snapshots(s.prefix);
        assert_true(prefix_forget(s.prefix));
        n = known(&s, 1, 100) ? 0 : n; /* the newcomer has outlived the favourite */
    }
    print_message("    the favourite of five went after %zu newcomers\n", rounds);
    assert_true(rounds > 2);
    assert_true(rounds < 20);
    assert_false(known(&s, 0, 100));
    store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_forgetting),
        cmocka_unit_test(test_age),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
