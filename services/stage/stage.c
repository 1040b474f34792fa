#include "services/stage/stage.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/base/schedule.h"
#include "services/stage/outbox.h"
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#define AGAIN_US 100000 /* from a welcome to the next hello, if that gateway forgets us at once */
#define RETRY_MS 20     /* until the queue to the gateway has room again */
#define CONNECT_MS 50   /* between looks at whether a gateway is there */
#define RECEIVE_MAX 256 /* messages of one turn, so that the stage gets its turn too */
#define LINGER_MS 200   /* for the last messages at an orderly end */

static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    stop_signal = number;
}

/* ---- what comes in ---- */

static void on_job(struct outbox *box, const struct msg *msg)
{
    const struct head *head = &msg->head;
    enum fault fault = FAULT_STAGE;
    struct status st = {0};
    struct held *older = outbox_find(box, head->rid);

    if (older && older->epoch == head->epoch) {
        log_warn("job came twice", "request=%s epoch=%u", rid_hex(head->rid).text, head->epoch);
        return;
    }
    if (older)
        outbox_cancel(box, older);
    if (box->phase != PHASE_WORK || box->n_held >= box->hello.slots) {
        (void)status_fail(&st, STATUS_BUSY, "%s",
                          box->phase == PHASE_WORK ? "no slot is free" : "takes no jobs now");
        outbox_post_failed(box, head->rid, head->epoch, FAULT_CAPACITY, &st);
        return;
    }
    (void)outbox_add(box, head);
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
    struct held *job = outbox_find_epoch(box, head->rid, head->epoch);

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
            outbox_lose_gateway(box, head->text);
        return;
    }
    log_error("refused", "code=%s text=%s", status_name(head->code), log_quoted(head->text).text);
    outbox_drop_jobs(box);
    box->exit_status = STAGE_EXIT_REFUSED;
    box->phase = PHASE_OVER;
}

static void on_bad(struct outbox *box, const struct head *head, const struct status *st)
{
    struct held *job = outbox_find_epoch(box, head->rid, head->epoch);

    log_warn("bad message", "text=%s", log_quoted(st->text).text);
    if (head->kind == MSG_JOB && box->phase == PHASE_WORK && !job) {
        outbox_post_failed(box, head->rid, head->epoch, FAULT_REQUEST, st);
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
        struct held *job = outbox_find_epoch(box, head->rid, head->epoch);
        if (job)
            outbox_cancel(box, job);
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
            outbox_lose_gateway(box, "it said bye");
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
        outbox_flush(box);
        if (must_stop(box))
            break;
        if (box->phase == PHASE_DRAINING && box->n_held == 0 && !box->first)
            break;
        if (wish_ms != 0 && box->phase != PHASE_OVER)
            wait_for_something(box, wish_ms);
    }
    outbox_drop_jobs(box);
    outbox_bye(box);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
}

/* A mapped model file that is cut short ends whoever reads it: nothing sensible can go on. Say why;
 * the next start then refuses the file in words. */
static void on_bus_error(int number)
{
    static const char text[] = "a model file became shorter while it was in use: put it back whole "
                               "(new files belong beside old ones, not over them)\n";

    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static bool open_stage(struct outbox *box, const struct stage_options *options, struct status *st)
{
    int64_t begin = clock_now_us();

    /* First, so that the thread that moves its bytes does not inherit what a stage may do to its
     * own priority. */
    if (!link_open(&box->link, box->settings.bus, st) ||
        !box->stage->open(&box->self, options, &box->hello, st)) {
        link_close(box->link);
        return false;
    }
    assert(box->hello.slots >= 1 && box->hello.slots <= SLOTS_MAX);
    log_info("open", "seat=%s bus=%s slots=%u memory_bytes=%llu elapsed_ms=%.1f",
             box->settings.seat, box->settings.bus, box->hello.slots,
             (unsigned long long)outbox_resident_bytes(box),
             (double)(clock_now_us() - begin) / 1000);
    /* Only from here on: a signal while weights are read ends the process at once. */
    catch_signals();
    return true;
}

int stage_main(const struct stage *stage, int argc, char **argv)
{
    static char process[STAGE_NAME_MAX + 16];
    struct stage_options options = {.argc = argc, .argv = argv};
    struct status st = {0};
    struct outbox *box = heap_new(1, sizeof *box);

    (void)snprintf(process, sizeof process, "millrace-%s", stage->name);
    log_open(process, LOG_INFO);
    schedule_at_once();
    outbox_init(box, stage);
    box->parent = getppid();
    if (!stage_settings_read(&box->settings, stage, &options, &st)) {
        (void)fprintf(stderr, "%s: %s\n", process, st.text);
        box->exit_status = STAGE_EXIT_OPTIONS;
        goto out;
    }
    if (box->settings.help)
        goto out;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGBUS, on_bus_error);
    if (box->settings.supervised)
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (!open_stage(box, &options, &st)) {
        log_error("cannot start", "text=%s", log_quoted(st.text).text);
        box->exit_status = STAGE_EXIT_FAILED;
        goto out;
    }
    loop(box);
    link_finish(box->link, LINGER_MS);
    stage->close(box->self);
    log_info("end", "status=%d work=%llu", box->exit_status, (unsigned long long)box->work);
out:
    outbox_clear(box);
    int exit_status = box->exit_status;
    heap_free(box);
    return exit_status;
}
