#include "engine/run/draft.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/run/gain.h"
#include <assert.h>
#include <string.h>

/* Rows of a round beyond one an answer: with many answers reading is bound by arithmetic, where
 * drafts no longer come for little. */
#define ROUND_ROWS 32

struct draft {
    struct draft_options options;
    size_t rows_max, width, vocabulary;
    struct gain gain;

    size_t n, drafted; /* answers of the round, and those that are drafted */
    size_t tokens;     /* guesses for each of them */
    size_t depth, at;  /* guesses that all have; the answer whose turn it is */
    bool wanted[BATCH_SLOTS_MAX];
    float *hidden; /* [slots][width]: what the next guess starts from */
};

size_t draft_rows_max(size_t slots, size_t tokens)
{
    size_t rows = slots * (1 + tokens) < ROUND_ROWS ? slots * (1 + tokens) : ROUND_ROWS;

    return rows > slots ? rows : slots;
}

struct draft *draft_new(const struct draft_options *options, const struct model *target)
{
    const struct hparams *hp = model_hparams(target);
    struct draft *d = heap_new(1, sizeof *d);

    assert(options->tokens >= 1 && options->tokens <= BATCH_DRAFT_TOKENS_MAX);
    assert(options->slots <= BATCH_SLOTS_MAX);
    d->options = *options;
    d->rows_max = draft_rows_max(options->slots, options->tokens);
    d->width = hp->width;
    d->vocabulary = hp->vocabulary;
    d->hidden = heap_array(float, options->slots * hp->width);
    return d;
}

void draft_free(struct draft *d)
{
    if (!d)
        return;
    heap_free(d->hidden);
    heap_free(d);
}

void draft_begin(struct draft *d, struct session *const *sessions, size_t n)
{
    bool may = d->options.always || gain_may_draft(&d->gain, n);

    assert(n >= 1 && n <= d->options.slots);
    d->n = n;
    d->tokens = d->rows_max / n - 1;
    d->tokens = d->tokens < d->options.tokens ? d->tokens : d->options.tokens;
    d->drafted = d->depth = d->at = 0;
    for (size_t i = 0; i < n; i++) {
        const float *hidden = session_hidden(sessions[i]);
        session_drop_drafts(sessions[i]);
        d->wanted[i] = may && d->tokens > 0 && hidden && session_can_draft(sessions[i]) &&
                       (d->options.always || gain_wants(&d->gain, session_gain(sessions[i]), n));
        if (!d->wanted[i])
            continue;
        memcpy(d->hidden + i * d->width, hidden, d->width * sizeof *hidden);
        d->drafted++;
    }
}

/* The next few answers guess one token more; false when all have theirs. */
static bool guess(struct draft *d, struct session *const *sessions, struct sampler *sampler)
{
    struct drafter_row rows[DRAFT_STEP_ROWS];
    struct session *of[DRAFT_STEP_ROWS];
    size_t n = 0;

    for (; n == 0 && d->depth < d->tokens; d->depth += n == 0) {
        for (; d->at < d->n && n < DRAFT_STEP_ROWS; d->at++) {
            struct session *s = sessions[d->at];
            if (!s || !d->wanted[d->at] || session_drafts(s) != d->depth || !session_can_draft(s))
                continue;
            rows[n] = session_draft_row(s, d->hidden + d->at * d->width);
            of[n++] = s;
        }
        if (n == 0)
            d->at = 0;
    }
    if (n == 0)
        return false;
    const float *logits = drafter_step(d->options.drafter, rows, n);
    for (size_t i = 0; i < n; i++)
        session_draft(of[i], sampler, logits + i * d->vocabulary);
    return true;
}

bool draft_advance(struct draft *d, struct session *const *sessions, struct sampler *sampler,
                   int64_t budget_us)
{
    int64_t begin = clock_now_us();

    while (d->drafted > 0 && guess(d, sessions, sampler))
        if (clock_now_us() - begin >= budget_us)
            return false;
    return true;
}

void draft_judged(struct draft *d, struct session *s, size_t right)
{
    gain_judged(&d->gain, session_gain(s), right);
}

void draft_end(struct draft *d, int64_t elapsed_us)
{
    gain_measured(&d->gain, d->n, d->drafted, elapsed_us);
}
