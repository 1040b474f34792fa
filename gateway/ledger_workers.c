/* Workers: hello, credit, beat, silence, end. */
#include "gateway/ledger_private.h"
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void refuse(struct ledger *ledger, uint32_t peer, enum status_code code, const char *format,
                   ...) PRINTF_LIKE(4, 5);

static void forget(struct ledger *ledger, uint32_t peer)
{
    if (ledger->supervisor == peer)
        ledger->supervisor = NO_PEER;
    action_add(ledger, ACTION_FORGET, NULL)->worker = peer;
}

/* The number is let go of: whoever says hello again gets another. */
static void refuse(struct ledger *ledger, uint32_t peer, enum status_code code, const char *format,
                   ...)
{
    struct msg *msg = action_send(ledger, peer, MSG_REFUSE);
    va_list values;

    msg->head.code = code;
    va_start(values, format);
    (void)vsnprintf(msg->head.text, sizeof msg->head.text, format, values);
    va_end(values);
    forget(ledger, peer);
}

/* --- ends --- */

/* Its jobs go elsewhere; its number is the caller's to forget. */
static void worker_end(struct ledger *ledger, struct worker *worker, enum worker_end how)
{
    struct stage *stage = worker->stage;
    bool alone = worker->held.n == 1 && worker->ghosts == 0;
    const struct job *probe = worker->probe;
    size_t at = 0;

    while (stage->workers[at] != worker)
        at++;
    stage->n_workers--;
    for (; at < stage->n_workers; at++)
        stage->workers[at] = stage->workers[at + 1];
    ledger->by_peer[worker->peer] = NULL;
    ledger->n_workers--;
    while (worker->held.first) {
        struct job *job = worker->held.first;
        job_orphaned(ledger, job, how, alone, job == probe);
    }
    *worker = (struct worker){0};
}

static void ask_restart(struct ledger *ledger, const struct worker *worker)
{
    struct ledger_action *action = NULL;
    struct msg *msg = action_send(ledger, ledger->supervisor, MSG_GONE);

    action = &ledger->out->items[ledger->out->n - 1];
    action->kind = ACTION_RESTART;
    msg->head.start = worker->start;
    msg->head.code = STATUS_DEADLINE;
    memcpy(msg->head.seat, worker->seat, sizeof msg->head.seat);
}

void workers_gone(struct ledger *ledger, const struct ledger_event *event)
{
    struct worker *worker =
        event->worker < LEDGER_PEERS_MAX ? ledger->by_peer[event->worker] : NULL;

    if (worker)
        worker_end(ledger, worker, END_DIED);
    forget(ledger, event->worker);
}

static struct worker *find_seat(struct ledger *ledger, const char *seat)
{
    for (size_t i = 0; i < LEDGER_WORKERS_MAX; i++)
        if (ledger->workers[i].used && strcmp(ledger->workers[i].seat, seat) == 0)
            return &ledger->workers[i];
    return NULL;
}

/* The one before has ended, or is told to say hello when it speaks: its number is free, else those
 * who come and go as supervisors would use up all there are. */
static void take_supervisor(struct ledger *ledger, uint32_t peer)
{
    uint32_t old = ledger->supervisor;

    if (old == peer)
        return;
    if (old < LEDGER_PEERS_MAX && !ledger->by_peer[old])
        forget(ledger, old);
    ledger->supervisor = peer;
}

/* The supervisor has seen a process end. */
static void gone(struct ledger *ledger, const struct ledger_event *event)
{
    struct worker *worker = find_seat(ledger, event->head->seat);

    take_supervisor(ledger, event->worker);
    if (worker && worker->start == event->head->start) {
        uint32_t peer = worker->peer;
        worker_end(ledger, worker, END_DIED);
        forget(ledger, peer);
    }
}

/* --- hello --- */

static struct stage *find_stage(struct ledger *ledger, const char *name)
{
    for (size_t i = 0; i < ledger->n_stages; i++)
        if (strcmp(ledger->stages[i].name, name) == 0)
            return &ledger->stages[i];
    return NULL;
}

/* A worker that speaks with another vocabulary than those at work would give wrong words. Those
 * that drain do not count: so a new model can come up beside the old one. */
static const struct worker *find_other_model(const struct ledger *ledger, uint64_t model)
{
    for (size_t i = 0; model != 0 && i < LEDGER_WORKERS_MAX; i++) {
        const struct worker *worker = &ledger->workers[i];
        if (worker->used && !worker->draining && worker->model != 0 && worker->model != model)
            return worker;
    }
    return NULL;
}

/* Otherwise it is told why not. */
static bool hello_fits(struct ledger *ledger, uint32_t peer, const struct stage *stage,
                       const struct head *head)
{
    if (peer >= LEDGER_PEERS_MAX || ledger->n_workers == LEDGER_WORKERS_MAX) {
        refuse(ledger, peer, STATUS_BUSY, "more than %d workers", LEDGER_WORKERS_MAX);
    } else if (head->wire_min > WIRE_VERSION || head->wire_max < WIRE_VERSION) {
        refuse(ledger, peer, STATUS_UNSUPPORTED, "wire versions %u to %u; this gateway speaks %d",
               head->wire_min, head->wire_max, WIRE_VERSION);
    } else if (head->seat[0] == '\0') {
        refuse(ledger, peer, STATUS_INVALID, "hello without a seat");
    } else if (head->slots == 0 || head->slots > SLOTS_MAX) {
        refuse(ledger, peer, STATUS_INVALID, "%u slots; 1 to %d are possible", head->slots,
               SLOTS_MAX);
    } else if (!stage) {
        refuse(ledger, peer, STATUS_NOT_FOUND, "no pipeline has a stage '%s'", head->stage);
    } else {
        const struct worker *other = find_other_model(ledger, head->model);
        if (!other)
            return true;
        refuse(ledger, peer, STATUS_DENIED,
               "model %016" PRIx64 "; '%s' has model %016" PRIx64 ", and all must have the same",
               head->model, other->seat, other->model);
    }
    return false;
}

static void welcome(struct ledger *ledger, uint32_t peer)
{
    struct msg *msg = action_send(ledger, peer, MSG_WELCOME);

    msg->head.interval_ms = (uint32_t)(ledger->config.beat_interval_us / 1000);
}

/* A worker was just heard: its silence matters after so long, whatever was waited for before. */
static void look_after(struct ledger *ledger, struct worker *worker)
{
    int64_t due = ledger->now_us + QUIET_INTERVALS * ledger->config.beat_interval_us;

    worker->beat_us = ledger->now_us;
    ledger->workers_us = due < ledger->workers_us ? due : ledger->workers_us;
}

static void worker_join(struct ledger *ledger, uint32_t peer, struct stage *stage,
                        const struct head *head)
{
    struct worker *worker = ledger->workers;

    while (worker->used)
        worker++;
    *worker = (struct worker){.used = true,
                              .peer = peer,
                              .stage = stage,
                              .start = head->start,
                              .model = head->model,
                              .slots = head->slots,
                              .work_us = ledger->now_us};
    memcpy(worker->seat, head->seat, sizeof worker->seat);
    memcpy(worker->numerics, head->numerics, sizeof worker->numerics);
    ledger->by_peer[peer] = worker;
    ledger->n_workers++;
    stage->workers[stage->n_workers++] = worker;
    stage->dirty = true;
    look_after(ledger, worker);
}

static void hello(struct ledger *ledger, const struct ledger_event *event)
{
    const struct head *head = event->head;
    uint32_t peer = event->worker;

    if (strcmp(head->stage, LEDGER_SUPERVISOR) == 0) {
        take_supervisor(ledger, peer);
        welcome(ledger, peer);
        return;
    }
    /* The same peer again: it has forgotten what it held. The same seat with another start: the old
     * process has ended, whoever says so first. */
    if (peer < LEDGER_PEERS_MAX && ledger->by_peer[peer]) {
        struct worker *old = ledger->by_peer[peer];
        worker_end(ledger, old, old->start == head->start ? END_LEFT : END_DIED);
    }
    struct worker *old = find_seat(ledger, head->seat);
    if (old) {
        uint32_t old_peer = old->peer;
        worker_end(ledger, old, old->start == head->start ? END_LEFT : END_DIED);
        forget(ledger, old_peer);
    }
    struct stage *stage = find_stage(ledger, head->stage);
    if (hello_fits(ledger, peer, stage, head)) {
        worker_join(ledger, peer, stage, head);
        welcome(ledger, peer);
    }
}

/* --- credit, beat --- */

static void credit(struct worker *worker, const struct head *head)
{
    size_t room = worker->slots > worker->held.n ? worker->slots - worker->held.n : 0;
    uint64_t sum = (uint64_t)worker->credit + head->n;

    worker->credit = (uint32_t)(sum < room ? sum : room);
    worker->stage->dirty = true;
}

/* A job that gives no results would else be held for ever by a worker that was not told. */
static void cancel_again(struct ledger *ledger, struct worker *worker)
{
    size_t n = worker->n_cancels;

    worker->n_cancels = 0;
    for (size_t i = 0; i < n; i++)
        job_cancel(ledger, worker->peer, worker->cancels[i].rid, worker->cancels[i].epoch);
}

static void beat(struct ledger *ledger, struct worker *worker, const struct head *head)
{
    cancel_again(ledger, worker);
    if (worker->quiet || worker->unreachable)
        worker->stage->dirty = true;
    worker->quiet = worker->unreachable = false;
    look_after(ledger, worker);
    worker->memory_bytes = head->memory_bytes;
    if (head->work != worker->work) {
        worker->work = head->work;
        worker->work_us = ledger->now_us;
        worker->owes = false;
    }
    if (worker->ghosts > 0 && head->held <= worker->held.n) {
        worker->ghosts = 0;
        worker->stage->dirty = true;
    }
    /* Format works through what it is sent at once, before the next beat. It may have no bytes to
     * show for it, so that it still holds the job is the proof. */
    struct job *probe = worker->probe;
    if (probe && worker->stage->row->flow == FLOW_BYTES && !probe->point_last &&
        probe->request->forwarded >= probe->point && worker->ghosts == 0 &&
        head->held >= worker->held.n)
        job_passed(ledger, probe);
}

/* --- silence --- */

/* Whether its counter has to move. Format may hold streams and have nothing to do until infer gives
 * the next token; but not when it was just sent something, or has all of a stream. (The first alone
 * is not enough: a beat that was on its way when something was sent may look like the answer.) */
static bool is_working(const struct worker *worker)
{
    if (worker->ghosts > 0)
        return true; /* it has yet to let go of them */
    if (worker->stage->row->flow != FLOW_BYTES || worker->owes)
        return worker->held.n > 0;
    for (const struct job *job = worker->held.first; job; job = job->next)
        if (job->request->last_forwarded)
            return true;
    return false;
}

void worker_expect(const struct ledger *ledger, struct worker *worker)
{
    if (!is_working(worker))
        worker->work_us = ledger->now_us;
    worker->owes = true;
}

void workers_timers(struct ledger *ledger)
{
    int64_t now = ledger->now_us;
    int64_t quiet_us = QUIET_INTERVALS * ledger->config.beat_interval_us;
    int64_t gone_us = GONE_INTERVALS * ledger->config.beat_interval_us;

    ledger->workers_us = INT64_MAX;
    for (size_t i = 0; i < LEDGER_WORKERS_MAX; i++) {
        struct worker *worker = &ledger->workers[i];
        if (!worker->used)
            continue;
        /* A job may be given to it at any time before this scan comes again: soon enough, for what
         * it then owes is due only gone_us later. */
        if (worker->beat_us + gone_us <= now ||
            (is_working(worker) && worker->work_us + gone_us <= now)) {
            uint32_t peer = worker->peer;
            ask_restart(ledger, worker);
            worker_end(ledger, worker, END_LOST);
            forget(ledger, peer);
            continue;
        }
        worker->quiet = worker->beat_us + quiet_us <= now;
        int64_t due = worker->beat_us + (worker->quiet ? gone_us : quiet_us);
        if (is_working(worker) && worker->work_us + gone_us < due)
            due = worker->work_us + gone_us;
        ledger->workers_us = due < ledger->workers_us ? due : ledger->workers_us;
    }
}

/* --- messages --- */

void workers_send_failed(struct ledger *ledger, const struct ledger_event *event)
{
    struct worker *worker =
        event->worker < LEDGER_PEERS_MAX ? ledger->by_peer[event->worker] : NULL;

    assert(event->head);
    if (!worker) {
        if (event->worker == ledger->supervisor)
            forget(ledger, event->worker);
        return;
    }
    worker->unreachable = true; /* until it is heard again */
    if (event->head->kind == MSG_JOB || event->head->kind == MSG_MORE_INPUT) {
        job_undelivered(ledger, worker, event->head);
    } else if (event->head->kind == MSG_CANCEL && worker->n_cancels < CANCELS_MAX) {
        worker->cancels[worker->n_cancels].rid = event->head->rid;
        worker->cancels[worker->n_cancels++].epoch = event->head->epoch;
    }
}

void workers_message(struct ledger *ledger, const struct ledger_event *event)
{
    const struct head *head = event->head;
    struct worker *worker =
        event->worker < LEDGER_PEERS_MAX ? ledger->by_peer[event->worker] : NULL;

    if (head->kind == MSG_HELLO) {
        hello(ledger, event);
        return;
    }
    if (!worker) {
        if (head->kind == MSG_GONE)
            gone(ledger, event);
        else if (head->kind == MSG_BYE)
            forget(ledger, event->worker);
        else if (event->worker != ledger->supervisor)
            refuse(ledger, event->worker, STATUS_UNAVAILABLE, "say hello");
        return;
    }
    switch (head->kind) {
    case MSG_CREDIT:
        credit(worker, head);
        break;
    case MSG_RESULT:
    case MSG_FAILED:
        job_message(ledger, worker, event);
        break;
    case MSG_BEAT:
        beat(ledger, worker, head);
        break;
    case MSG_DRAIN:
        worker->draining = true;
        break;
    case MSG_BYE:
        worker_end(ledger, worker, END_LEFT);
        forget(ledger, event->worker);
        break;
    default: /* not a worker's to say */
        break;
    }
}
