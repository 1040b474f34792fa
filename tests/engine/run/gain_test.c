/* Whether drafting pays: it goes on while it does, rests when it does not, and is tried again. */
#include "engine/run/gain.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* A world in which everything is known. */
struct world {
    struct gain gain;
    struct gain_record record;
    size_t answers;
    int64_t plain_us, drafts_us; /* a round, and what the drafts of one answer add to it */
    size_t right_thousandths;    /* drafts that are right in a round, on average */
    size_t carry;
};

/* How many of the next rounds an answer is drafted in; the others of its kind do as it does. */
static size_t drafted_rounds(struct world *w, size_t rounds)
{
    size_t drafted = 0;

    for (size_t i = 0; i < rounds; i++) {
        bool now =
            gain_may_draft(&w->gain, w->answers) && gain_wants(&w->gain, &w->record, w->answers);
        int64_t us = w->plain_us + (now ? (int64_t)w->answers * w->drafts_us : 0);
        us += (int64_t)(i % 7) * us / 100; /* never quite the same */
        gain_measured(&w->gain, w->answers, now ? w->answers : 0, us);
        if (!now)
            continue;
        drafted++;
        w->carry += w->right_thousandths;
        gain_judged(&w->gain, &w->record, w->carry / 1000);
        w->carry %= 1000;
    }
    return drafted;
}

/* 1.5 right drafts a round for 0.4 rounds more: drafted nearly always. */
static void test_pays(void **state)
{
    struct world w = {
        .answers = 1, .plain_us = 100000, .drafts_us = 40000, .right_thousandths = 1500};

    (void)state;
    assert_true(drafted_rounds(&w, 1000) > 950);
}

static void test_pays_not(void **state)
{
    struct world few = {
        .answers = 1, .plain_us = 100000, .drafts_us = 40000, .right_thousandths = 300};
    /* The same drafts as above, but reading them costs as much as reading alone. */
    struct world dear = {
        .answers = 1, .plain_us = 100000, .drafts_us = 200000, .right_thousandths = 1500};
    /* With eight answers a right draft saves an eighth of a round. */
    struct world many = {
        .answers = 8, .plain_us = 100000, .drafts_us = 40000, .right_thousandths = 1500};

    (void)state;
    assert_true(drafted_rounds(&few, 5000) < 250);
    assert_true(drafted_rounds(&dear, 5000) < 250);
    assert_true(drafted_rounds(&many, 5000) < 250);
}

/* Off while the guesses are bad, and on again when they have become good. */
static void test_tried_again(void **state)
{
    struct world w = {
        .answers = 2, .plain_us = 100000, .drafts_us = 30000, .right_thousandths = 100};

    (void)state;
    assert_true(drafted_rounds(&w, 1000) < 150);
    w.right_thousandths = 2000;
    (void)drafted_rounds(&w, 300); /* the longest rest */
    assert_true(drafted_rounds(&w, 500) > 450);
    w.right_thousandths = 100;
    (void)drafted_rounds(&w, 40);
    assert_true(drafted_rounds(&w, 1000) < 150);
}

/* A new answer is not tried at once where others found nothing; and it is where they did. */
static void test_others_know(void **state)
{
    struct world w = {
        .answers = 1, .plain_us = 100000, .drafts_us = 40000, .right_thousandths = 100};

    (void)state;
    (void)drafted_rounds(&w, 100);
    w.record = (struct gain_record){0};
    assert_int_equal(drafted_rounds(&w, 15), 0);
    assert_true(drafted_rounds(&w, 20) > 0);
    w.right_thousandths = 2500;
    (void)drafted_rounds(&w, 300);
    w.record = (struct gain_record){0};
    assert_true(drafted_rounds(&w, 10) >= 9);
}

/* Rounds grow with the context: what they cost without drafts is measured again and again. */
static void test_costs_change(void **state)
{
    struct world w = {
        .answers = 1, .plain_us = 100000, .drafts_us = 150000, .right_thousandths = 1000};

    (void)state;
    assert_true(drafted_rounds(&w, 1000) < 100);
    w.plain_us = 400000;
    (void)drafted_rounds(&w, 1000);
    assert_true(drafted_rounds(&w, 500) > 450);
}

/* A round that met something else on the machine does not decide. */
static void test_one_slow_round(void **state)
{
    struct world w = {
        .answers = 1, .plain_us = 100000, .drafts_us = 40000, .right_thousandths = 1500};

    (void)state;
    assert_true(drafted_rounds(&w, 100) > 90);
    gain_measured(&w.gain, 1, 1, 60000000);
    assert_true(drafted_rounds(&w, 100) > 90);
    gain_measured(&w.gain, 1, 0, 60000000);
    assert_true(drafted_rounds(&w, 100) > 90);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pays),           cmocka_unit_test(test_pays_not),
        cmocka_unit_test(test_tried_again),    cmocka_unit_test(test_costs_change),
        cmocka_unit_test(test_one_slow_round), cmocka_unit_test(test_others_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
