/* Every invariant of the ledger, for tests: after each step all of them hold. */
#include "gateway/ledger_private.h"
#include <inttypes.h>
#include <string.h>

static bool broken(struct status *st, const char *what)
{
    return status_fail(st, STATUS_INTERNAL, "ledger: %s", what);
}

static bool check_list(const struct job_list *list, struct status *st)
{
    const struct job *before = NULL;
    size_t n = 0;

    for (const struct job *job = list->first; job; before = job, job = job->next) {
        if (job->list != list || job->prev != before)
            return broken(st, "a list is not linked both ways");
        n++;
    }
    if (n != list->n || list->last != before)
        return broken(st, "a list's count or end is wrong");
    return true;
}

static bool check_job(const struct ledger *ledger, const struct job *job, struct status *st)
{
    const struct worker *worker = job->worker;

    if ((job->state == JOB_HELD) != (worker != NULL))
        return broken(st, "a job is held by nobody, or has a worker and is not held");
    if ((job->list != NULL) != (job->state == JOB_HELD || job->state == JOB_WAITING))
        return broken(st, "a job is in a list, or in none, against its state");
    if (job->state == JOB_NONE)
        return true;
    if (job->state == JOB_HELD) {
        if (!worker->used || job->list != &worker->held || worker->stage != job->stage)
            return broken(st, "a job is held by a worker that does not know it");
        if (job->suspicion != CLEAR && worker->probe != job)
            return broken(st, "a suspect is held as if it were none");
    }
    if (job->state == JOB_WAITING && job->suspicion != CLEAR && job->list != &job->stage->suspects)
        return broken(st, "a suspect waits among others");
    if (job->epoch > job->request->epoch)
        return broken(st, "an epoch that was never given");
    (void)ledger;
    return true;
}

/* Which jobs there are is a function of how far the request is. */
static bool check_life(const struct request *request, struct status *st)
{
    bool front = request->jobs[0].state != JOB_NONE;
    bool back = request->jobs[1].state != JOB_NONE;

    switch (request->life) {
    case LIFE_STAGE:
        return (front && !back && request->n_emitted == 0 && !request->bytes_sent) ||
               broken(st, "before the stream: one job, no tokens, no bytes");
    case LIFE_STREAM:
        return (front && back && request->n_emitted > 0 && !request->final) ||
               broken(st, "in the stream: two jobs, and tokens");
    case LIFE_TAIL:
        return (!front && back && request->final) || broken(st, "in the tail: one job, the last");
    default:
        return broken(st, "a life that is none");
    }
}

static bool check_request(const struct ledger *ledger, const struct request *request,
                          uint64_t *reserved_bytes, struct status *st)
{
    uint64_t bytes = 0;

    if (!request->used || request_find(ledger, request->rid) != request)
        return broken(st, "a request is not found by its id");
    if (ledger->heap[request->heap_place] != request)
        return broken(st, "a request is not where the heap has it");
    if (request->upto > request->forwarded || request->forwarded > request->n_emitted ||
        request->n_emitted > request->tokens_max)
        return broken(st, "upto <= forwarded <= emitted <= allowed does not hold");
    if (request->deadline_us < request->wake_us)
        return broken(st, "a request sleeps past its deadline");
    for (size_t i = 0; i < request->n_bag; i++)
        bytes += blob_size(request->bag[i].blob);
    if (bytes != request->bag_bytes)
        return broken(st, "a bag's bytes do not add up");
    *reserved_bytes += bytes > request->reserve_bytes ? bytes : request->reserve_bytes;
    for (size_t i = 0; i < 2; i++)
        if (request->jobs[i].request != request || !check_job(ledger, &request->jobs[i], st))
            return st->code != STATUS_OK ? false : broken(st, "a job is of another request");
    return check_life(request, st);
}

static bool check_requests(const struct ledger *ledger, struct status *st)
{
    uint64_t reserved_bytes = 0;
    size_t used = 0;

    for (size_t i = 0; i < ledger->config.requests_max; i++)
        used += ledger->requests[i].used;
    if (used != ledger->n_requests)
        return broken(st, "requests are lost or counted twice");
    for (size_t i = 0; i < ledger->n_requests; i++) {
        if (i > 0 && ledger->heap[i]->wake_us < ledger->heap[(i - 1) / 2]->wake_us)
            return broken(st, "the heap is not in order");
        if (!check_request(ledger, ledger->heap[i], &reserved_bytes, st))
            return false;
    }
    if (reserved_bytes != ledger->reserved_bytes ||
        reserved_bytes > ledger->config.memory_max_bytes)
        return status_fail(st, STATUS_INTERNAL,
                           "ledger: %" PRIu64 " bytes reserved, %" PRIu64 " in the books",
                           reserved_bytes, ledger->reserved_bytes);
    return true;
}

static bool check_worker(const struct ledger *ledger, const struct worker *worker,
                         struct status *st)
{
    if (ledger->by_peer[worker->peer] != worker)
        return broken(st, "a worker is not found by its number");
    if (worker->credit + worker->held.n > worker->slots)
        return broken(st, "more was promised than a worker has slots");
    if (worker->probe && (worker->probe->worker != worker || worker->probe->suspicion == CLEAR))
        return broken(st, "a probe that is none");
    for (const struct job *job = worker->held.first; job; job = job->next)
        if (job->state != JOB_HELD || job->worker != worker)
            return broken(st, "a worker holds a job that is not its");
    return check_list(&worker->held, st);
}

static bool check_ring(const struct stage *stage, size_t class, size_t *waiting, struct status *st)
{
    const struct tenant_queue *turn = stage->rings[class];
    const struct tenant_queue *queue = turn;

    if (!turn)
        return true;
    do {
        if (queue->jobs.n == 0 || queue->next->prev != queue)
            return broken(st, "a tenant waits with nothing, or its ring is torn");
        for (const struct job *job = queue->jobs.first; job; job = job->next)
            if (job->state != JOB_WAITING || job->stage != stage || job->suspicion != CLEAR ||
                job->request->tenant != queue->tenant || job->request->batch_class != (class == 1))
                return broken(st, "a job waits in a queue that is not its");
        if (!check_list(&queue->jobs, st))
            return false;
        *waiting += queue->jobs.n;
        queue = queue->next;
    } while (queue != turn);
    return true;
}

static bool check_stage(const struct ledger *ledger, const struct stage *stage, struct status *st)
{
    size_t waiting = stage->suspects.n + stage->again.n;

    if (!check_list(&stage->suspects, st) || !check_list(&stage->again, st))
        return false;
    for (size_t class = 0; class < 2; class ++)
        if (!check_ring(stage, class, &waiting, st))
            return false;
    if (waiting != stage->n_waiting)
        return broken(st, "a stage's waiting jobs do not add up");
    if (stage->dirty)
        return broken(st, "a stage was not looked at");
    for (size_t i = 0; i < stage->n_workers; i++)
        if (stage->workers[i]->stage != stage || !check_worker(ledger, stage->workers[i], st))
            return st->code != STATUS_OK ? false : broken(st, "a worker is of another stage");
    /* Nobody waits while somebody could work. (A suspect may keep a worker free for itself.) */
    for (size_t class = 0; class < 2 && stage->suspects.n == 0; class ++)
        for (size_t i = 0; i < stage->n_workers && stage->rings[class]; i++)
            if (worker_open(ledger, stage->workers[i], stage->rings[class]->jobs.first))
                return broken(st, "a job waits beside an open worker");
    return true;
}

bool ledger_check(const struct ledger *ledger, struct status *st)
{
    size_t workers = 0;

    *st = (struct status){0};
    if (!check_requests(ledger, st))
        return false;
    for (size_t i = 0; i < ledger->n_stages; i++) {
        if (!check_stage(ledger, &ledger->stages[i], st))
            return false;
        workers += ledger->stages[i].n_workers;
    }
    return workers == ledger->n_workers || broken(st, "workers are lost or counted twice");
}
