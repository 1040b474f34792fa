#include "services/stage/outbox.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELLO_US 1000000   /* between two hellos while nobody answers */
#define PENDING_MAX 4096   /* results that wait for room; more: the gateway is as good as gone */
#define BEATS_LOST_MAX 10  /* so many intervals without a connection: its jobs are given up */
#define INTERVAL_US 200000 /* of beats, until welcome says */
/* Who works beats up to four times as often: a beat that is due in the middle of a step of 50 ms
 * would else come well after the interval. */
#define WORK_EARLY(interval_us) ((interval_us) / 4 * 3)

void outbox_init(struct outbox *box, const struct stage *stage)
{
    memset(box, 0, sizeof *box);
    box->stage = stage;
    box->end = &box->first;
    box->interval_us = INTERVAL_US;
    box->statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

void outbox_clear(struct outbox *box)
{
    if (box->statm >= 0)
        (void)close(box->statm);
    box->statm = -1;
}

bool outbox_welcomed(const struct outbox *box)
{
    return box->phase == PHASE_WORK || box->phase == PHASE_DRAINING;
}

/* ---- what goes out ---- */

static void clear_pending(struct outbox *box)
{
    while (box->first) {
        struct pending *item = box->first;
        box->first = item->next;
        msg_clear(&item->msg);
        heap_free(item);
    }
    box->end = &box->first;
    box->n_pending = 0;
}

void outbox_drop_jobs(struct outbox *box)
{
    for (size_t i = 0; i < SLOTS_MAX; i++) {
        struct held *job = &box->jobs[i];
        if (!job->used)
            continue;
        job->used = false; /* first: what cancel sends for it falls */
        if (box->stage->cancel)
            box->stage->cancel(box->self, job->rid, job->epoch);
    }
    box->n_held = 0;
    box->credit_owed = 0;
    clear_pending(box);
}

void outbox_lose_gateway(struct outbox *box, const char *why)
{
    log_warn("gateway lost", "why=%s jobs=%u", log_quoted(why).text, box->n_held);
    outbox_drop_jobs(box);
    if (box->phase == PHASE_DRAINING)
        box->phase = PHASE_OVER;
    else
        box->phase = PHASE_HELLO;
    box->connected_us = clock_now_us();
}

static bool send_now(struct outbox *box, struct msg *msg)
{
    struct status st = {0};

    enum msg_kind kind = msg->head.kind;
    if (link_send_take(box->link, msg, &st))
        return true;
    log_error("send failed", "kind=%s text=%s", msg_kind_name(kind), log_quoted(st.text).text);
    return false;
}

/* Send, or keep until there is room. Takes the message. */
static void post(struct outbox *box, struct msg *msg)
{
    if (!box->first && link_can_send(box->link)) {
        (void)send_now(box, msg);
        return;
    }
    struct pending *item = heap_new(1, sizeof *item);
    /* The stage's fields are valid during its call only. */
    if (msg->head.fields.size) {
        struct blob *fields = blob_copy(msg->head.fields.data, msg->head.fields.size);
        blob_drop(msg->frame);
        msg->frame = fields;
        msg->head.fields = span_of(blob_data(fields), blob_size(fields));
    }
    item->msg = *msg;
    memset(msg, 0, sizeof *msg);
    *box->end = item;
    box->end = &item->next;
    box->n_pending++;
}

static void send_pending(struct outbox *box)
{
    while (box->first && link_can_send(box->link)) {
        struct pending *item = box->first;
        box->first = item->next;
        if (!box->first)
            box->end = &box->first;
        box->n_pending--;
        (void)send_now(box, &item->msg);
        heap_free(item);
    }
}

uint64_t outbox_resident_bytes(const struct outbox *box)
{
    char text[128] = "";

    ssize_t n = pread(box->statm, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0;
    const char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void send_hello(struct outbox *box, int64_t now)
{
    struct head *head = &box->scratch.head;

    box->scratch = (struct msg){.head = {.kind = MSG_HELLO,
                                         .wire_min = WIRE_VERSION,
                                         .wire_max = WIRE_VERSION,
                                         .start = box->settings.start,
                                         .model = box->hello.model,
                                         .slots = box->hello.slots}};
    (void)snprintf(head->stage, sizeof head->stage, "%s", box->stage->name);
    (void)snprintf(head->seat, sizeof head->seat, "%s", box->settings.seat);
    (void)snprintf(head->numerics, sizeof head->numerics, "%s", box->hello.numerics);
    (void)send_now(box, &box->scratch);
    box->next_hello_us = now + HELLO_US;
}

static void send_beat(struct outbox *box, int64_t now)
{
    struct head *head = &box->scratch.head;

    box->scratch = (struct msg){.head = {.kind = MSG_BEAT, .work = box->work, .held = box->n_held}};
    head->memory_bytes = outbox_resident_bytes(box);
    if (box->stage->running)
        head->n_running = box->stage->running(box->self, head->running, BEAT_RIDS_MAX);
    assert(head->n_running <= BEAT_RIDS_MAX);
    (void)send_now(box, &box->scratch);
    box->next_beat_us = now + box->interval_us;
}

void outbox_flush(struct outbox *box)
{
    int64_t now = clock_now_us();

    send_pending(box);
    bool room = link_can_send(box->link);
    if (room)
        box->connected_us = now;
    if (!outbox_welcomed(box)) {
        if (room && box->phase == PHASE_HELLO && now >= box->next_hello_us)
            send_hello(box, now);
        return;
    }
    if (now - box->connected_us > BEATS_LOST_MAX * box->interval_us) {
        outbox_lose_gateway(box, "nothing could be sent");
        return;
    }
    if (box->n_pending > PENDING_MAX) {
        outbox_lose_gateway(box, "too many results wait");
        return;
    }
    if (!room)
        return;
    if (box->phase == PHASE_WORK && box->credit_owed > 0) {
        box->scratch = (struct msg){.head = {.kind = MSG_CREDIT, .n = box->credit_owed}};
        (void)send_now(box, &box->scratch);
        box->credit_owed = 0;
    }
    if (now >= box->next_beat_us)
        send_beat(box, now);
}

void outbox_bye(struct outbox *box)
{
    if (!outbox_welcomed(box) || !link_can_send(box->link))
        return;
    box->scratch = (struct msg){.head = {.kind = MSG_BYE}};
    (void)send_now(box, &box->scratch);
}

/* ---- jobs ---- */

struct held *outbox_find(struct outbox *box, struct rid rid)
{
    for (size_t i = 0; i < SLOTS_MAX; i++)
        if (box->jobs[i].used && rid_equal(box->jobs[i].rid, rid))
            return &box->jobs[i];
    return NULL;
}

struct held *outbox_find_epoch(struct outbox *box, struct rid rid, uint32_t epoch)
{
    struct held *job = outbox_find(box, rid);

    return job && job->epoch == epoch ? job : NULL;
}

static void end_job(struct outbox *box, struct held *job)
{
    job->used = false;
    assert(box->n_held > 0);
    box->n_held--;
    box->credit_owed++;
}

void outbox_cancel(struct outbox *box, struct held *job)
{
    end_job(box, job);
    log_debug("job cancelled", "request=%s epoch=%u", rid_hex(job->rid).text, job->epoch);
    if (box->stage->cancel)
        box->stage->cancel(box->self, job->rid, job->epoch);
}

void outbox_post_failed(struct outbox *box, struct rid rid, uint32_t epoch, enum fault fault,
                        const struct status *st)
{
    static const char *const names[] = {"request", "capacity", "stage"};
    enum status_code code = st->code == STATUS_OK ? STATUS_INTERNAL : st->code;

    box->scratch = (struct msg){
        .head = {.kind = MSG_FAILED, .rid = rid, .epoch = epoch, .code = code, .fault = fault}};
    (void)snprintf(box->scratch.head.text, sizeof box->scratch.head.text, "%s", st->text);
    log_warn("job failed", "request=%s epoch=%u fault=%s code=%s text=%s", rid_hex(rid).text, epoch,
             names[fault], status_name(code), log_quoted(st->text).text);
    post(box, &box->scratch);
}

void outbox_result_take(struct outbox *out, struct rid rid, uint32_t epoch, struct msg *msg)
{
    struct held *job = outbox_find_epoch(out, rid, epoch);

    out->work++;
    if (!job) { /* cancelled, or the gateway is another: nobody waits for it */
        msg_clear(msg);
        return;
    }
    msg->head.kind = MSG_RESULT;
    msg->head.rid = rid;
    msg->head.epoch = epoch;
    msg->head.seq = job->result_seq++;
    if (msg->head.last) {
        end_job(out, job);
        log_debug("job done", "request=%s epoch=%u results=%u", rid_hex(rid).text, epoch,
                  job->result_seq);
    }
    post(out, msg);
}

void outbox_fail(struct outbox *out, struct rid rid, uint32_t epoch, enum fault fault,
                 const struct status *st)
{
    struct held *job = outbox_find_epoch(out, rid, epoch);

    out->work++;
    if (!job)
        return;
    end_job(out, job);
    outbox_post_failed(out, rid, epoch, fault, st);
}

void outbox_work(struct outbox *out)
{
    int64_t now = clock_now_us();

    /* Only the beat: the stage is in the middle of something, so nothing may be cancelled here. */
    out->work++;
    if (outbox_welcomed(out) && now >= out->next_beat_us - WORK_EARLY(out->interval_us) &&
        link_can_send(out->link))
        send_beat(out, now);
}

int64_t outbox_ms_left(const struct outbox *out, struct rid rid, uint32_t epoch)
{
    const struct held *job = outbox_find_epoch((struct outbox *)out, rid, epoch);

    if (!job)
        return -1;
    int64_t left_us = job->deadline_us - clock_now_us();
    return left_us < 0 ? -1 : left_us / 1000;
}

struct held *outbox_add(struct outbox *box, const struct head *head)
{
    for (size_t i = 0; i < SLOTS_MAX; i++) {
        struct held *job = &box->jobs[i];
        if (job->used)
            continue;
        *job = (struct held){.used = true,
                             .rid = head->rid,
                             .epoch = head->epoch,
                             .deadline_us = clock_now_us() + head->ms_left * 1000};
        box->n_held++;
        return job;
    }
    return NULL;
}
