/* What a drafter would save: its guesses are made, and then replaced by ones of which a set share
 * is right, since random weights guess nothing. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/run/session.h"
#include "services/millrace/bench/bench.h"
#include "services/millrace/bench/bench_model.h"
#include <assert.h>
#include <string.h>

#define PROMPT 16
#define ANSWER 24
#define GUESSES 3

/* One answer under way, and what it needs. */
struct answer {
    const struct bench *b;
    struct drafter *drafter; /* NULL: no guesses */
    struct session *session;
    struct sampler *sampler;
    struct forward *forward;
    struct model_input inputs[PROMPT];
    struct session_rows rows;
    float *guess;  /* [vocabulary] */
    float *hidden; /* [width] */
    uint64_t random;
};

static void answer_open(struct answer *a, const struct bench *b, struct drafter *drafter)
{
    const struct session_limits limits = {
        .context_max = PROMPT + ANSWER, .rows_max = PROMPT, .drafts = true};
    const struct batch_request request = {.ids = b->ids, .n_ids = PROMPT, .tokens_max = ANSWER};
    size_t width = model_hparams(b->model)->width;
    size_t vocabulary = model_hparams(b->model)->vocabulary;
    struct status st = {0};

    *a = (struct answer){.b = b,
                         .drafter = drafter,
                         .sampler = sampler_new(vocabulary),
                         .forward = forward_new(b->model, PROMPT),
                         .rows = {.logits = heap_array(float, (1 + GUESSES) * vocabulary),
                                  .hidden = heap_array(float, (1 + GUESSES) * width)},
                         .guess = heap_array(float, vocabulary),
                         .hidden = heap_array(float, width),
                         .random = 1};
    bool made = session_new(&a->session, b->model, b->tokenizer, &request, &limits, &st);
    assert(made); /* room was made for eight longer ones */
}

static void answer_close(struct answer *a)
{
    session_free(a->session);
    sampler_free(a->sampler);
    forward_free(a->forward);
    heap_free(a->rows.logits);
    heap_free(a->rows.hidden);
    heap_free(a->guess);
    heap_free(a->hidden);
}

/* The next id that is right with that probability, as logits. */
static void tell(struct answer *a, int32_t truth, double right)
{
    size_t vocabulary = model_hparams(a->b->model)->vocabulary;
    size_t id = (size_t)truth;

    a->random = a->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    if ((double)(a->random >> 11) * 0x1p-53 >= right)
        id = (id + 1) % vocabulary;
    memset(a->guess, 0, vocabulary * sizeof *a->guess);
    a->guess[id] = 1;
}

static void guess(struct answer *a, const int32_t *truth, double right)
{
    size_t known = session_known(a->session) - PROMPT;

    memcpy(a->hidden, session_hidden(a->session),
           model_hparams(a->b->model)->width * sizeof *a->hidden);
    for (size_t i = 0; i < GUESSES && session_can_draft(a->session); i++) {
        struct drafter_row row = session_draft_row(a->session, a->hidden);
        (void)drafter_step(a->drafter, &row, 1);
        tell(a, truth[known + i], right);
        session_draft(a->session, a->sampler, a->guess);
    }
}

static void read_round(struct answer *a)
{
    size_t n = session_inputs(a->session, a->inputs, PROMPT, &a->rows);

    forward_begin(a->forward, a->inputs, n);
    while (!forward_advance(a->forward, 1000000))
        continue;
    (void)session_choose(a->session, a->sampler, &a->rows);
}

/* Writes the whole answer, out [ANSWER]. Seconds of a pass; with a drafter, of a round with all
 * guesses: the last ones have fewer. */
static double write_answer(const struct bench *b, struct drafter *drafter, const int32_t *truth,
                           double right, int32_t *out)
{
    struct answer a;
    struct batch_event e;
    int64_t spent_us = 0;
    size_t n = 0, rounds = 0;

    answer_open(&a, b, drafter);
    read_round(&a);
    while (session_finish(a.session) == BATCH_RUNNING) {
        int64_t begun_us = clock_now_us();
        if (drafter)
            guess(&a, truth, right);
        bool counts = !drafter || session_drafts(a.session) == GUESSES;
        read_round(&a);
        if (counts) {
            spent_us += clock_now_us() - begun_us;
            rounds++;
        }
    }
    while (session_event(a.session, &e)) {
        memcpy(out + n, e.tokens, e.n_tokens * sizeof *out);
        n += e.n_tokens;
    }
    answer_close(&a);
    return rounds > 0 ? (double)spent_us * 1e-6 / (double)rounds : 0;
}

/* What a round gives on average when each guess is right with that probability: the token behind
 * the guesses, and those up to the first wrong one (Leviathan et al. 2023, equation 1). Counted,
 * an answer this short would tell of luck: two tokens or three. */
static double tokens_a_round(double right)
{
    double sum = 0, all = 1;

    for (size_t i = 0; i <= GUESSES; i++, all *= right)
        sum += all;
    return sum;
}

bool bench_drafted_s(struct bench *b, double right, double *out_plain_s, double *out_drafted_s)
{
    int32_t truth[ANSWER + GUESSES] = {0};
    int32_t same[ANSWER] = {0};

    if (!b->drafter)
        return false;
    double before = write_answer(b, NULL, NULL, 0, truth);
    *out_drafted_s = write_answer(b, b->drafter, truth, right, same) / tokens_a_round(right);
    assert(memcmp(truth, same, sizeof same) == 0);
    *out_plain_s = (before + write_answer(b, NULL, NULL, 0, truth)) / 2;
    return true;
}
