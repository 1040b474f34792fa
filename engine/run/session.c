#include "engine/run/session.h"
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/run/stop.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include <assert.h>
#include <math.h>
#include <string.h>

/* A run of soft slots; runs of pictures that touch see each other and are one (spec model.md
 * section 4.2). */
struct run {
    size_t start, end; /* positions */
    int32_t block;     /* number of the picture, -1 for sound */
    const float *soft; /* [end - start][width] */
};

struct session {
    struct sequence *sequence;
    struct stop *stop;
    struct sampling sampling;
    enum batch_finish finish;
    bool said; /* the event with the end was given out */

    int32_t *ids; /* [n_ids + tokens_max] prompt and answer */
    size_t n_ids, n_known, tokens_max;
    size_t n_drafts;  /* guesses, behind the known ids */
    struct run *runs; /* [n_runs] */
    size_t n_runs;
    struct prefix *prefix;
    struct prefix_prompt prompt;
    struct prefix_run *names; /* [n_runs] of prompt */
    float *soft;              /* of all runs */
    size_t width, rows_max, vocabulary;

    const struct tokenizer *tokenizer;
    float *hidden; /* [width] normed stream that predicted the last known token; NULL: no drafter */
    bool hidden_known;
    struct gain_record gain;
    size_t drafted, accepted; /* in all */
};

static bool is_picture(int32_t kind)
{
    return kind == MEDIA_IMAGE || kind == MEDIA_VIDEO;
}

static bool check_ids(const int32_t *ids, size_t n, size_t vocabulary, const char *what,
                      struct status *st)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocabulary)
            return status_fail(st, STATUS_INVALID, "%s[%zu]: %d is outside a vocabulary of %zu",
                               what, i, ids[i], vocabulary);
    return true;
}

static bool check_sizes(const struct batch_request *r, size_t context_max, struct status *st)
{
    if (r->n_ids < 1)
        return status_fail(st, STATUS_INVALID, "ids: an empty prompt");
    if (r->tokens_max < 1)
        return status_fail(st, STATUS_INVALID, "tokens_max: 0");
    if (r->n_emitted > r->tokens_max)
        return status_fail(st, STATUS_INVALID, "tokens: %zu were given out, %zu are allowed",
                           r->n_emitted, r->tokens_max);
    if (r->n_ids >= context_max || r->tokens_max > context_max - r->n_ids)
        return status_fail(st, STATUS_LIMIT,
                           "the prompt has %zu tokens and %zu new ones are asked for, the context "
                           "holds %zu",
                           r->n_ids, r->tokens_max, context_max);
    return true;
}

/* Sorted, disjoint, inside the prompt; out_slots: their sum. */
static bool check_spans(const struct batch_request *r, size_t *out_slots, struct status *st)
{
    size_t free_from = 0, slots = 0;

    for (size_t i = 0; i < r->n_spans; i++) {
        int32_t start = r->spans[3 * i], count = r->spans[3 * i + 1], kind = r->spans[3 * i + 2];
        if (start < 0 || count < 1 || (size_t)start < free_from || (size_t)start >= r->n_ids ||
            (size_t)count > r->n_ids - (size_t)start)
            return status_fail(st, STATUS_INVALID,
                               "spans[%zu]: %d slots from %d on: not in order and within the "
                               "prompt of %zu",
                               i, count, start, r->n_ids);
        if (!is_picture(kind) && kind != MEDIA_AUDIO)
            return status_fail(st, STATUS_INVALID, "spans[%zu]: kind %d is none", i, kind);
        free_from = (size_t)start + (size_t)count;
        slots += (size_t)count;
    }
    *out_slots = slots;
    return true;
}

static bool check_soft(const struct batch_request *r, size_t n, size_t width, struct status *st)
{
    for (size_t i = 0; i < n * width; i++)
        if (!isfinite(r->soft[i]))
            return status_fail(st, STATUS_INVALID, "soft[%zu][%zu]: not a finite number", i / width,
                               i % width);
    return true;
}

/* Ids outside the soft slots must be in the vocabulary; those of the slots mean nothing. */
static bool take_ids(struct session *s, const struct batch_request *r, size_t vocabulary,
                     struct status *st)
{
    memcpy(s->ids, r->ids, r->n_ids * sizeof *s->ids);
    for (size_t i = 0; i < r->n_spans; i++)
        memset(s->ids + r->spans[3 * i], 0, (size_t)r->spans[3 * i + 1] * sizeof *s->ids);
    if (r->n_emitted > 0)
        memcpy(s->ids + r->n_ids, r->emitted, r->n_emitted * sizeof *s->ids);
    s->n_ids = r->n_ids;
    s->n_known = r->n_ids + r->n_emitted;
    return check_ids(s->ids, r->n_ids, vocabulary, "ids", st) &&
           check_ids(s->ids + r->n_ids, r->n_emitted, vocabulary, "tokens", st);
}

static bool take_soft(struct session *s, const struct batch_request *r, size_t slots,
                      struct status *st)
{
    const float *soft;

    s->runs = heap_array(struct run, r->n_spans);
    s->soft = heap_array(float, slots * s->width);
    if (slots > 0)
        memcpy(s->soft, r->soft, slots * s->width * sizeof *s->soft);
    soft = s->soft;
    for (size_t i = 0; i < r->n_spans; i++) {
        size_t start = (size_t)r->spans[3 * i], count = (size_t)r->spans[3 * i + 1];
        bool picture = is_picture(r->spans[3 * i + 2]);
        struct run *last = s->n_runs > 0 ? &s->runs[s->n_runs - 1] : NULL;
        if (last && picture && last->block >= 0 && last->end == start)
            last->end += count;
        else
            s->runs[s->n_runs++] = (struct run){.start = start,
                                                .end = start + count,
                                                .block = picture ? (int32_t)i : -1,
                                                .soft = soft};
        soft += count * s->width;
    }
    for (size_t i = 0; i < s->n_runs; i++)
        if (s->runs[i].block >= 0 && s->runs[i].end - s->runs[i].start > s->rows_max)
            return status_fail(st, STATUS_LIMIT,
                               "spans: a picture of %zu slots, %zu are read together at most",
                               s->runs[i].end - s->runs[i].start, s->rows_max);
    return true;
}

static const struct run *run_at(const struct session *s, size_t position)
{
    for (size_t i = 0; i < s->n_runs; i++)
        if (position >= s->runs[i].start && position < s->runs[i].end)
            return &s->runs[i];
    return NULL;
}

/* ---- what a later prompt may share */

/* Ascending, inside the prompt, and not among soft slots. */
static bool check_cuts(const struct session *s, const struct batch_request *r, struct status *st)
{
    int32_t before = 0;

    for (size_t i = 0; i < r->n_cuts; i++) {
        const struct run *run;
        if (r->cuts[i] <= before || (size_t)r->cuts[i] > r->n_ids)
            return status_fail(st, STATUS_INVALID,
                               "cuts[%zu]: %d is not above %d and within the prompt of %zu", i,
                               r->cuts[i], before, r->n_ids);
        before = r->cuts[i];
        run = run_at(s, (size_t)before);
        if (run && run->start < (size_t)before)
            return status_fail(st, STATUS_INVALID, "cuts[%zu]: %d is among the slots of a medium",
                               i, before);
    }
    return true;
}

/* Slots end at the cut, or one token (their end mark) before it. */
static bool after_medium(const struct session *s, size_t cut)
{
    for (size_t i = 0; i < s->n_runs; i++)
        if (s->runs[i].end == cut || s->runs[i].end + 1 == cut)
            return true;
    return false;
}

static bool has_turn(const struct session *s, const struct tokenizer *t, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (s->ids[i] == tokenizer_special(t, SPECIAL_TURN))
            return true;
    return false;
}

static void add_cut(struct prefix_prompt *prompt, int32_t length, bool newest)
{
    prompt->cuts[prompt->n_cuts++] =
        (struct prefix_cut){.length = (size_t)length, .newest = newest};
}

/* Of all cuts: after the system turn, after the last medium of the newest turn, and where that turn
 * ends. */
static void choose_cuts(struct session *s, const struct tokenizer *t, const struct batch_request *r)
{
    struct prefix_prompt *prompt = &s->prompt;
    size_t last = r->n_cuts;

    if (last == 0)
        return;
    last--;
    if (last > 0 && !after_medium(s, (size_t)r->cuts[0]))
        add_cut(prompt, r->cuts[0], false);
    if (last > 0 && after_medium(s, (size_t)r->cuts[last - 1]) &&
        !has_turn(s, t, (size_t)r->cuts[last - 1], (size_t)r->cuts[last]))
        add_cut(prompt, r->cuts[last - 1], false);
    add_cut(prompt, r->cuts[last], true);
}

static bool take_cuts(struct session *s, const struct tokenizer *t, const struct batch_request *r,
                      struct status *st)
{
    const float *soft = s->soft;
    size_t span = 0;

    if (!check_cuts(s, r, st))
        return false;
    if (!s->prefix)
        return true;
    s->names = heap_array(struct prefix_run, s->n_runs);
    for (size_t i = 0; i < s->n_runs; i++) {
        const struct run *run = &s->runs[i];
        size_t first = span;
        while (span < r->n_spans && (size_t)r->spans[3 * span] < run->end)
            span++;
        s->names[i] = (struct prefix_run){
            .start = run->start,
            .end = run->end,
            .key = prefix_run_key(s->prefix, r->spans + 3 * first, span - first, soft, s->width)};
        soft += (run->end - run->start) * s->width;
    }
    s->prompt = (struct prefix_prompt){.tenant = r->tenant,
                                       .ids = s->ids,
                                       .n_ids = s->n_ids,
                                       .runs = s->names,
                                       .n_runs = s->n_runs};
    choose_cuts(s, t, r);
    prefix_name(s->prefix, &s->prompt);
    return true;
}

void session_begin(struct session *s)
{
    if (s->prefix)
        prefix_begin(s->prefix, &s->prompt, s->sequence, s->n_known);
}

void session_mark(struct session *s, size_t n)
{
    prefix_mark(&s->prompt, s->sequence, session_read(s) + n);
}

void session_keep(struct session *s)
{
    prefix_keep(s->prefix, &s->prompt, s->sequence);
}

/* Whether the prompt ends inside an open thought. */
static bool ends_in_thought(const struct session *s, const struct tokenizer *t)
{
    for (size_t i = s->n_ids; i-- > 0;) {
        if (s->ids[i] == tokenizer_special(t, SPECIAL_CHANNEL))
            return true;
        if (s->ids[i] == tokenizer_special(t, SPECIAL_CHANNEL_END) ||
            s->ids[i] == tokenizer_special(t, SPECIAL_TURN))
            return false;
    }
    return false;
}

static bool take_answer(struct session *s, const struct tokenizer *t, const struct batch_request *r,
                        struct status *st)
{
    if (!stop_new(&s->stop, t, r->stops, r->n_stops, r->tokens_max, ends_in_thought(s, t), st))
        return false;
    s->finish = stop_resume(s->stop, r->emitted, r->n_emitted);
    if (s->finish == BATCH_RUNNING && r->n_emitted == r->tokens_max)
        s->finish = BATCH_LENGTH;
    return true;
}

bool session_new(struct session **out, struct model *m, const struct tokenizer *t,
                 const struct batch_request *r, const struct session_limits *limits,
                 struct status *st)
{
    const struct hparams *hp = model_hparams(m);
    struct session *s;
    size_t slots = 0;

    if (!check_sizes(r, limits->context_max, st) || !check_spans(r, &slots, st) ||
        !check_soft(r, slots, hp->width, st) || !sampling_check(&r->sampling, st))
        return false;
    s = heap_new(1, sizeof *s);
    *s = (struct session){.sampling = r->sampling,
                          .ids = heap_array(int32_t, r->n_ids + r->tokens_max),
                          .tokens_max = r->tokens_max,
                          .width = hp->width,
                          .rows_max = limits->rows_max,
                          .prefix = limits->prefix,
                          .vocabulary = hp->vocabulary,
                          .tokenizer = t,
                          .hidden = limits->drafts ? heap_array(float, hp->width) : NULL};
    if (!take_ids(s, r, hp->vocabulary, st) || !take_soft(s, r, slots, st) ||
        !take_cuts(s, t, r, st) || !take_answer(s, t, r, st) ||
        /* The last token of the answer is never read. */
        !sequence_new(&s->sequence, m, r->n_ids + r->tokens_max - 1, st)) {
        session_free(s);
        return false;
    }
    *out = s;
    return true;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    sequence_free(s->sequence);
    stop_free(s->stop);
    heap_free(s->ids);
    heap_free(s->runs);
    heap_free(s->names);
    heap_free(s->soft);
    heap_free(s->hidden);
    heap_free(s);
}

size_t session_read(const struct session *s)
{
    return sequence_length(s->sequence);
}

size_t session_known(const struct session *s)
{
    return s->n_known;
}

/* Where a chunk that would end at `end` does end: never inside a picture. */
static size_t chunk_end(const struct session *s, size_t begin, size_t end)
{
    const struct run *run = end < s->n_known ? run_at(s, end) : NULL;

    if (!run || run->block < 0 || run->start == end)
        return end;
    return run->end - begin <= s->rows_max ? run->end : run->start;
}

size_t session_inputs(const struct session *s, struct model_input *out, size_t chunk,
                      const struct session_rows *rows)
{
    size_t begin = session_read(s), left = s->n_known + s->n_drafts - begin, end;
    const struct run *run = NULL;

    chunk = chunk < s->rows_max ? chunk : s->rows_max;
    end = chunk_end(s, begin, begin + (chunk < left ? chunk : left));
    for (size_t i = begin; i < end; i++) {
        if (!run || i >= run->end)
            run = run_at(s, i);
        out[i - begin] = (struct model_input){
            .sequence = s->sequence,
            .id = s->ids[i],
            .soft = run ? run->soft + (i - run->start) * s->width : NULL,
            .block = run ? run->block : -1,
        };
        if (i + 1 < s->n_known)
            continue;
        size_t row = i + 1 - s->n_known;
        out[i - begin].logits = rows->logits + row * s->vocabulary;
        out[i - begin].hidden = rows->hidden ? rows->hidden + row * s->width : NULL;
    }
    return end - begin;
}

/* The next token, from the logits behind it. */
static int32_t choose(struct session *s, struct sampler *sampler, const float *logits)
{
    size_t index = s->n_known - s->n_ids;
    int32_t id = sampler_pick(sampler, logits, &s->sampling, index);

    assert(s->finish == BATCH_RUNNING);
    assert(index < s->tokens_max);
    s->ids[s->n_known++] = id;
    s->finish = stop_push(s->stop, id);
    if (s->finish == BATCH_RUNNING && index + 1 == s->tokens_max) {
        s->finish = BATCH_LENGTH;
        stop_end(s->stop);
    }
    return id;
}

size_t session_choose(struct session *s, struct sampler *sampler, const struct session_rows *rows)
{
    size_t drafts = s->n_drafts, row = 0;
    bool right = true;

    s->n_drafts = 0;
    for (;; row++) {
        int32_t draft = row < drafts ? s->ids[s->n_known] : -1;
        right = choose(s, sampler, rows->logits + row * s->vocabulary) == draft;
        if (!right || s->finish != BATCH_RUNNING)
            break;
    }
    if (rows->hidden) {
        memcpy(s->hidden, rows->hidden + row * s->width, s->width * sizeof *s->hidden);
        s->hidden_known = true;
    }
    if (drafts == 0)
        return 0;
    sequence_take_back(s->sequence, s->n_known - 1);
    s->drafted += drafts;
    s->accepted += row + right;
    return row + right;
}

/* ---- drafts */

size_t session_drafts(const struct session *s)
{
    return s->n_drafts;
}

void session_drop_drafts(struct session *s)
{
    s->n_drafts = 0;
}

bool session_can_draft(const struct session *s)
{
    size_t known = s->n_known - s->n_ids + s->n_drafts;

    /* A token comes behind the last guess, too; and behind an end nothing does. */
    return known + 1 < s->tokens_max &&
           !tokenizer_is_stop(s->tokenizer, s->ids[s->n_known + s->n_drafts - 1]);
}

struct drafter_row session_draft_row(const struct session *s, float *hidden)
{
    return (struct drafter_row){
        .sequence = s->sequence, .token = s->ids[s->n_known + s->n_drafts - 1], .hidden = hidden};
}

void session_draft(struct session *s, struct sampler *sampler, const float *logits)
{
    size_t at = s->n_known + s->n_drafts++;

    assert(at < s->n_ids + s->tokens_max);
    s->ids[at] = sampler_pick(sampler, logits, &s->sampling, at - s->n_ids);
}

const float *session_hidden(const struct session *s)
{
    return s->hidden_known ? s->hidden : NULL;
}

struct gain_record *session_gain(struct session *s)
{
    return &s->gain;
}

/* ---- what is given out */

enum batch_finish session_finish(const struct session *s)
{
    return s->finish;
}

bool session_event(struct session *s, struct batch_event *event)
{
    bool ending;

    if (s->said)
        return false;
    event->n_tokens = stop_take(s->stop, event->tokens,
                                sizeof event->tokens / sizeof event->tokens[0], &event->index);
    event->cached_tokens = s->prompt.found_tokens;
    ending = s->finish != BATCH_RUNNING && stop_ready(s->stop) == 0;
    event->finish = ending ? s->finish : BATCH_RUNNING;
    event->drafted = s->drafted;
    event->accepted = s->accepted;
    s->said = ending;
    return event->n_tokens > 0 || ending;
}
