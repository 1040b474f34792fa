/* Cases of the drafter: a round of guesses; runs in which guesses are read and judged. */
#include "engine/base/heap.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/ops/ops.h"
#include "engine/run/session.h"
#include "engine/text/tokenizer.h"
#include "services/millrace/conform/conform.h"
#include <string.h>

#define KV_BYTES ((size_t)64 << 20)
#define GUESSES_MAX BATCH_DRAFT_TOKENS_MAX

/* A case with what it needs opened; the session greedy. */
struct bench {
    struct conform_case *c;
    struct weights *weights, *drafter_file;
    struct model *model;
    struct drafter *drafter; /* NULL: the guesses are told */
    struct tokenizer *tokenizer;
    struct sampler *sampler;
    struct forward *forward;
    struct session *session;
    size_t width, vocabulary, n_prompt;
    struct model_input *inputs; /* [n_prompt] */
    struct session_rows rows;
    float *guess;  /* [vocabulary] */
    float *hidden; /* [width] */
    int32_t *ids;  /* [ids_max] of the answer */
    size_t n_ids, ids_max;
};

static bool open_all(struct bench *b, struct status *st)
{
    struct model_options options = {.exact = true, .context_max = 4096, .kv_bytes = KV_BYTES};
    bool drafted = weights_has(b->c->file, "golden.drafter");

    if (!conform_open(b->c, "golden.model", &b->weights) ||
        (drafted && !conform_open(b->c, "golden.drafter", &b->drafter_file)))
        return false;
    if (!model_open(&b->model, b->weights, NULL, &options, st) ||
        (drafted && !drafter_open(&b->drafter, b->drafter_file, b->model, 1, st)) ||
        !tokenizer_new(&b->tokenizer, b->weights, st))
        return false;
    b->width = model_hparams(b->model)->width;
    b->vocabulary = model_hparams(b->model)->vocabulary;
    return true;
}

/* The prompt of the case, for an answer of so many tokens. */
static bool open_session(struct bench *b, size_t tokens, struct status *st)
{
    const struct session_limits limits = {.context_max = 4096, .rows_max = 4096, .drafts = true};
    struct batch_request request = {.tokens_max = tokens};
    size_t rows;

    request.ids = conform_i32(b->c, "prompt", &request.n_ids);
    b->n_prompt = request.n_ids;
    b->ids_max = tokens;
    if (!session_new(&b->session, b->model, b->tokenizer, &request, &limits, st))
        return false;
    rows = b->n_prompt > GUESSES_MAX + 1 ? b->n_prompt : GUESSES_MAX + 1;
    b->forward = forward_new(b->model, rows);
    b->sampler = sampler_new(b->vocabulary);
    b->inputs = heap_array(struct model_input, rows);
    b->rows.logits = heap_array(float, (GUESSES_MAX + 1) * b->vocabulary);
    b->rows.hidden = heap_array(float, (GUESSES_MAX + 1) * b->width);
    b->guess = heap_array(float, b->vocabulary);
    b->hidden = heap_array(float, b->width);
    b->ids = heap_array(int32_t, tokens);
    return true;
}

static void close_all(struct bench *b)
{
    session_free(b->session);
    forward_free(b->forward);
    sampler_free(b->sampler);
    tokenizer_free(b->tokenizer);
    drafter_close(b->drafter);
    model_close(b->model);
    weights_close(b->drafter_file);
    weights_close(b->weights);
    heap_free(b->inputs);
    heap_free(b->rows.logits);
    heap_free(b->rows.hidden);
    heap_free(b->guess);
    heap_free(b->hidden);
    heap_free(b->ids);
}

/* Read what is known and guessed, and choose; the number of guesses that were right. */
static size_t read_round(struct bench *b)
{
    size_t known = session_known(b->session);
    size_t n = session_inputs(b->session, b->inputs, b->n_prompt + GUESSES_MAX, &b->rows);
    struct batch_event event;

    forward_begin(b->forward, b->inputs, n);
    while (!forward_advance(b->forward, 1000000))
        continue;
    (void)session_choose(b->session, b->sampler, &b->rows);
    while (session_event(b->session, &event)) {
        memcpy(b->ids + b->n_ids, event.tokens, event.n_tokens * sizeof *event.tokens);
        b->n_ids += event.n_tokens;
    }
    return session_known(b->session) - known - 1;
}

/* ------------------------------------------------------------------ one round */

bool conform_is_drafter(const struct conform_case *c)
{
    return weights_has(c->file, "golden.drafter") && conform_has(c, "next_hidden");
}

/* The guesses after the prompt, greedy; the case's own token and hidden state begin the round. */
static void guess_round(struct bench *b)
{
    struct conform_case *c = b->c;
    size_t n, n_hidden;
    (void)conform_i32(c, "drafts", &n);
    const int32_t *token = conform_i32(c, "token", &n_hidden);
    float *logits = heap_array(float, n * b->vocabulary);
    float *hidden = heap_array(float, n * b->width);
    int32_t *guesses = heap_array(int32_t, n);
    int32_t position = (int32_t)session_read(b->session);

    (void)read_round(b);
    conform_compare_i32(c, "token", b->ids, b->n_ids);
    conform_compare(c, "hidden", session_hidden(b->session), b->width, c->tolerance);
    position = (int32_t)session_read(b->session);
    conform_compare_i32(c, "position", &position, 1);
    memcpy(b->hidden, session_hidden(b->session), b->width * sizeof *b->hidden);
    for (size_t i = 0; token && i < n; i++) {
        struct drafter_row row = session_draft_row(b->session, b->hidden);
        const float *got = drafter_step(b->drafter, &row, 1);
        memcpy(logits + i * b->vocabulary, got, b->vocabulary * sizeof *got);
        memcpy(hidden + i * b->width, b->hidden, b->width * sizeof *b->hidden);
        guesses[i] = (int32_t)ops_argmax(got, b->vocabulary);
        session_draft(b->session, b->sampler, got);
    }
    conform_compare(c, "logits", logits, n * b->vocabulary, c->tolerance);
    conform_compare(c, "next_hidden", hidden, n * b->width, c->tolerance);
    conform_compare_i32(c, "drafts", guesses, n);
    heap_free(logits);
    heap_free(hidden);
    heap_free(guesses);
}

void conform_drafter(struct conform_case *c)
{
    struct bench b = {.c = c};
    struct status st = {0};
    size_t n;

    (void)conform_i32(c, "drafts", &n);
    if (n > GUESSES_MAX)
        conform_fail(c, "drafts: more than %d", GUESSES_MAX);
    else if (open_all(&b, &st) && open_session(&b, n + 2, &st))
        guess_round(&b);
    if (st.text[0])
        conform_fail(c, "%s", st.text);
    close_all(&b);
}

/* ------------------------------------------------------------------ runs */

bool conform_is_speculation(const struct conform_case *c)
{
    return conform_has(c, "prompt") && conform_has(c, "drafts") && conform_has(c, "accepted");
}

/* Guess a row of n: by the drafter, or as told. */
static void guess_row(struct bench *b, int32_t *guesses, const int32_t *told, size_t n)
{
    if (b->drafter)
        memcpy(b->hidden, session_hidden(b->session), b->width * sizeof *b->hidden);
    for (size_t i = 0; i < n; i++) {
        const float *logits = b->guess;
        if (b->drafter) {
            struct drafter_row row = session_draft_row(b->session, b->hidden);
            logits = drafter_step(b->drafter, &row, 1);
        } else {
            memset(b->guess, 0, b->vocabulary * sizeof *b->guess);
            b->guess[told[i]] = 1;
        }
        guesses[i] = (int32_t)ops_argmax(logits, b->vocabulary);
        session_draft(b->session, b->sampler, logits);
    }
}

static void run_rounds(struct bench *b, const int32_t *told, size_t rounds, size_t row)
{
    struct conform_case *c = b->c;
    int32_t *guesses = heap_array(int32_t, rounds * row);
    int32_t *accepted = heap_array(int32_t, rounds);
    size_t n;

    (void)conform_i32(c, "ids", &n);
    (void)read_round(b);
    for (size_t i = 0; i < rounds && session_finish(b->session) == BATCH_RUNNING; i++) {
        guess_row(b, guesses + i * row, told + i * row, row);
        accepted[i] = (int32_t)read_round(b);
    }
    conform_compare_i32(c, "drafts", guesses, rounds * row);
    conform_compare_i32(c, "accepted", accepted, rounds);
    /* The last round may go beyond what the case asks for. */
    conform_compare_i32(c, "ids", b->ids, b->n_ids < n ? b->n_ids : n);
    heap_free(guesses);
    heap_free(accepted);
}

void conform_speculation(struct conform_case *c)
{
    struct bench b = {.c = c};
    struct status st = {0};
    const struct tensor_view *drafts = conform_tensor(c, "drafts");
    size_t n;
    const int32_t *told = conform_i32(c, "drafts", &n);
    size_t rounds = 0, row = 0;

    if (drafts && told) {
        row = drafts->dims[0];
        rounds = drafts->dims[1];
    }
    if (row < 1 || row > GUESSES_MAX)
        conform_fail(c, "drafts: not 1 to %d a row", GUESSES_MAX);
    else if (open_all(&b, &st)) {
        for (size_t i = 0; i < n; i++)
            if (told[i] < 0 || (size_t)told[i] >= b.vocabulary)
                conform_fail(c, "drafts[%zu]: %d is no id", i, told[i]);
        if (!c->why[0] && open_session(&b, rounds * (row + 1) + 2, &st))
            run_rounds(&b, told, rounds, row);
    }
    if (st.text[0])
        conform_fail(c, "%s", st.text);
    close_all(&b);
}
