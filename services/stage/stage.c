#include "services/stage/stage.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "proto/link.h"
#include "services/stage/options.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define HELLO_US 1000000  /* between two hellos while nobody answers */
#define AGAIN_US 100000   /* from a welcome to the next hello, if that gateway forgets us at once */
#define RETRY_MS 20       /* until the queue to the gateway has room again */
#define CONNECT_MS 50     /* between looks at whether a gateway is there */
#define RECEIVE_MAX 256   /* messages of one turn, so that the stage gets its turn too */
#define PENDING_MAX 4096  /* results that wait for room; more: the gateway is as good as gone */
#define BEATS_LOST_MAX 10 /* so many intervals without a connection: its jobs are given up */
#define INTERVAL_US 200000 /* of beats, until welcome says */
#define LINGER_MS 200      /* for the last messages at an orderly end */

/* A job that the stage holds. */
struct held {
    bool used;
    struct rid rid;
    uint32_t epoch;
    uint32_t more_seq;   /* of the next piece */
    bool more_ended;     /* `last` has come */
    uint32_t result_seq; /* of the next result */
    int64_t deadline_us;
};

struct pending {
    struct pending *next;
    struct msg msg;
};

enum phase {
    PHASE_HELLO,    /* nobody has welcomed us (yet, or any more); no jobs are held */
    PHASE_WORK,     /* welcome */
    PHASE_DRAINING, /* finish what is held */
    PHASE_OVER
};

struct outbox {
    const struct stage *stage;
    void *self;
    struct link *link;
    struct stage_settings settings;
    struct stage_hello hello;
    enum phase phase;
    int exit_status;
    struct held jobs[SLOTS_MAX];
    uint32_t n_held;
    uint32_t credit_owed; /* to be given with the next chance */
    struct pending *first, **end;
    size_t n_pending;
    uint64_t work;
    int64_t interval_us, next_beat_us, next_hello_us;
    int64_t connected_us; /* when something could be sent, last */
    int statm;
    pid_t parent;
    struct msg scratch; /* for what we send ourselves; large */
    struct msg in;
};

static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    stop_signal = number;
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

static void drop_jobs(struct outbox *box)
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

/* The gateway does not know us any more, or cannot be reached: its jobs are nobody's now. */
static void lose_gateway(struct outbox *box, const char *why)
{
    log_warn("gateway lost", "why=\"%s\" jobs=%u", why, box->n_held);
    drop_jobs(box);
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
    log_error("send failed", "kind=%s text=\"%s\"", msg_kind_name(kind), st.text);
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

static uint64_t resident_bytes(const struct outbox *box)
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
    head->memory_bytes = resident_bytes(box);
    if (box->stage->running)
        head->n_running = box->stage->running(box->self, head->running, BEAT_RIDS_MAX);
    assert(head->n_running <= BEAT_RIDS_MAX);
    (void)send_now(box, &box->scratch);
    box->next_beat_us = now + box->interval_us;
}

/* Whatever is due and finds room. */
static void flush(struct outbox *box)
{
    int64_t now = clock_now_us();
    bool welcomed = box->phase == PHASE_WORK || box->phase == PHASE_DRAINING;

    send_pending(box);
    bool room = link_can_send(box->link);
    if (room)
        box->connected_us = now;
    if (!welcomed) {
        if (room && box->phase == PHASE_HELLO && now >= box->next_hello_us)
            send_hello(box, now);
        return;
    }
    if (now - box->connected_us > BEATS_LOST_MAX * box->interval_us) {
        lose_gateway(box, "nothing could be sent");
        return;
    }
    if (box->n_pending > PENDING_MAX) {
        lose_gateway(box, "too many results wait");
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

/* ---- jobs ---- */

static struct held *find_job(const struct outbox *box, struct rid rid)
{
    for (size_t i = 0; i < SLOTS_MAX; i++)
        if (box->jobs[i].used && rid_equal(box->jobs[i].rid, rid))
            return (struct held *)&box->jobs[i];
    return NULL;
}

static struct held *find_epoch(const struct outbox *box, struct rid rid, uint32_t epoch)
{
    struct held *job = find_job(box, rid);

    return job && job->epoch == epoch ? job : NULL;
}

static void end_job(struct outbox *box, struct held *job)
{
    job->used = false;
    assert(box->n_held > 0);
    box->n_held--;
    box->credit_owed++;
}

static void cancel_job(struct outbox *box, struct held *job)
{
    end_job(box, job);
    log_debug("job cancelled", "request=%s epoch=%u", rid_hex(job->rid).text, job->epoch);
    if (box->stage->cancel)
        box->stage->cancel(box->self, job->rid, job->epoch);
}

static void post_failed(struct outbox *box, struct rid rid, uint32_t epoch, enum fault fault,
                        const struct status *st)
{
    static const char *const names[] = {"request", "capacity", "stage"};
    enum status_code code = st->code == STATUS_OK ? STATUS_INTERNAL : st->code;

    box->scratch = (struct msg){
        .head = {.kind = MSG_FAILED, .rid = rid, .epoch = epoch, .code = code, .fault = fault}};
    (void)snprintf(box->scratch.head.text, sizeof box->scratch.head.text, "%s", st->text);
    log_warn("job failed", "request=%s epoch=%u fault=%s code=%s text=\"%s\"", rid_hex(rid).text,
             epoch, names[fault], status_name(code), st->text);
    post(box, &box->scratch);
}

void outbox_result_take(struct outbox *out, struct rid rid, uint32_t epoch, struct msg *msg)
{
    struct held *job = find_epoch(out, rid, epoch);

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
    struct held *job = find_epoch(out, rid, epoch);

    out->work++;
    if (!job)
        return;
    end_job(out, job);
    post_failed(out, rid, epoch, fault, st);
}

void outbox_work(struct outbox *out)
{
    bool welcomed = out->phase == PHASE_WORK || out->phase == PHASE_DRAINING;
    int64_t now = clock_now_us();

    /* Only the beat: the stage is in the middle of something, so nothing may be cancelled here. */
    out->work++;
    if (welcomed && now >= out->next_beat_us && link_can_send(out->link))
        send_beat(out, now);
}

int64_t outbox_ms_left(const struct outbox *out, struct rid rid, uint32_t epoch)
{
    const struct held *job = find_epoch(out, rid, epoch);

    if (!job)
        return -1;
    int64_t left_us = job->deadline_us - clock_now_us();
    return left_us < 0 ? -1 : left_us / 1000;
}

/* ---- what comes in ---- */

static struct held *add_job(struct outbox *box, const struct head *head)
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

static void on_job(struct outbox *box, const struct msg *msg)
{
    const struct head *head = &msg->head;
    enum fault fault = FAULT_STAGE;
    struct status st = {0};
    struct held *older = find_job(box, head->rid);

    if (older && older->epoch == head->epoch) {
        log_warn("job came twice", "request=%s epoch=%u", rid_hex(head->rid).text, head->epoch);
        return;
    }
    if (older)
        cancel_job(box, older);
    if (box->phase != PHASE_WORK || box->n_held >= box->hello.slots) {
        (void)status_fail(&st, STATUS_BUSY, "%s",
                          box->phase == PHASE_WORK ? "no slot is free" : "takes no jobs now");
        post_failed(box, head->rid, head->epoch, FAULT_CAPACITY, &st);
        return;
    }
    (void)add_job(box, head);
    if (head->ms_left == 0) {
        (void)status_fail(&st, STATUS_DEADLINE, "the time allowed was over before %s began",
                          box->stage->name);
        outbox_fail(box, head->rid, head->epoch, FAULT_REQUEST, &st);
        return;
    }
    log_debug("job", "request=%s epoch=%u", rid_hex(head->rid).text, head->epoch);
    box->work++;
    if (!box->stage->job(box->self, msg, box, &fault, &st))
        outbox_fail(box, head->rid, head->epoch, fault, &st);
}

/* Whether this is the piece that is due. */
static bool accept_more(const struct outbox *box, struct held *job, const struct head *head,
                        struct status *st)
{
    if (!box->stage->more)
        return status_fail(st, STATUS_UNSUPPORTED, "%s takes no further input", box->stage->name);
    if (job->more_ended)
        return status_fail(st, STATUS_CORRUPT, "input after its end");
    if (head->seq != job->more_seq)
        return status_fail(st, STATUS_CORRUPT, "piece %u of the input where %u was due", head->seq,
                           job->more_seq);
    job->more_seq++;
    job->more_ended = head->last;
    return true;
}

static void on_more(struct outbox *box, const struct msg *msg)
{
    const struct head *head = &msg->head;
    const struct stage *stage = box->stage;
    enum fault fault = FAULT_STAGE;
    struct status st = {0};
    struct held *job = find_epoch(box, head->rid, head->epoch);

    if (!job) /* ended or cancelled while the piece was on its way */
        return;
    if (!accept_more(box, job, head, &st)) {
        if (stage->cancel) /* the stage still has it */
            stage->cancel(box->self, head->rid, head->epoch);
    } else {
        box->work++;
        if (!stage->more || stage->more(box->self, msg, box, &fault, &st))
            return;
    }
    outbox_fail(box, head->rid, head->epoch, fault, &st);
}

static void on_welcome(struct outbox *box, const struct head *head)
{
    box->interval_us = (int64_t)head->interval_ms * 1000;
    if (box->phase != PHASE_HELLO)
        return; /* the answer to a hello that was said twice */
    box->phase = PHASE_WORK;
    box->credit_owed = box->hello.slots;
    box->next_beat_us = 0;
    box->next_hello_us = clock_now_us() + AGAIN_US;
    log_info("welcome", "seat=%s slots=%u interval_ms=%u", box->settings.seat, box->hello.slots,
             head->interval_ms);
}

static void on_refuse(struct outbox *box, const struct head *head)
{
    if (head->code == STATUS_UNAVAILABLE) {
        /* Not known there: it was started again, or the connection was. While hello is already
         * said, this answers something that was sent before it. */
        if (box->phase != PHASE_HELLO)
            lose_gateway(box, head->text);
        return;
    }
    log_error("refused", "code=%s text=\"%s\"", status_name(head->code), head->text);
    drop_jobs(box);
    box->exit_status = STAGE_EXIT_REFUSED;
    box->phase = PHASE_OVER;
}

static void on_bad(struct outbox *box, const struct head *head, const struct status *st)
{
    struct held *job = find_epoch(box, head->rid, head->epoch);

    log_warn("bad message", "text=\"%s\"", st->text);
    if (head->kind == MSG_JOB && box->phase == PHASE_WORK && !job) {
        post_failed(box, head->rid, head->epoch, FAULT_REQUEST, st);
        box->credit_owed++; /* the one that this job had */
    } else if (head->kind == MSG_MORE_INPUT && job) {
        if (box->stage->cancel)
            box->stage->cancel(box->self, head->rid, head->epoch);
        outbox_fail(box, head->rid, head->epoch, FAULT_STAGE, st);
    }
}

static void on_message(struct outbox *box, const struct msg *msg)
{
    const struct head *head = &msg->head;

    switch (head->kind) {
    case MSG_WELCOME:
        on_welcome(box, head);
        break;
    case MSG_REFUSE:
        on_refuse(box, head);
        break;
    case MSG_JOB:
        on_job(box, msg);
        break;
    case MSG_MORE_INPUT:
        on_more(box, msg);
        break;
    case MSG_CANCEL: {
        struct held *job = find_epoch(box, head->rid, head->epoch);
        if (job)
            cancel_job(box, job);
        break;
    }
    case MSG_DRAIN:
        if (box->phase != PHASE_OVER) {
            log_info("draining", "jobs=%u", box->n_held);
            box->phase = PHASE_DRAINING;
        }
        break;
    case MSG_BYE:
        if (box->phase != PHASE_HELLO)
            lose_gateway(box, "it said bye");
        break;
    default:
        log_warn("unexpected message", "kind=%s", msg_kind_name(head->kind));
        break;
    }
}

static void receive(struct outbox *box)
{
    struct status st = {0};
    bool bad;

    for (int i = 0; i < RECEIVE_MAX && box->phase != PHASE_OVER; i++) {
        if (!link_receive(box->link, &box->in, &bad, &st))
            return;
        if (bad)
            on_bad(box, &box->in.head, &st);
        else
            on_message(box, &box->in);
        msg_clear(&box->in);
    }
}

/* ---- the loop ---- */

static void wait_for_something(struct outbox *box, int wish_ms)
{
    int fds[LINK_FDS_MAX];
    bool readable[LINK_FDS_MAX];
    size_t n = 0;
    int64_t now = clock_now_us();
    int64_t next_us = box->phase == PHASE_HELLO ? box->next_hello_us : box->next_beat_us;
    int64_t timeout_ms = next_us > now ? (next_us - now + 999) / 1000 : 0;

    /* Room in the queue, and a gateway that appears, are looked for: ZeroMQ can tell of them, but
     * not without also waking for ever while there is room. */
    if (box->first)
        timeout_ms = RETRY_MS;
    else if (timeout_ms == 0 || !link_can_send(box->link))
        timeout_ms = CONNECT_MS;
    if (wish_ms >= 0 && wish_ms < timeout_ms)
        timeout_ms = wish_ms;
    if (box->stage->descriptors)
        n = box->stage->descriptors(box->self, fds, LINK_FDS_MAX);
    (void)link_wait(box->link, fds, n, readable, (int)timeout_ms);
}

/* Whether somebody wants us to end, or nobody is left who looks after us. */
static bool must_stop(const struct outbox *box)
{
    if (stop_signal) {
        log_info("stopping", "signal=%d jobs=%u", (int)stop_signal, box->n_held);
        return true;
    }
    if (box->settings.supervised && getppid() != box->parent) {
        log_warn("stopping", "why=\"the supervisor is gone\" jobs=%u", box->n_held);
        return true;
    }
    return false;
}

static void loop(struct outbox *box)
{
    while (box->phase != PHASE_OVER) {
        int wish_ms = -1;
        receive(box);
        if (box->phase == PHASE_OVER)
            break;
        if (box->stage->tick)
            wish_ms = box->stage->tick(box->self, box);
        flush(box);
        if (must_stop(box))
            break;
        if (box->phase == PHASE_DRAINING && box->n_held == 0 && !box->first)
            break;
        if (wish_ms != 0 && box->phase != PHASE_OVER)
            wait_for_something(box, wish_ms);
    }
    bool known = box->phase == PHASE_WORK || box->phase == PHASE_DRAINING;
    drop_jobs(box);
    if (known && link_can_send(box->link)) {
        box->scratch = (struct msg){.head = {.kind = MSG_BYE}};
        (void)send_now(box, &box->scratch);
    }
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
}

static bool open_stage(struct outbox *box, const struct stage_options *options, struct status *st)
{
    int64_t begin = clock_now_us();

    if (!box->stage->open(&box->self, options, &box->hello, st))
        return false;
    assert(box->hello.slots >= 1 && box->hello.slots <= SLOTS_MAX);
    log_info("open", "seat=%s bus=%s slots=%u memory_bytes=%llu elapsed_ms=%.1f",
             box->settings.seat, box->settings.bus, box->hello.slots,
             (unsigned long long)resident_bytes(box), (double)(clock_now_us() - begin) / 1000);
    /* Only from here on: a signal while weights are read ends the process at once. */
    catch_signals();
    if (link_open(&box->link, box->settings.bus, st))
        return true;
    box->stage->close(box->self);
    return false;
}

int stage_main(const struct stage *stage, int argc, char **argv)
{
    static char process[STAGE_NAME_MAX + 16];
    struct stage_options options = {.argc = argc, .argv = argv};
    struct status st = {0};
    struct outbox *box = heap_new(1, sizeof *box);

    (void)snprintf(process, sizeof process, "millrace-%s", stage->name);
    log_open(process, LOG_INFO);
    box->parent = getppid();
    box->stage = stage;
    box->end = &box->first;
    box->interval_us = INTERVAL_US;
    box->statm = -1;
    if (!stage_settings_read(&box->settings, stage, &options, &st)) {
        (void)fprintf(stderr, "%s: %s\n", process, st.text);
        heap_free(box);
        return STAGE_EXIT_OPTIONS;
    }
    if (box->settings.help)
        goto out;
    (void)signal(SIGPIPE, SIG_IGN);
    if (box->settings.supervised)
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    box->statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (!open_stage(box, &options, &st)) {
        log_error("cannot start", "text=\"%s\"", st.text);
        box->exit_status = STAGE_EXIT_FAILED;
        goto out;
    }
    loop(box);
    link_finish(box->link, LINGER_MS);
    stage->close(box->self);
    log_info("end", "status=%d work=%llu", box->exit_status, (unsigned long long)box->work);
out:
    if (box->statm >= 0)
        (void)close(box->statm);
    int exit_status = box->exit_status;
    heap_free(box);
    return exit_status;
}
