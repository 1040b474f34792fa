/* Who goes out next, and to which worker: suspects, then what was sent before, then newcomers by
 * class and by deficit round robin over tenants. */
#include "gateway/ledger_private.h"
#include <assert.h>
#include <string.h>

#define QUANTUM 1024U       /* units of work a tenant gets in a round */
#define COST_MAX (1U << 24) /* of one job */

void list_append(struct job_list *list, struct job *job)
{
    assert(!job->list);
    job->list = list;
    job->prev = list->last;
    job->next = NULL;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
    list->n++;
}

void list_prepend(struct job_list *list, struct job *job)
{
    assert(!job->list);
    job->list = list;
    job->prev = NULL;
    job->next = list->first;
    if (list->first)
        list->first->prev = job;
    else
        list->last = job;
    list->first = job;
    list->n++;
}

void list_remove(struct job *job)
{
    struct job_list *list = job->list;

    assert(list && list->n > 0);
    if (job->prev)
        job->prev->next = job->next;
    else
        list->first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        list->last = job->prev;
    list->n--;
    job->list = NULL;
    job->prev = job->next = NULL;
}

/* --- newcomers: one ring of tenants for each stage and class --- */

static struct tenant_queue *tenant_join(struct ledger *ledger, struct tenant_queue **ring,
                                        uint64_t tenant)
{
    struct tenant_queue *turn = *ring;
    struct tenant_queue *queue = turn;

    if (turn)
        do {
            if (queue->tenant == tenant)
                return queue;
            queue = queue->next;
        } while (queue != turn);
    queue = ledger->free_tenant_queues;
    assert(queue); /* two for each request: one for each of its jobs */
    ledger->free_tenant_queues = queue->next;
    *queue = (struct tenant_queue){.tenant = tenant};
    if (!turn) {
        queue->prev = queue->next = queue;
        *ring = queue;
        return queue;
    }
    queue->next = turn; /* behind everybody: last before whose turn it is */
    queue->prev = turn->prev;
    turn->prev->next = queue;
    turn->prev = queue;
    return queue;
}

/* An empty queue leaves, and its deficit with it: nobody saves up turns by having nothing to do. */
static void tenant_leave(struct ledger *ledger, struct tenant_queue **ring,
                         struct tenant_queue *queue)
{
    if (*ring == queue)
        *ring = queue->next == queue ? NULL : queue->next;
    queue->prev->next = queue->next;
    queue->next->prev = queue->prev;
    *queue = (struct tenant_queue){.next = ledger->free_tenant_queues};
    ledger->free_tenant_queues = queue;
}

static uint64_t job_cost(const struct job *job)
{
    uint64_t work = job->request->work;

    return work < 1 ? 1 : work > COST_MAX ? COST_MAX : work;
}

/* Whose job is next. Each tenant gets a quantum when its turn comes and keeps the turn as long as
 * what it has covers its first job. */
static struct job *ring_next(struct tenant_queue **ring)
{
    for (;;) {
        struct tenant_queue *first = *ring;
        uint64_t rounds = UINT64_MAX; /* that nobody could use */

        do {
            struct tenant_queue *queue = *ring;
            uint64_t cost = job_cost(queue->jobs.first);
            if (!queue->visited)
                queue->deficit += QUANTUM;
            queue->visited = true;
            if (queue->deficit >= cost)
                return queue->jobs.first;
            uint64_t needed = (cost - queue->deficit + QUANTUM - 1) / QUANTUM;
            rounds = needed < rounds ? needed : rounds;
            queue->visited = false;
            *ring = queue->next;
        } while (*ring != first);
        /* A large job would cost thousands of rounds; all but the last are the same for all. */
        struct tenant_queue *queue = first;
        do {
            queue->deficit += (rounds - 1) * QUANTUM;
            queue = queue->next;
        } while (queue != first);
    }
}

/* --- in and out --- */

static struct tenant_queue **ring_of(const struct job *job)
{
    return &job->stage->rings[job->request->batch_class ? 1 : 0];
}

void job_enqueue(struct ledger *ledger, struct job *job)
{
    struct stage *stage = job->stage;

    assert(job->state == JOB_NONE || job->state == JOB_LATER);
    job->state = JOB_WAITING;
    job->waiting_us = ledger->now_us;
    if (job->suspicion == ALONE)
        list_prepend(&stage->suspects, job); /* an emptied worker is rare: use it first */
    else if (job->suspicion == SUSPECT)
        list_append(&stage->suspects, job);
    else if (job->again)
        list_append(&stage->again, job);
    else
        list_append(&tenant_join(ledger, ring_of(job), job->request->tenant)->jobs, job);
    stage->n_waiting++;
    stage->dirty = true;
    request_schedule(ledger, job->request);
}

/* A newcomer's queue is found by its list: the list is the queue's member. */
static struct tenant_queue *queue_of(const struct job *job)
{
    struct tenant_queue *queue = *ring_of(job);

    while (&queue->jobs != job->list)
        queue = queue->next;
    return queue;
}

void job_dequeue(struct ledger *ledger, struct job *job)
{
    if (job->state == JOB_WAITING) {
        struct stage *stage = job->stage;
        struct tenant_queue *queue = NULL;

        if (job->list != &stage->suspects && job->list != &stage->again)
            queue = queue_of(job);
        list_remove(job);
        if (queue && queue->jobs.n == 0)
            tenant_leave(ledger, ring_of(job), queue);
        stage->n_waiting--;
        stage->dirty = true; /* a suspect that leaves lets others go */
    }
    job->state = JOB_NONE;
}

/* --- workers --- */

bool worker_live(const struct worker *worker)
{
    return !worker->quiet && !worker->unreachable && !worker->draining;
}

/* A stream that has begun goes on only where its next token would be the same. */
bool worker_fits(const struct ledger *ledger, const struct worker *worker, const struct job *job)
{
    const struct request *request = job->request;

    if (job->stage->row->flow != FLOW_TOKENS || request->n_emitted == 0 ||
        ledger->config.resume_any)
        return true;
    return strcmp(worker->numerics, request->numerics) == 0;
}

bool worker_open(const struct ledger *ledger, const struct worker *worker, const struct job *job)
{
    if (!worker_live(worker) || worker->credit == 0 || worker->probe)
        return false;
    if (job->suspicion == ALONE && worker->held.n + worker->ghosts > 0)
        return false;
    return worker_fits(ledger, worker, job);
}

/* The open worker that holds least; one that refused this job only if there is no other. */
static struct worker *choose(const struct ledger *ledger, const struct job *job,
                             const struct worker *reserved)
{
    struct worker *best = NULL;
    size_t best_held = 0;

    for (size_t i = 0; i < job->stage->n_workers; i++) {
        struct worker *worker = job->stage->workers[i];
        size_t held = worker->held.n;

        if (worker == reserved || !worker_open(ledger, worker, job))
            continue;
        if (job->refusals > 0 && worker->start == job->avoid_start)
            held += LEDGER_WORKERS_MAX * (size_t)UINT16_MAX;
        if (!best || held < best_held) {
            best = worker;
            best_held = held;
        }
    }
    return best;
}

/* The worker that is let run empty for a suspect that must be alone. */
static const struct worker *reserve(const struct ledger *ledger, const struct job *job)
{
    const struct worker *best = NULL;

    for (size_t i = 0; i < job->stage->n_workers; i++) {
        const struct worker *worker = job->stage->workers[i];
        if (worker_live(worker) && worker_fits(ledger, worker, job) &&
            (!best || worker->held.n < best->held.n))
            best = worker;
    }
    return best;
}

static void send_from(struct ledger *ledger, const struct job_list *list,
                      const struct worker **reserved)
{
    struct job *next = NULL;

    for (struct job *job = list->first; job; job = next) {
        next = job->next;
        struct worker *worker = choose(ledger, job, *reserved);
        if (worker)
            job_send(ledger, job, worker);
        else if (job->suspicion == ALONE && !*reserved)
            *reserved = reserve(ledger, job);
    }
}

static void send_newcomers(struct ledger *ledger, struct tenant_queue **ring,
                           const struct worker *reserved)
{
    while (*ring) {
        /* Newcomers fit anywhere, so whether one may go does not depend on which. */
        struct worker *worker = choose(ledger, (*ring)->jobs.first, reserved);
        if (!worker)
            return;
        struct job *job = ring_next(ring);
        (*ring)->deficit -= job_cost(job);
        job_send(ledger, job, worker);
    }
}

void stage_dispatch(struct ledger *ledger, struct stage *stage)
{
    const struct worker *reserved = NULL;

    if (stage->n_waiting > 0 && stage->n_workers > 0) {
        send_from(ledger, &stage->suspects, &reserved);
        send_from(ledger, &stage->again, &reserved);
        send_newcomers(ledger, &stage->rings[0], reserved);
        send_newcomers(ledger, &stage->rings[1], reserved);
    }
    stage->dirty = false; /* what was sent has set it */
}
