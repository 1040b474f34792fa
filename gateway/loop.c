#include "gateway/loop.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "gateway/loop_private.h"
#include "gateway/release.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

void loop_random(void *out, size_t size)
{
    /* Up to 256 bytes come whole or not at all. */
    if (getrandom(out, size, 0) != (ssize_t)size)
        abort();
}

/* ---- the ledger's wishes ---- */

static void send_message(struct loop *loop, uint32_t worker, struct msg *msg)
{
    struct status st = {0};

    /* Sending empties the message, but the ledger wants to know which one did not arrive. */
    loop->sent = msg->head;
    loop->sent.fields = (struct span){0};
    if (!bus_send_take(loop->bus, worker, msg, &st)) {
        struct ledger_event event = {
            .kind = EVENT_SEND_FAILED, .worker = worker, .head = &loop->sent};
        log_debug("send failed", "peer=%u kind=%s text=%s", worker, msg_kind_name(loop->sent.kind),
                  log_quoted(st.text).text);
        ledger_step(loop->ledger, &event, clock_now_us(), &loop->actions);
    }
    msg_clear(msg);
    heap_free(msg);
}

static void act(struct loop *loop, size_t i)
{
    /* A copy: the list may grow meanwhile. What is taken is taken from the list. */
    struct ledger_action action = loop->actions.items[i];
    struct client *client = client_find(loop, action.rid);

    loop->actions.items[i].msg = NULL;
    loop->actions.items[i].bytes = NULL;
    switch (action.kind) {
    case ACTION_SEND:
        send_message(loop, action.worker, action.msg);
        break;
    case ACTION_RESTART:
        log_warn("worker hangs", "seat=%s", log_quoted(action.msg->head.seat).text);
        if (action.worker != UINT32_MAX) {
            send_message(loop, action.worker, action.msg);
            break;
        }
        msg_clear(action.msg);
        heap_free(action.msg);
        break;
    case ACTION_BYTES:
        if (client)
            client_give_bytes(client,
                              action.bytes
                                  ? span_of(blob_data(action.bytes), blob_size(action.bytes))
                                  : span_of(NULL, 0),
                              action.last);
        if (client && action.last)
            client->submitted = false;
        blob_drop(action.bytes);
        break;
    case ACTION_END:
        if (client) {
            client_give_error(loop, client, &action);
            client->submitted = false;
        }
        break;
    case ACTION_PAUSE:
        log_info("client reads slowly", "request=%s", rid_hex(action.rid).text);
        break;
    case ACTION_FORGET:
        bus_forget(loop->bus, action.worker);
        break;
    }
}

void loop_step(struct loop *loop, const struct ledger_event *event)
{
    ledger_step(loop->ledger, event, clock_now_us(), &loop->actions);
    for (size_t i = 0; i < loop->actions.n; i++)
        act(loop, i);
    ledger_actions_reset(&loop->actions);
}

/* ---- the bus ---- */

/* A peer that speaks nonsense: of a message that tells what it was about, only that attempt fails;
 * else the peer is done with. */
static void take_bad(struct loop *loop, struct msg *msg, uint32_t peer, const struct status *st)
{
    log_warn("bad message", "peer=%u text=%s", peer, log_quoted(st->text).text);
    if (peer == BUS_PEER_NONE)
        return;
    if (msg->head.kind != MSG_RESULT) {
        loop_step(loop, &(struct ledger_event){.kind = EVENT_WORKER_GONE, .worker = peer});
        bus_forget(loop->bus, peer);
        return;
    }
    struct head *failed = heap_array(struct head, 1);
    *failed = (struct head){.kind = MSG_FAILED,
                            .rid = msg->head.rid,
                            .epoch = msg->head.epoch,
                            .code = STATUS_CORRUPT,
                            .fault = FAULT_STAGE};
    memcpy(failed->text, st->text, sizeof failed->text);
    loop_step(loop, &(struct ledger_event){.kind = EVENT_MESSAGE, .worker = peer, .head = failed});
    heap_free(failed);
}

/* Returns whether more may wait. The last receive that says no comes after the last send: the
 * descriptor is edge-triggered, so the loop must not wait before that. */
static bool drain_bus(struct loop *loop, struct msg *msg)
{
    for (int i = 0; i < LOOP_MESSAGES_MAX; i++) {
        struct status st = {0};
        uint32_t peer;
        bool bad;
        if (!bus_receive(loop->bus, msg, &peer, &bad, &st))
            return false;
        if (bad)
            take_bad(loop, msg, peer, &st);
        else
            loop_step(loop, &(struct ledger_event){.kind = EVENT_MESSAGE,
                                                   .worker = peer,
                                                   .head = &msg->head,
                                                   .blobs = msg->blobs});
        msg_clear(msg);
    }
    return true;
}

/* ---- time ---- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int wait_ms(const struct loop *loop)
{
    int64_t due_us = ledger_next_us(loop->ledger);
    int http_ms = http_timeout_ms(loop->http);

    for (size_t i = 0; i < loop->n_clients; i++)
        if (loop->clients[i]->begun && loop->clients[i]->submitted)
            due_us = earlier(due_us, loop->clients[i]->written_us + LOOP_COMMENT_US);
    if (loop->draining)
        due_us = earlier(due_us, loop->drain_end_us);
    int64_t wait_us = due_us == INT64_MAX ? 60000000 : due_us - clock_now_us();
    int64_t ms = wait_us <= 0 ? 0 : earlier(wait_us / 1000 + 1, 60000);
    return (int)(http_ms >= 0 ? earlier(ms, http_ms) : ms);
}

static void start_draining(struct loop *loop)
{
    struct signalfd_siginfo info;

    if (read(loop->signals, &info, sizeof info) != (ssize_t)sizeof info)
        return;
    if (loop->draining) { /* asked twice */
        loop->drain_end_us = 0;
        return;
    }
    log_info("stopping", "requests=%zu", loop->n_clients);
    loop->draining = true;
    loop->drain_end_us = clock_now_us() + LOOP_DRAIN_US;
    http_stop_accepting(loop->http);
    loop_step(loop, &(struct ledger_event){.kind = EVENT_DRAIN});
}

static bool is_done(const struct loop *loop)
{
    if (!loop->draining)
        return false;
    return loop->n_clients == 0 || clock_now_us() >= loop->drain_end_us;
}

static void serve(struct loop *loop)
{
    struct msg *msg = heap_array(struct msg, 1);
    struct pollfd fds[] = {{.fd = http_descriptor(loop->http), .events = POLLIN},
                           {.fd = bus_descriptor(loop->bus), .events = POLLIN},
                           {.fd = loop->signals, .events = POLLIN}};
    bool more = drain_bus(loop, msg);

    while (!is_done(loop)) {
        if (poll(fds, sizeof fds / sizeof *fds, more ? 0 : wait_ms(loop)) < 0 && errno != EINTR)
            abort();
        more = drain_bus(loop, msg); /* first, so that a token goes on at once */
        if (fds[2].revents & POLLIN)
            start_draining(loop);
        http_run(loop->http);
        clients_look_after(loop);
        if (clock_now_us() >= ledger_next_us(loop->ledger))
            loop_step(loop, &(struct ledger_event){.kind = EVENT_TICK});
        more = release_step() || more;
        more = drain_bus(loop, msg) || more; /* again, since the above may have sent */
    }
    heap_free(msg);
}

static bool open_signals(struct loop *loop, struct status *st)
{
    sigset_t wanted;

    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGTERM);
    (void)sigaddset(&wanted, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &wanted, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    loop->signals = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    return loop->signals >= 0 || status_fail_sys(st, errno, "signalfd");
}

bool loop_run(const struct loop_options *options, struct status *st)
{
    struct loop *loop = heap_array(struct loop, 1);

    loop->options = options;
    loop->signals = -1;
    loop_random(&loop->hash_seed, sizeof loop->hash_seed);
    loop->ledger = ledger_new(&options->ledger);
    bool ok = open_signals(loop, st) && bus_open(&loop->bus, options->bus, st) &&
              http_open(&loop->http, options->listen, &client_calls, loop, st);
    if (ok) {
        log_info("listening", "http=%s bus=%s", http_address(loop->http), options->bus);
        serve(loop);
        log_info("stopped", "requests_left=%zu", loop->n_clients);
        clients_end(loop);
    }
    http_close(loop->http);
    bus_close(loop->bus);
    ledger_actions_clear(&loop->actions);
    ledger_free(loop->ledger);
    if (loop->signals >= 0)
        (void)close(loop->signals);
    heap_free(loop);
    return ok;
}
