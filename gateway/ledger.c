/* The step: due things, then the event, then whatever can go out. And the tables. */
#include "engine/base/heap.h"
#include "gateway/ledger_private.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/* --- actions --- */

struct ledger_action *action_add(struct ledger *ledger, enum ledger_action_kind kind,
                                 const struct request *request)
{
    struct ledger_actions *out = ledger->out;

    if (out->n == out->capacity) {
        out->capacity = out->capacity ? 2 * out->capacity : 16;
        out->items = heap_resize(out->items, out->capacity, sizeof *out->items);
    }
    struct ledger_action *action = &out->items[out->n++];
    *action = (struct ledger_action){.kind = kind, .worker = NO_PEER};
    if (request) {
        action->rid = request->rid;
        action->bytes_sent = request->bytes_sent;
    }
    return action;
}

/* The message is the action's; it stays where it is when the actions move. */
struct msg *action_send(struct ledger *ledger, uint32_t peer, enum msg_kind kind)
{
    struct ledger_action *action = action_add(ledger, ACTION_SEND, NULL);

    action->worker = peer;
    action->msg = heap_new(1, sizeof *action->msg);
    action->msg->head.kind = kind;
    return action->msg;
}

void ledger_actions_reset(struct ledger_actions *actions)
{
    for (size_t i = 0; i < actions->n; i++) {
        if (actions->items[i].msg) {
            msg_clear(actions->items[i].msg);
            heap_free(actions->items[i].msg);
        }
        blob_drop(actions->items[i].bytes);
    }
    actions->n = 0;
}

void ledger_actions_clear(struct ledger_actions *actions)
{
    ledger_actions_reset(actions);
    heap_free(actions->items);
    *actions = (struct ledger_actions){0};
}

/* --- requests by number and by time --- */

static size_t chain_of(const struct ledger *ledger, struct rid rid)
{
    uint64_t low = 0;
    uint64_t high = 0;

    memcpy(&low, rid.bytes, sizeof low);
    memcpy(&high, rid.bytes + sizeof low, sizeof high);
    low = (low ^ (high >> 7)) * 0x9e3779b97f4a7c15U;
    return (size_t)(low >> 32) & (ledger->n_chains - 1);
}

struct request *request_find(const struct ledger *ledger, struct rid rid)
{
    struct request *request = ledger->chains[chain_of(ledger, rid)];

    while (request && !rid_equal(request->rid, rid))
        request = request->next;
    return request;
}

static void heap_put(struct ledger *ledger, size_t place, struct request *request)
{
    ledger->heap[place] = request;
    request->heap_place = place;
}

/* Move heap[place] up or down to where its time belongs. */
static void heap_settle(struct ledger *ledger, size_t place)
{
    struct request *request = ledger->heap[place];

    while (place > 0 && ledger->heap[(place - 1) / 2]->wake_us > request->wake_us) {
        heap_put(ledger, place, ledger->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * place + 1;
        if (child + 1 < ledger->n_requests &&
            ledger->heap[child + 1]->wake_us < ledger->heap[child]->wake_us)
            child++;
        if (child >= ledger->n_requests || ledger->heap[child]->wake_us >= request->wake_us)
            break;
        heap_put(ledger, place, ledger->heap[child]);
        place = child;
    }
    heap_put(ledger, place, request);
}

static int64_t min_us(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* When something about this request is due. */
static int64_t request_due_us(const struct ledger *ledger, const struct request *request)
{
    int64_t due = request->deadline_us;

    if (request->paused)
        due = min_us(due, request->paused_us + ledger->config.pause_max_us);
    for (size_t i = 0; i < 2; i++)
        if (request->jobs[i].state == JOB_LATER)
            due = min_us(due, request->jobs[i].later_us);
    if (request->jobs[0].state == JOB_WAITING && request->n_emitted > 0)
        due = min_us(due, request->jobs[0].waiting_us + ledger->config.resume_wait_us);
    return due;
}

void request_schedule(struct ledger *ledger, struct request *request)
{
    request->wake_us = request_due_us(ledger, request);
    heap_settle(ledger, request->heap_place);
}

struct request *request_take(struct ledger *ledger, struct rid rid)
{
    struct request *request = ledger->free_requests;
    size_t chain = chain_of(ledger, rid);

    assert(request);
    ledger->free_requests = request->next;
    *request = (struct request){.used = true,
                                .rid = rid,
                                .wake_us = INT64_MAX,
                                .heap_place = ledger->n_requests,
                                .next = ledger->chains[chain]};
    ledger->chains[chain] = request;
    ledger->heap[ledger->n_requests++] = request;
    for (size_t i = 0; i < 2; i++)
        request->jobs[i].request = request;
    return request;
}

void request_give(struct ledger *ledger, struct request *request)
{
    struct request **from = &ledger->chains[chain_of(ledger, request->rid)];
    size_t place = request->heap_place;

    while (*from != request)
        from = &(*from)->next;
    *from = request->next;
    ledger->n_requests--;
    if (place < ledger->n_requests) {
        heap_put(ledger, place, ledger->heap[ledger->n_requests]);
        heap_settle(ledger, place);
    }
    *request = (struct request){.next = ledger->free_requests};
    ledger->free_requests = request;
}

/* --- the tables --- */

static struct stage *stage_of(struct ledger *ledger, const char *name)
{
    for (size_t i = 0; i < ledger->n_stages; i++)
        if (strcmp(ledger->stages[i].name, name) == 0)
            return &ledger->stages[i];
    assert(ledger->n_stages < LEDGER_STAGES_MAX);
    struct stage *stage = &ledger->stages[ledger->n_stages++];
    (void)snprintf(stage->name, sizeof stage->name, "%s", name);
    stage->row = row_find(name);
    return stage;
}

struct ledger *ledger_new(const struct ledger_config *config)
{
    struct ledger *ledger = heap_new(1, sizeof *ledger);
    size_t n = config->requests_max;

    assert(n > 0 && n <= 1U << 20);
    assert(config->beat_interval_us > 0);
    assert(config->attempts_max > 0);
    ledger->config = *config;
    ledger->workers_us = INT64_MAX;
    ledger->supervisor = NO_PEER;
    ledger->now_us = INT64_MIN;
    for (size_t p = 0; p < config->n_pipelines; p++)
        for (size_t i = 0; i < config->pipelines[p].n_stages; i++)
            ledger->lines[p][i] = stage_of(ledger, config->pipelines[p].stages[i]);
    ledger->requests = heap_array(struct request, n);
    ledger->heap = heap_array(struct request *, n);
    ledger->tenant_queues = heap_array(struct tenant_queue, 2 * n);
    ledger->n_chains = 16;
    while (ledger->n_chains < 2 * n)
        ledger->n_chains *= 2;
    ledger->chains = heap_array(struct request *, ledger->n_chains);
    for (size_t i = n; i-- > 0;) {
        ledger->requests[i].next = ledger->free_requests;
        ledger->free_requests = &ledger->requests[i];
    }
    for (size_t i = 2 * n; i-- > 0;) {
        ledger->tenant_queues[i].next = ledger->free_tenant_queues;
        ledger->free_tenant_queues = &ledger->tenant_queues[i];
    }
    return ledger;
}

void ledger_free(struct ledger *ledger)
{
    if (!ledger)
        return;
    struct ledger_actions out = {0}; /* cancels that nobody sends */
    ledger->out = &out;
    while (ledger->n_requests > 0)
        request_drop(ledger, ledger->heap[0]);
    ledger_actions_clear(&out);
    heap_free(ledger->requests);
    heap_free((void *)ledger->heap);
    heap_free((void *)ledger->chains);
    heap_free(ledger->tenant_queues);
    heap_free(ledger);
}

/* --- the step --- */

static void event_drain(struct ledger *ledger, const struct ledger_event *event)
{
    (void)event;
    ledger->draining = true;
}

static void event_tick(struct ledger *ledger, const struct ledger_event *event)
{
    (void)ledger;
    (void)event;
}

typedef void event_handler(struct ledger *ledger, const struct ledger_event *event);
static event_handler *const handlers[] = {
    [EVENT_REQUEST] = requests_admit,
    [EVENT_MESSAGE] = workers_message,
    [EVENT_WORKER_GONE] = workers_gone,
    [EVENT_SEND_FAILED] = workers_send_failed,
    [EVENT_CLIENT_GONE] = requests_client_gone,
    [EVENT_CLIENT_UNSENT] = stream_unsent,
    [EVENT_DRAIN] = event_drain,
    [EVENT_TICK] = event_tick,
};

void ledger_step(struct ledger *ledger, const struct ledger_event *event, int64_t now_us,
                 struct ledger_actions *out)
{
    assert(now_us >= ledger->now_us);
    assert((size_t)event->kind < sizeof handlers / sizeof handlers[0]);
    ledger->now_us = now_us;
    ledger->out = out;
    /* Due things first: an answer that comes after its deadline is late, however it is ordered. */
    while (ledger->n_requests > 0 && ledger->heap[0]->wake_us <= now_us)
        request_wake(ledger, ledger->heap[0]);
    if (ledger->workers_us <= now_us)
        workers_timers(ledger);
    handlers[event->kind](ledger, event);
    for (size_t i = 0; i < ledger->n_stages; i++)
        if (ledger->stages[i].dirty)
            stage_dispatch(ledger, &ledger->stages[i]);
    ledger->out = NULL;
}

int64_t ledger_next_us(const struct ledger *ledger)
{
    int64_t next = ledger->workers_us;

    return ledger->n_requests > 0 ? min_us(next, ledger->heap[0]->wake_us) : next;
}

void ledger_counts(const struct ledger *ledger, struct ledger_counts *out)
{
    *out = (struct ledger_counts){.requests = ledger->n_requests,
                                  .workers = ledger->n_workers,
                                  .reserved_bytes = ledger->reserved_bytes};
    for (size_t i = 0; i < ledger->n_stages; i++)
        out->waiting += ledger->stages[i].n_waiting;
}

bool ledger_ready(const struct ledger *ledger, uint32_t pipeline, const char **out_missing)
{
    assert(pipeline < ledger->config.n_pipelines);
    for (size_t i = 0; i < ledger->config.pipelines[pipeline].n_stages; i++) {
        const struct stage *stage = ledger->lines[pipeline][i];
        size_t k = 0;
        while (k < stage->n_workers && !worker_live(stage->workers[k]))
            k++;
        if (k == stage->n_workers) {
            *out_missing = stage->name;
            return false;
        }
    }
    return true;
}
