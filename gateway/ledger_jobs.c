/* A job: sent, answered, failed, orphaned by the end of its worker, sent again. */
#include "engine/base/heap.h"
#include "gateway/ledger_private.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MS_LEFT_MAX 2592000000 /* thirty days: who sets no deadline still gets one */
#define LATER_US_MIN 50000
#define LATER_US_MAX 1000000

/* --- out and back --- */

void job_begin(struct ledger *ledger, struct job *job, struct stage *stage)
{
    assert(job->state == JOB_NONE);
    *job = (struct job){.request = job->request, .stage = stage};
    job_enqueue(ledger, job);
}

void job_send(struct ledger *ledger, struct job *job, struct worker *worker)
{
    struct request *request = job->request;
    const char *const *takes = job->stage->row->takes;

    assert(worker->credit > 0 && !worker->probe);
    job_dequeue(ledger, job);
    worker_expect(ledger, worker);
    job->state = JOB_HELD;
    job->worker = worker;
    job->epoch = ++request->epoch;
    job->seq = 0;
    job->again = true;
    list_append(&worker->held, job);
    worker->credit--;
    worker->probe = job->suspicion == CLEAR ? NULL : job;

    struct msg *msg = action_send(ledger, worker->peer, MSG_JOB);
    int64_t ms_left = (request->deadline_us - ledger->now_us) / 1000;
    msg->head.rid = request->rid;
    msg->head.epoch = job->epoch;
    msg->head.tenant = request->tenant;
    msg->head.ms_left = ms_left < 1 ? 1 : ms_left < MS_LEFT_MAX ? ms_left : MS_LEFT_MAX;
    msg->frame = blob_keep(request->parameters);
    msg->head.fields = span_of(blob_data(msg->frame), blob_size(msg->frame));
    for (size_t i = 0; i < request->n_bag; i++) {
        const struct blob_desc *desc = &request->bag[i].desc;
        if (row_lists(takes, desc->name))
            msg_add_take(msg, desc->name, desc->type, desc->dims, desc->n_dims,
                         blob_keep(request->bag[i].blob));
    }
    stream_job(ledger, job, msg);
    request_schedule(ledger, request);
}

void job_release(struct job *job)
{
    assert(job->state == JOB_HELD);
    list_remove(job);
    if (job->worker->probe == job)
        job->worker->probe = NULL;
    job->worker = NULL;
    job->state = JOB_NONE;
    job->stage->dirty = true;
}

void job_cancel(struct ledger *ledger, uint32_t peer, struct rid rid, uint32_t epoch)
{
    struct msg *msg = action_send(ledger, peer, MSG_CANCEL);

    msg->head.rid = rid;
    msg->head.epoch = epoch;
}

void job_stop(struct ledger *ledger, struct job *job)
{
    if (job->state == JOB_HELD) {
        job_cancel(ledger, job->worker->peer, job->request->rid, job->epoch);
        worker_expect(ledger, job->worker);
        job->worker->ghosts++;
        job_release(job);
    } else if (job->state != JOB_NONE) {
        job_dequeue(ledger, job);
    }
}

/* It has come further than where its worker ended: it was not it. */
void job_passed(struct ledger *ledger, struct job *job)
{
    (void)ledger;
    if (job->suspicion == CLEAR)
        return;
    job->suspicion = CLEAR;
    job->request->deaths = 0;
    if (job->state == JOB_HELD && job->worker->probe == job)
        job->worker->probe = NULL;
    job->stage->dirty = true;
}

/* --- the worker has ended --- */

static void remember_poison(struct ledger *ledger, uint64_t hash)
{
    if (hash == 0)
        return;
    ledger->poison[ledger->poison_next].hash = hash;
    ledger->poison[ledger->poison_next].until_us = ledger->now_us + ledger->config.poison_us;
    ledger->poison_next = (ledger->poison_next + 1) % POISON_MAX;
}

/* alone: the worker held this job and nothing else. The list of the last beat's running step is not
 * enough to say so: a step may have changed since. probe: it was the suspect there. */
void job_orphaned(struct ledger *ledger, struct job *job, enum worker_end how, bool alone,
                  bool probe)
{
    struct request *request = job->request;

    job_release(job);
    request->resends++;
    if (how == END_DIED && alone) {
        request->deaths++;
        request->charges++;
        if (request->deaths >= ledger->config.attempts_max || request->charges >= CHARGES_MAX) {
            remember_poison(ledger, request->input_hash);
            request_end(ledger, request, STATUS_POISON,
                        "it has ended a '%s' process %u times while alone in it", job->stage->name,
                        request->charges);
            return;
        }
    }
    if (request->resends > RESENDS_MAX) {
        request_end(ledger, request, STATUS_INTERNAL, "%u processes have ended under it",
                    request->resends);
        return;
    }
    if (how != END_LEFT) {
        job->suspicion = alone || probe ? ALONE : SUSPECT;
        job->point = job->stage->row->flow == FLOW_BYTES ? request->forwarded : request->n_emitted;
        job->point_last = job->stage->row->flow == FLOW_BYTES && request->last_forwarded;
    }
    job_enqueue(ledger, job);
}

/* --- the worker's answers --- */

static void job_failed(struct ledger *ledger, struct job *job, const char *text)
{
    if (++job->failures >= ledger->config.attempts_max)
        request_end(ledger, job->request, STATUS_INTERNAL, "%s: %s", job->stage->name, text);
    else
        job_enqueue(ledger, job);
}

void job_bad(struct ledger *ledger, struct job *job, const char *format, ...)
{
    char text[200];
    va_list values;

    va_start(values, format);
    (void)vsnprintf(text, sizeof text, format, values);
    va_end(values);
    job_passed(ledger, job);
    job_stop(ledger, job);
    job_failed(ledger, job, text);
}

static void whole_result(struct ledger *ledger, struct job *job, const struct ledger_event *event)
{
    struct request *request = job->request;
    const struct head *head = event->head;
    size_t n_stages = ledger->config.pipelines[request->pipeline].n_stages;
    struct status st = {0};
    size_t answer = 0;

    if (!head->last) {
        job_bad(ledger, job, "a result that is not the last");
        return;
    }
    if (request->position + 1 == n_stages) {
        while (answer < head->n_blobs && strcmp(head->blobs[answer].name, "bytes") != 0)
            answer++;
        if (answer == head->n_blobs) {
            job_bad(ledger, job, "needs one blob 'bytes'");
            return;
        }
        job_release(job);
        struct ledger_action *action = action_add(ledger, ACTION_BYTES, request);
        action->bytes = blob_keep(event->blobs[answer]);
        action->last = true;
        request_drop(ledger, request);
        return;
    }
    if (!bag_result(ledger, job, event, &st)) {
        if (st.code == STATUS_LIMIT)
            request_end(ledger, request, STATUS_LIMIT, "%s", st.text);
        else
            job_bad(ledger, job, "%s", st.text);
        return;
    }
    job_release(job);
    request_to_stage(ledger, request, request->position + 1);
}

static void failed(struct ledger *ledger, struct job *job, const struct head *head)
{
    struct request *request = job->request;
    enum status_code code = head->code;
    uint64_t start = job->worker->start;

    job_passed(ledger, job); /* the worker has survived it */
    job_release(job);
    if (code <= STATUS_OK || code >= STATUS_CODES)
        code = STATUS_INTERNAL;
    if (head->fault == FAULT_REQUEST) {
        request_end(ledger, request, code, "%s", head->text);
    } else if (head->fault == FAULT_CAPACITY) {
        if (++job->refusals > REFUSALS_MAX) {
            request_end(ledger, request, STATUS_BUSY, "%s: %s", job->stage->name, head->text);
            return;
        }
        int64_t wait_us = (int64_t)LATER_US_MIN << (job->refusals < 6 ? job->refusals - 1 : 5);
        job->avoid_start = start;
        job->state = JOB_LATER;
        job->later_us = ledger->now_us + (wait_us < LATER_US_MAX ? wait_us : LATER_US_MAX);
        request_schedule(ledger, request);
    } else {
        job_failed(ledger, job, head->text);
    }
}

/* A request's life: what a result means depends on how far it is. Nothing: cannot happen, for the
 * job would not be held. */
typedef void result_handler(struct ledger *ledger, struct job *job,
                            const struct ledger_event *event);
// clang-format off
static result_handler *const results[LIVES][FLOWS] = {
    /*                whole         tokens         bytes */
    [LIFE_STAGE]  = { whole_result, stream_tokens, NULL },
    [LIFE_STREAM] = { NULL,         stream_tokens, stream_bytes },
    [LIFE_TAIL]   = { NULL,         NULL,          stream_bytes },
};
// clang-format on

static struct job *find_job(const struct ledger *ledger, const struct worker *worker,
                            const struct head *head)
{
    struct request *request = request_find(ledger, head->rid);

    for (size_t i = 0; request && i < 2; i++) {
        struct job *job = &request->jobs[i];
        if (job->state == JOB_HELD && job->worker == worker && job->epoch == head->epoch)
            return job;
    }
    return NULL;
}

void job_message(struct ledger *ledger, struct worker *worker, const struct ledger_event *event)
{
    const struct head *head = event->head;
    struct job *job = find_job(ledger, worker, head);

    if (!job) {
        /* Late. If it goes on, the cancel was lost. */
        if (head->kind == MSG_RESULT && !head->last)
            job_cancel(ledger, worker->peer, head->rid, head->epoch);
        return;
    }
    if (head->kind == MSG_FAILED) {
        failed(ledger, job, head);
        return;
    }
    if (head->seq != job->seq) {
        job_bad(ledger, job, "result %u; %u was expected", head->seq, job->seq);
        return;
    }
    result_handler *handler = results[job->request->life][job->stage->row->flow];
    assert(handler);
    handler(ledger, job, event);
}

/* Nobody's fault. A job that never arrived takes no room there; one that misses a piece of its
 * input must begin again. */
void job_undelivered(struct ledger *ledger, struct worker *worker, const struct head *head)
{
    struct job *job = find_job(ledger, worker, head);

    if (!job)
        return;
    if (head->kind == MSG_JOB) {
        job_release(job);
        worker->credit++;
    } else {
        job_stop(ledger, job);
    }
    job_enqueue(ledger, job);
}
