#include "engine/run/batch.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/run/sampler.h"
#include "engine/run/session.h"
#include <assert.h>

/* The most slots a picture has (spec media.md section 2.2): what a chunk may grow by. */
#define PICTURE_MAX 1120

struct slot {
    struct session *session; /* NULL: free */
    uint64_t order;          /* of its arrival */
    bool working;            /* the last step touched it */
};

/* A pass under way, and whose rows it reads. */
struct pass {
    struct forward *forward;
    bool active;
    size_t n_slots;
    size_t slots[BATCH_SLOTS_MAX];
    struct session *sessions[BATCH_SLOTS_MAX]; /* NULL: the slot was let go */
    /* [rows][vocabulary], by place in the pass: a newcomer in the slot of one who left while its
     * row was read writes elsewhere */
    float *logits;
    int64_t spent_us; /* while the other kind waited too */
};

struct batch {
    struct model *model;
    const struct tokenizer *tokenizer;
    struct batch_options options;
    struct session_limits limits;
    size_t vocabulary;
    struct sampler *sampler;
    struct slot slots[BATCH_SLOTS_MAX];
    uint64_t arrivals;
    struct model_input *inputs; /* [limits.rows_max] */
    struct pass prefill;        /* a chunk of one prompt */
    struct pass decode;         /* one token of every answer */
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
    return true;
}

bool batch_new(struct batch **out, struct model *model, const struct tokenizer *t,
               const struct batch_options *options, struct status *st)
{
    size_t vocabulary = model_hparams(model)->vocabulary;
    struct batch *b;

    if (!check_options(options, st))
        return false;
    b = heap_new(1, sizeof *b);
    b->model = model;
    b->tokenizer = t;
    b->options = *options;
    b->limits.context_max = options->context_max;
    /* Whatever chunk is asked for: a picture must fit in whole. */
    b->limits.rows_max = options->chunk_tokens + PICTURE_MAX;
    if (b->limits.rows_max > options->context_max)
        b->limits.rows_max = options->context_max;
    b->vocabulary = vocabulary;
    b->sampler = sampler_new(vocabulary);
    b->prefill.logits = heap_array(float, vocabulary);
    b->decode.logits = heap_array(float, options->slots *vocabulary);
    b->inputs =
        heap_array(struct model_input,
                   b->limits.rows_max > options->slots ? b->limits.rows_max : options->slots);
    b->prefill.forward = forward_new(model, b->limits.rows_max);
    b->decode.forward = forward_new(model, options->slots);
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
    forward_free(b->prefill.forward);
    forward_free(b->decode.forward);
    free_leaving(b);
    for (size_t i = 0; i < b->options.slots; i++)
        session_free(b->slots[i].session);
    heap_free(b->prefill.logits);
    heap_free(b->decode.logits);
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
    pass->active = false;
}

/* Those that left a decode pass hold memory until it ends; when a newcomer needs it, the pass is
 * begun again without them: the others lose part of one step. */
static bool make_room(struct batch *b)
{
    if (b->n_leaving == 0)
        return false;
    abandon(&b->decode);
    free_leaving(b);
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
    if (!made && st->code == STATUS_BUSY && make_room(b))
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

static bool wants_decode(const struct slot *slot)
{
    return running(slot) && !wants_prefill(slot);
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
        if (wants_decode(&b->slots[i]))
            return true;
    return false;
}

static void join(struct batch *b, struct pass *pass, size_t slot)
{
    pass->slots[pass->n_slots] = slot;
    pass->sessions[pass->n_slots++] = b->slots[slot].session;
}

static void begin_prefill(struct batch *b, size_t slot)
{
    size_t n;

    b->prefill.n_slots = 0;
    join(b, &b->prefill, slot);
    n = session_inputs(b->slots[slot].session, b->inputs, b->options.chunk_tokens,
                       b->prefill.logits);
    forward_begin(b->prefill.forward, b->inputs, n);
    b->prefill.active = true;
}

static void begin_decode(struct batch *b)
{
    size_t n = 0;

    b->decode.n_slots = 0;
    for (size_t i = 0; i < b->options.slots; i++) {
        if (!wants_decode(&b->slots[i]))
            continue;
        float *row = b->decode.logits + b->decode.n_slots * b->vocabulary;
        join(b, &b->decode, i);
        n += session_inputs(b->slots[i].session, b->inputs + n, 1, row);
    }
    forward_begin(b->decode.forward, b->inputs, n);
    b->decode.active = true;
}

/* A pass is done: those whose last known token was read get their next one. */
static size_t finish_pass(struct batch *b, struct pass *pass, struct batch_event *events)
{
    size_t n = 0;

    pass->active = false;
    for (size_t i = 0; i < pass->n_slots; i++) {
        struct session *session = pass->sessions[i];
        if (!session || session_read(session) < session_known(session))
            continue;
        session_choose(session, b->sampler, pass->logits + i * b->vocabulary);
        events[n].slot = pass->slots[i];
        n += session_event(session, &events[n]);
    }
    if (pass == &b->decode)
        free_leaving(b);
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
    int64_t begin = clock_now_us();
    bool done;

    if (!pass)
        return 0;
    for (size_t i = 0; i < pass->n_slots; i++)
        if (pass->sessions[i])
            b->slots[pass->slots[i]].working = true;
    done = forward_advance(pass->forward, b->options.step_us);
    pass->spent_us += clock_now_us() - begin;
    return done ? finish_pass(b, pass, events) : 0;
}

size_t batch_step(struct batch *b, struct batch_event *events)
{
    size_t n;

    heap_guard_on("batch_step");
    for (size_t i = 0; i < b->options.slots; i++)
        b->slots[i].working = false;
    n = say_rest(b, events);
    if (n == 0)
        n = work(b, events);
    heap_guard_off();
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
