/* A request as a whole: let in, moved from stage to stage, woken when something is due, ended. */
#include "engine/base/heap.h"
#include "gateway/ledger_private.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define RETRY_S_MAX 60

/* --- in --- */

/* Seconds until the line has likely taken up what waits now. */
static int64_t retry_after_s(const struct ledger *ledger)
{
    int64_t waiting = 1;

    for (size_t i = 0; i < ledger->n_stages; i++)
        waiting += (int64_t)ledger->stages[i].n_waiting;
    int64_t seconds = waiting * ledger->gap_us / 1000000 + 1;
    return seconds < RETRY_S_MAX ? seconds : RETRY_S_MAX;
}

static void refuse(struct ledger *ledger, struct rid rid, enum status_code code, const char *text)
{
    struct ledger_action *action = action_add(ledger, ACTION_END, NULL);

    action->rid = rid;
    action->code = code;
    (void)snprintf(action->text, sizeof action->text, "%s", text);
    if (code == STATUS_BUSY || code == STATUS_UNAVAILABLE)
        action->retry_after_s = retry_after_s(ledger);
}

static bool is_poison(const struct ledger *ledger, uint64_t hash)
{
    for (size_t i = 0; i < POISON_MAX && hash != 0; i++)
        if (ledger->poison[i].hash == hash && ledger->poison[i].until_us > ledger->now_us)
            return true;
    return false;
}

void requests_admit(struct ledger *ledger, const struct ledger_event *event)
{
    assert(event->pipeline < ledger->config.n_pipelines);
    assert(!request_find(ledger, event->rid));
    if (ledger->draining) {
        refuse(ledger, event->rid, STATUS_UNAVAILABLE, "shutting down");
        return;
    }
    if (is_poison(ledger, event->input_hash)) {
        refuse(ledger, event->rid, STATUS_POISON, "this input has ended processes before");
        return;
    }
    if (event->head->n_blobs > LEDGER_BLOBS_MAX) {
        refuse(ledger, event->rid, STATUS_LIMIT, "too many parts");
        return;
    }
    if (ledger->n_requests == ledger->config.requests_max) {
        refuse(ledger, event->rid, STATUS_BUSY, "too many requests are waiting");
        return;
    }
    struct request *request = request_take(ledger, event->rid);
    request->pipeline = event->pipeline;
    request->tenant = event->tenant;
    request->batch_class = event->batch_class;
    request->deadline_us = event->deadline_us;
    request->work = event->work;
    request->input_hash = event->input_hash;
    request->tokens_max = event->tokens_max ? event->tokens_max : LEDGER_TOKENS_MAX;
    request->parameters = blob_copy(event->head->fields.data, event->head->fields.size);
    if (!bag_fill(ledger, request, event)) {
        request_drop(ledger, request);
        refuse(ledger, event->rid, STATUS_BUSY, "the requests held now fill the memory");
        return;
    }
    request_schedule(ledger, request);
    if (request->deadline_us <= ledger->now_us)
        request_end(ledger, request, STATUS_DEADLINE, "no time was left");
    else
        request_to_stage(ledger, request, 0);
}

/* --- on --- */

/* Take up the stage at `position` of the pipeline, or the next that is not passed over. */
void request_to_stage(struct ledger *ledger, struct request *request, size_t position)
{
    struct stage *const *line = ledger->lines[request->pipeline];
    struct stage *stage = line[position];

    assert(request->life == LIFE_STAGE);
    while (stage->row->only_with[0] && !bag_has(request, stage->row->only_with)) {
        /* The last stage of a pipeline is never passed over. */
        assert(position + 1 < ledger->config.pipelines[request->pipeline].n_stages);
        stage = line[++position];
    }
    request->position = position;
    job_begin(ledger, &request->jobs[0], stage);
}

/* --- out --- */

/* Stop its jobs and let go of all that it holds. */
void request_drop(struct ledger *ledger, struct request *request)
{
    for (size_t i = 0; i < 2; i++)
        job_stop(ledger, &request->jobs[i]);
    bag_clear(ledger, request);
    blob_drop(request->parameters);
    stream_clear(request);
    if (ledger->end_us > 0) {
        int64_t gap_us = ledger->now_us - ledger->end_us;
        ledger->gap_us += (gap_us - ledger->gap_us) / 8;
    }
    ledger->end_us = ledger->now_us;
    request_give(ledger, request);
}

void request_end(struct ledger *ledger, struct request *request, enum status_code code,
                 const char *format, ...)
{
    struct ledger_action *action = action_add(ledger, ACTION_END, request);
    va_list values;

    action->code = code;
    va_start(values, format);
    (void)vsnprintf(action->text, sizeof action->text, format, values);
    va_end(values);
    if (code == STATUS_BUSY || code == STATUS_UNAVAILABLE)
        action->retry_after_s = retry_after_s(ledger);
    request_drop(ledger, request);
}

void requests_client_gone(struct ledger *ledger, const struct ledger_event *event)
{
    struct request *request = request_find(ledger, event->rid);

    if (request) /* else it has just ended */
        request_drop(ledger, request);
}

/* --- when its time has come --- */

static bool has_live_worker(const struct stage *stage)
{
    for (size_t i = 0; i < stage->n_workers; i++)
        if (worker_live(stage->workers[i]))
            return true;
    return false;
}

static void end_late(struct ledger *ledger, struct request *request)
{
    for (size_t i = 0; i < 2; i++) {
        const struct job *job = &request->jobs[i];
        if (job->state == JOB_WAITING && !has_live_worker(job->stage)) {
            request_end(ledger, request, STATUS_UNAVAILABLE, "no '%s' process is there",
                        job->stage->name);
            return;
        }
    }
    request_end(ledger, request, STATUS_DEADLINE, "the time allowed is over");
}

/* A broken stream waits for its numerics. The worker that had them is likely being restarted; if
 * only others are there after a while, it ends with an error rather than in other words. */
static bool is_stranded(const struct ledger *ledger, struct job *job)
{
    if (job->state != JOB_WAITING || job->request->n_emitted == 0 ||
        job->waiting_us + ledger->config.resume_wait_us > ledger->now_us)
        return false;
    job->waiting_us = ledger->now_us;
    for (size_t i = 0; i < job->stage->n_workers; i++)
        if (worker_fits(ledger, job->stage->workers[i], job))
            return false;
    return has_live_worker(job->stage);
}

void request_wake(struct ledger *ledger, struct request *request)
{
    if (request->deadline_us <= ledger->now_us) {
        end_late(ledger, request);
        return;
    }
    if (request->paused && request->paused_us + ledger->config.pause_max_us <= ledger->now_us) {
        request_end(ledger, request, STATUS_CANCELLED, "the client reads too slowly");
        return;
    }
    if (is_stranded(ledger, &request->jobs[0])) {
        request_end(ledger, request, STATUS_UNAVAILABLE,
                    "no process is left that would go on with the same words");
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        struct job *job = &request->jobs[i];
        if (job->state == JOB_LATER && job->later_us <= ledger->now_us)
            job_enqueue(ledger, job);
    }
    request_schedule(ledger, request);
}
