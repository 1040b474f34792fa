#include "engine/run/batch.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/run/draft.h"
#include "engine/run/prefix.h"
#include "engine/run/sampler.h"
#include "engine/run/session.h"
#include <assert.h>

struct slot {
    struct session *session; /* NULL: free */
    uint64_t order;          /* of its arrival */
    bool working;            /* the last step touched it */
};

/* A pass under way, and whose rows it reads. */
struct pass {
    struct forward *forward;
    bool active;
    bool drafting; /* guesses are made; forward begins afterwards */
    size_t n_slots;
    size_t slots[BATCH_SLOTS_MAX];
    struct session *sessions[BATCH_SLOTS_MAX]; /* NULL: the slot was let go */
    /* [rows with logits][vocabulary] and [..][width], by place in the pass: a newcomer in the slot
     * of one who left while its rows were read writes elsewhere */
    struct session_rows memory;
    struct session_rows rows[BATCH_SLOTS_MAX]; /* of each session */
    int64_t spent_us;                          /* while the other kind waited too */
    int64_t round_us;                          /* of this pass, guesses included */
};

struct batch {
    struct model *model;
    const struct tokenizer *tokenizer;
    struct batch_options options;
    struct session_limits limits;
    size_t vocabulary, width;
    struct sampler *sampler;
    struct draft *draft; /* NULL: no drafter */
    struct slot slots[BATCH_SLOTS_MAX];
    uint64_t arrivals;
    struct prefix *prefix;      /* what was read of before */
    struct model_input *inputs; /* [limits.rows_max] */
    struct pass prefill;        /* a chunk of one prompt */
    struct pass decode;         /* one token of every answer */
    const struct pass *done;    /* the one that this step has finished */
    /* Sessions that were let go while a decode pass reads them: they live until it ends. */
    struct session *leaving[BATCH_SLOTS_MAX];
    size_t n_leaving;
};

static bool check_options(const struct batch_options *o, struct status *st)
{
    if (o->slots < 1 || o->slots > BATCH_SLOTS_MAX)
        return status_fail(st, STATUS_INVALID, "slots: %zu is not within [1, %d]", o->slots,
                           BATCH_SLOTS_MAX);
    if (o->chunk_tokens < 1)
        return status_fail(st, STATUS_INVALID, "chunk_tokens: 0");
    if (o->context_max < 2)
        return status_fail(st, STATUS_INVALID, "context_max: %zu is no room for prompt and answer",
                           o->context_max);
    if (o->step_us < 1)
        return status_fail(st, STATUS_INVALID, "step_us: not above 0");
    if (o->drafter && (o->draft_tokens < 1 || o->draft_tokens > BATCH_DRAFT_TOKENS_MAX))
        return status_fail(st, STATUS_INVALID, "draft_tokens: %zu is not within [1, %d]",
                           o->draft_tokens, BATCH_DRAFT_TOKENS_MAX);
    return true;
}

static void pass_init(struct pass *pass, const struct batch *b, size_t rows, size_t with_logits)
{
    pass->forward = forward_new(b->model, rows);
    pass->memory.logits = heap_array(float, with_logits * b->vocabulary);
    if (b->options.drafter)
        pass->memory.hidden = heap_array(float, with_logits * b->width);
}

static void pass_clear(struct pass *pass)
{
    forward_free(pass->forward);
    heap_free(pass->memory.logits);
    heap_free(pass->memory.hidden);
}

bool batch_new(struct batch **out, struct model *model, const struct tokenizer *t,
               const struct batch_options *options, struct status *st)
{
    size_t decode_rows = options->slots;
    struct batch *b;

    if (!check_options(options, st))
        return false;
    b = heap_new(1, sizeof *b);
    if (!prefix_new(&b->prefix, st)) {
        heap_free(b);
        return false;
    }
    b->limits.prefix = b->prefix;
    b->model = model;
    b->tokenizer = t;
    b->options = *options;
    b->limits.context_max = options->context_max;
    /* Whatever chunk is asked for: a picture must fit in whole. */
    b->limits.rows_max = options->chunk_tokens + BATCH_PICTURE_TOKENS;
    if (b->limits.rows_max > options->context_max)
        b->limits.rows_max = options->context_max;
    b->limits.drafts = options->drafter != NULL;
    b->vocabulary = model_hparams(model)->vocabulary;
    b->width = model_hparams(model)->width;
    b->sampler = sampler_new(b->vocabulary);
    if (options->drafter) {
        const struct draft_options draft = {.drafter = options->drafter,
                                            .slots = options->slots,
                                            .tokens = options->draft_tokens,
                                            .always = options->draft_always};
        b->draft = draft_new(&draft, model);
        decode_rows = draft_rows_max(options->slots, options->draft_tokens);
    }
    b->inputs = heap_array(struct model_input,
                           b->limits.rows_max > decode_rows ? b->limits.rows_max : decode_rows);
    pass_init(&b->prefill, b, b->limits.rows_max, 1);
    pass_init(&b->decode, b, decode_rows, decode_rows);
    *out = b;
    return true;
}

static void free_leaving(struct batch *b)
{
    while (b->n_leaving > 0)
        session_free(b->leaving[--b->n_leaving]);
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    pass_clear(&b->prefill);
    pass_clear(&b->decode);
    free_leaving(b);
    for (size_t i = 0; i < b->options.slots; i++)
        session_free(b->slots[i].session);
    draft_free(b->draft);
    prefix_free(b->prefix);
    sampler_free(b->sampler);
    heap_free(b->inputs);
    heap_free(b);
}

/* Take a slot out of a pass; the pass goes on for the others. */
static bool leave_pass(struct pass *pass, size_t slot)
{
    for (size_t i = 0; pass->active && i < pass->n_slots; i++)
        if (pass->slots[i] == slot && pass->sessions[i]) {
            pass->sessions[i] = NULL;
            return true;
        }
    return false;
}

static void abandon(struct pass *pass)
{
    forward_abandon(pass->forward);
    pass->active = pass->drafting = false;
}

/* Those that left a decode pass hold memory until it ends; when a newcomer needs it, the pass is
 * begun again without them: the others lose part of one step. Then what was kept goes, one by one,
 * if that can help. */
static bool make_room(struct batch *b, size_t positions)
{
    if (b->n_leaving > 0) {
        abandon(&b->decode);
        free_leaving(b);
    }
    while (!model_fits(b->model, positions))
        if (!model_could(b->model, positions) || !prefix_forget(b->prefix))
            return false;
    return true;
}

bool batch_add(struct batch *b, const struct batch_request *request, size_t *out_slot,
               struct status *st)
{
    struct session *session = NULL;
    size_t slot = 0;
    bool made;

    while (slot < b->options.slots && b->slots[slot].session)
        slot++;
    if (slot == b->options.slots)
        return status_fail(st, STATUS_BUSY, "all %zu slots are taken", b->options.slots);
    made = session_new(&session, b->model, b->tokenizer, request, &b->limits, st);
    if (!made && st->code == STATUS_BUSY && make_room(b, request->n_ids + request->tokens_max - 1))
        made = session_new(&session, b->model, b->tokenizer, request, &b->limits, st);
    if (!made)
        return false;
    b->slots[slot].session = session;
    b->slots[slot].order = b->arrivals++;
    b->slots[slot].working = false;
    *out_slot = slot;
    return true;
}

void batch_remove(struct batch *b, size_t slot)
{
    struct session *session;

    assert(slot < b->options.slots);
    session = b->slots[slot].session;
    if (!session)
        return;
    b->slots[slot].session = NULL;
    b->slots[slot].working = false;
    if (leave_pass(&b->prefill, slot))
        abandon(&b->prefill); /* it read for nobody else */
    if (leave_pass(&b->decode, slot))
        b->leaving[b->n_leaving++] = session;
    else
        session_free(session);
}

size_t batch_active(const struct batch *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->options.slots; i++)
        n += b->slots[i].session != NULL;
    return n;
}

/* ---- a step */

static bool running(const struct slot *slot)
{
    return slot->session && session_finish(slot->session) == BATCH_RUNNING;
}

/* More than the newest token is unread: the prompt, or a resumed answer. */
static bool wants_prefill(const struct slot *slot)
{
    return running(slot) && (session_known(slot->session) - session_read(slot->session) > 1 ||
                             session_read(slot->session) == 0);
}

/* Of a prompt that is known up to its last token just that one is read, in a prefill pass: it must
 * not be read again in a decode pass beside it. */
static bool in_prefill(const struct batch *b, size_t slot)
{
    return b->prefill.active && b->prefill.slots[0] == slot;
}

static bool wants_decode(const struct batch *b, size_t slot)
{
    return running(&b->slots[slot]) && !wants_prefill(&b->slots[slot]) && !in_prefill(b, slot);
}

/* The prompt that came first; slots when there is none. */
static size_t next_prefill(const struct batch *b)
{
    size_t best = b->options.slots;

    for (size_t i = 0; i < b->options.slots; i++)
        if (wants_prefill(&b->slots[i]) &&
            (best == b->options.slots || b->slots[i].order < b->slots[best].order))
            best = i;
    return best;
}

static bool any_decode(const struct batch *b)
{
    for (size_t i = 0; i < b->options.slots; i++)
        if (wants_decode(b, i))
            return true;
    return false;
}

static void open_pass(struct pass *pass)
{
    pass->n_slots = 0;
    pass->round_us = 0;
    pass->active = true;
}

static void join(struct batch *b, struct pass *pass, size_t slot)
{
    pass->slots[pass->n_slots] = slot;
    pass->sessions[pass->n_slots++] = b->slots[slot].session;
}

static void begin_prefill(struct batch *b, size_t slot)
{
    struct pass *pass = &b->prefill;
    size_t n;

    open_pass(pass);
    join(b, pass, slot);
    pass->rows[0] = pass->memory;
    if (session_read(pass->sessions[0]) == 0)
        session_begin(pass->sessions[0]);
    n = session_inputs(pass->sessions[0], b->inputs, b->options.chunk_tokens, &pass->rows[0]);
    session_mark(pass->sessions[0], n);
    forward_begin(pass->forward, b->inputs, n);
}

/* The newest token of every answer, with its drafts. False: all have left. */
static bool begin_reading(struct batch *b)
{
    struct pass *pass = &b->decode;
    size_t n = 0;

    pass->drafting = false;
    for (size_t i = 0; i < pass->n_slots; i++) {
        struct session *session = pass->sessions[i];
        if (!session)
            continue;
        pass->rows[i].logits = pass->memory.logits + n * b->vocabulary;
        pass->rows[i].hidden = pass->memory.hidden ? pass->memory.hidden + n * b->width : NULL;
        n += session_inputs(session, b->inputs + n, 1 + session_drafts(session), &pass->rows[i]);
        session_mark(session, 1);
    }
    if (n > 0)
        forward_begin(pass->forward, b->inputs, n);
    return n > 0;
}

static void begin_decode(struct batch *b)
{
    struct pass *pass = &b->decode;

    open_pass(pass);
    for (size_t i = 0; i < b->options.slots; i++)
        if (wants_decode(b, i))
            join(b, pass, i);
    pass->drafting = b->draft != NULL;
    if (pass->drafting)
        draft_begin(b->draft, pass->sessions, pass->n_slots);
    else
        (void)begin_reading(b);
}

/* Work on a pass for about a step's time; true when it is done. */
static bool advance(struct batch *b, struct pass *pass)
{
    int64_t begin = clock_now_us(), left = b->options.step_us;
    bool done = false;

    if (pass->drafting && draft_advance(b->draft, pass->sessions, b->sampler, left)) {
        done = !begin_reading(b);
        left -= clock_now_us() - begin;
    }
    if (!pass->drafting && !done)
        done = forward_advance(pass->forward, left);
    pass->spent_us += clock_now_us() - begin;
    pass->round_us += clock_now_us() - begin;
    return done;
}

/* A pass is done: those whose last known token was read get their next ones. */
static size_t finish_pass(struct batch *b, struct pass *pass, struct batch_event *events)
{
    size_t n = 0;

    pass->active = false;
    for (size_t i = 0; i < pass->n_slots; i++) {
        struct session *session = pass->sessions[i];
        if (!session || session_read(session) < session_known(session))
            continue;
        size_t drafts = session_drafts(session);
        size_t right = session_choose(session, b->sampler, &pass->rows[i]);
        if (drafts > 0)
            draft_judged(b->draft, session, right);
        events[n].slot = pass->slots[i];
        n += session_event(session, &events[n]);
    }
    if (pass == &b->decode) {
        free_leaving(b);
        if (b->draft)
            draft_end(b->draft, pass->round_us);
    }
    return n;
}

/* What ended needs no more work, but may have more to say than one event holds. */
static size_t say_rest(struct batch *b, struct batch_event *events)
{
    size_t n = 0;

    for (size_t i = 0; i < b->options.slots; i++) {
        if (!b->slots[i].session || session_finish(b->slots[i].session) == BATCH_RUNNING)
            continue;
        events[n].slot = i;
        n += session_event(b->slots[i].session, &events[n]);
    }
    return n;
}

/* The pass whose turn it is, begun if it was not; NULL when nothing is to be done. Each kind gets
 * half of the time that both want. */
static struct pass *choose(struct batch *b)
{
    size_t first = next_prefill(b);
    bool prefill = b->prefill.active || first < b->options.slots;
    bool decode = b->decode.active || any_decode(b);

    if (!prefill && !decode)
        return NULL;
    if (!prefill || !decode)
        b->prefill.spent_us = b->decode.spent_us = 0;
    if (prefill && (!decode || b->prefill.spent_us <= b->decode.spent_us)) {
        if (!b->prefill.active)
            begin_prefill(b, first);
        return &b->prefill;
    }
    if (!b->decode.active)
        begin_decode(b);
    return &b->decode;
}

static size_t work(struct batch *b, struct batch_event *events)
{
    struct pass *pass = choose(b);

    if (!pass)
        return 0;
    for (size_t i = 0; i < pass->n_slots; i++)
        if (pass->sessions[i])
            b->slots[pass->slots[i]].working = true;
    if (!advance(b, pass))
        return 0;
    b->done = pass;
    return finish_pass(b, pass, events);
}

size_t batch_step(struct batch *b, struct batch_event *events)
{
    size_t n;

    b->done = NULL;
    heap_guard_on("batch_step");
    for (size_t i = 0; i < b->options.slots; i++)
        b->slots[i].working = false;
    n = say_rest(b, events);
    if (n == 0)
        n = work(b, events);
    heap_guard_off();
    for (size_t i = 0; b->done && i < b->done->n_slots; i++)
        if (b->done->sessions[i])
            session_keep(b->done->sessions[i]);
    for (size_t i = 0; i < n; i++) {
        struct slot *slot = &b->slots[events[i].slot];
        if (events[i].finish == BATCH_RUNNING)
            continue;
        session_free(slot->session);
        slot->session = NULL;
    }
    return n;
}

size_t batch_working(const struct batch *b, size_t *out_slots)
{
    size_t n = 0;

    for (size_t i = 0; i < b->options.slots; i++)
        if (b->slots[i].working)
            out_slots[n++] = i;
    return n;
}

void batch_progress(const struct batch *b, size_t slot, size_t *out_read, size_t *out_all)
{
    const struct session *session = b->slots[slot].session;

    assert(session);
    *out_read = session_read(session);
    *out_all = session_known(session);
}
