#include "gateway/loop.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "gateway/api.h"
#include "gateway/body.h"
#include "gateway/http.h"
#include "gateway/release.h"
#include "proto/link.h"
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

/* One exchange of HTTP, and the request of the ledger that it may become. */
struct client {
    struct exchange *exchange;
    const struct api_route *route;
    struct body *body;
    size_t body_bytes;
    int64_t began_us;
    struct rid rid;
    bool submitted; /* the ledger has it */
    bool stream, begun;
    unsigned http; /* status of the answer, 0: none yet */
    int64_t written_us;
    uint64_t reported_bytes; /* unsent, as the ledger knows */
    struct buffer whole;     /* an answer that is not streamed */
};

struct loop {
    const struct loop_options *options;
    struct ledger *ledger;
    struct ledger_actions actions;
    struct bus *bus;
    struct http *http;
    int signals;
    bool draining;
    int64_t drain_end_us;
    uint64_t hash_seed;
    uint64_t uploading_bytes; /* of bodies that are not requests yet */
    struct client *clients[HTTP_CONNECTIONS_MAX];
    size_t n_clients;
    struct head sent; /* of the message that is being sent */
};

static void random_bytes(void *out, size_t size)
{
    /* Up to 256 bytes come whole or not at all. */
    if (getrandom(out, size, 0) != (ssize_t)size)
        abort();
}

static struct api_context context_of(const struct loop *loop)
{
    struct api_context context = {.config = &loop->options->ledger,
                                  .ledger = loop->ledger,
                                  .created = (int64_t)time(NULL),
                                  .draining = loop->draining};

    random_bytes(&context.random, sizeof context.random);
    return context;
}

static struct client *find_client(struct loop *loop, struct rid rid)
{
    for (size_t i = 0; i < loop->n_clients; i++)
        if (loop->clients[i]->submitted && rid_equal(loop->clients[i]->rid, rid))
            return loop->clients[i];
    return NULL;
}

/* ---- answers ---- */

static void refuse(struct loop *loop, struct client *client, const struct api_error *error,
                   const char *allow)
{
    struct buffer json = {0};
    struct http_answer answer = {.http = api_http(error),
                                 .type = "application/json",
                                 .allow = allow,
                                 .retry_after_s = error->retry_after_s};

    api_error_json(error, &json);
    client->http = answer.http;
    exchange_answer(client->exchange, &answer, buffer_span(&json),
                    2 * (uint64_t)loop->options->body_bytes_max);
    buffer_clear(&json);
}

static void give_bytes(struct loop *loop, struct client *client, struct span bytes, bool last)
{
    static const struct http_answer stream = {.http = 200, .type = "text/event-stream"};
    static const struct http_answer whole = {.http = 200, .type = "application/json"};

    client->http = 200;
    if (!client->stream) {
        buffer_append(&client->whole, bytes.data, bytes.size);
        if (last)
            exchange_answer(client->exchange, &whole, buffer_span(&client->whole), 0);
        return;
    }
    if (!client->begun)
        exchange_begin(client->exchange, &stream);
    client->begun = true;
    client->written_us = clock_now_us();
    exchange_write(client->exchange, bytes);
    if (last)
        exchange_end(client->exchange);
    (void)loop;
}

/* The ledger has ended the request with an error. In a stream that has begun it is an event of its
 * own, never a forged stop. */
static void give_error(struct loop *loop, struct client *client, const struct ledger_action *action)
{
    struct api_error error;
    struct buffer event = {0};

    api_error_from_end(&error, action->code, action->text, action->retry_after_s);
    log_info("request failed", "request=%s code=%s text=\"%s\"", rid_hex(client->rid).text,
             status_name(action->code), action->text);
    if (!client->begun) {
        refuse(loop, client, &error, NULL);
        return;
    }
    buffer_append_text(&event, "data: ");
    api_error_json(&error, &event);
    buffer_append_text(&event, "\n\n");
    exchange_write(client->exchange, buffer_span(&event));
    exchange_end(client->exchange);
    buffer_clear(&event);
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
        log_debug("send failed", "peer=%u kind=%s text=\"%s\"", worker,
                  msg_kind_name(loop->sent.kind), st.text);
        ledger_step(loop->ledger, &event, clock_now_us(), &loop->actions);
    }
    msg_clear(msg);
    heap_free(msg);
}

static void act(struct loop *loop, size_t i)
{
    /* A copy: the list may grow meanwhile. What is taken is taken from the list. */
    struct ledger_action action = loop->actions.items[i];
    struct client *client = find_client(loop, action.rid);

    loop->actions.items[i].msg = NULL;
    loop->actions.items[i].bytes = NULL;
    switch (action.kind) {
    case ACTION_SEND:
        send_message(loop, action.worker, action.msg);
        break;
    case ACTION_RESTART:
        log_warn("worker hangs", "seat=%s", action.msg->head.seat);
        if (action.worker != UINT32_MAX) {
            send_message(loop, action.worker, action.msg);
            break;
        }
        msg_clear(action.msg);
        heap_free(action.msg);
        break;
    case ACTION_BYTES:
        if (client)
            give_bytes(loop, client,
                       action.bytes ? span_of(blob_data(action.bytes), blob_size(action.bytes))
                                    : span_of(NULL, 0),
                       action.last);
        if (client && action.last)
            client->submitted = false;
        blob_drop(action.bytes);
        break;
    case ACTION_END:
        if (client) {
            give_error(loop, client, &action);
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

static void step(struct loop *loop, const struct ledger_event *event)
{
    ledger_step(loop->ledger, event, clock_now_us(), &loop->actions);
    for (size_t i = 0; i < loop->actions.n; i++)
        act(loop, i);
    ledger_actions_reset(&loop->actions);
}

/* ---- HTTP ---- */

static void let_go_of_body(struct loop *loop, struct client *client)
{
    body_free(client->body);
    client->body = NULL;
    loop->uploading_bytes -= client->body_bytes;
    client->body_bytes = 0;
}

static void refuse_body(struct loop *loop, struct client *client, const struct status *st)
{
    struct api_error error;
    char path[BODY_PATH_MAX];

    body_path(client->body, path);
    (void)api_refuse(&error, st->code, path, "%s", st->text);
    let_go_of_body(loop, client);
    refuse(loop, client, &error, NULL);
}

static void on_head(void *context, struct exchange *x)
{
    struct loop *loop = context;
    struct client *client = heap_array(struct client, 1);
    struct api_error error;
    const char *allow;
    size_t limit = loop->options->body_bytes_max;

    client->exchange = x;
    client->began_us = clock_now_us();
    exchange_set(x, client);
    assert(loop->n_clients < HTTP_CONNECTIONS_MAX);
    loop->clients[loop->n_clients++] = client;
    client->route = api_find(exchange_method(x), exchange_path(x), &error, &allow);
    if (!client->route) {
        refuse(loop, client, &error, allow);
        return;
    }
    if (!client->route->request)
        return;
    if (exchange_length(x) > 0 && (uint64_t)exchange_length(x) > limit) {
        (void)api_refuse(&error, STATUS_TOO_LARGE, "", "body of %lld bytes, at most %zu are taken",
                         (long long)exchange_length(x), limit);
        refuse(loop, client, &error, NULL);
        return;
    }
    client->body = body_new(client->route->rules, client->route->n_rules, limit, loop->hash_seed);
}

static void on_body(void *context, struct exchange *x, struct span piece)
{
    struct loop *loop = context;
    struct client *client = exchange_owner(x);
    struct status st = {0};

    if (!client->body) /* a GET with a body: it means nothing */
        return;
    loop->uploading_bytes += piece.size;
    client->body_bytes += piece.size;
    if (loop->uploading_bytes > loop->options->ledger.memory_max_bytes) {
        struct api_error error;
        (void)api_refuse(&error, STATUS_UNAVAILABLE, "", "too many bodies are being sent");
        error.retry_after_s = 1;
        let_go_of_body(loop, client);
        refuse(loop, client, &error, NULL);
        return;
    }
    if (!body_push(client->body, piece, &st))
        refuse_body(loop, client, &st);
}

static void submit(struct loop *loop, struct client *client, struct api_request *request)
{
    struct ledger_event event = {.kind = EVENT_REQUEST,
                                 .head = &request->msg->head,
                                 .blobs = request->msg->blobs,
                                 .pipeline = request->pipeline,
                                 .deadline_us = clock_now_us() + LOOP_DEADLINE_US,
                                 .reserve_bytes = request->reserve_bytes,
                                 .work = request->work,
                                 .input_hash = request->input_hash,
                                 .tokens_max = request->tokens_max};

    random_bytes(&event.rid, sizeof event.rid);
    client->rid = event.rid;
    client->stream = request->stream;
    client->submitted = true;
    log_debug("request", "request=%s blobs=%zu reserve_bytes=%llu", rid_hex(event.rid).text,
              request->msg->head.n_blobs, (unsigned long long)request->reserve_bytes);
    step(loop, &event);
}

static void on_whole(void *context, struct exchange *x)
{
    struct loop *loop = context;
    struct client *client = exchange_owner(x);
    struct api_context api = context_of(loop);
    struct api_request request = {0};
    struct api_error error = {0};
    struct status st = {0};

    if (client->route->answer) {
        struct buffer out = {0};
        struct http_answer answer = {.type = "application/json"};
        answer.http = client->route->answer(&api, &out);
        client->http = answer.http;
        exchange_answer(x, &answer, buffer_span(&out), 0);
        buffer_clear(&out);
        return;
    }
    if (!body_finish(client->body, &st)) {
        refuse_body(loop, client, &st);
        return;
    }
    bool ok = client->route->request(&api, client->body, &request, &error);
    let_go_of_body(loop, client);
    if (!ok) {
        refuse(loop, client, &error, NULL);
        return;
    }
    submit(loop, client, &request);
    api_request_clear(&request);
}

static void on_gone(void *context, struct exchange *x)
{
    struct client *client = exchange_owner(x);

    if (!client->submitted)
        return;
    client->submitted = false;
    log_info("client gone", "request=%s", rid_hex(client->rid).text);
    step(context, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = client->rid});
}

static void on_done(void *context, struct exchange *x)
{
    struct loop *loop = context;
    struct client *client = exchange_owner(x);
    size_t i = 0;

    log_info("exchange", "method=%s path=%.100s http=%u elapsed_ms=%.1f", exchange_method(x),
             exchange_path(x), client->http, (double)(clock_now_us() - client->began_us) / 1000);
    while (loop->clients[i] != client)
        i++;
    loop->clients[i] = loop->clients[--loop->n_clients];
    let_go_of_body(loop, client);
    buffer_clear(&client->whole);
    heap_free(client);
}

static const struct http_calls calls = {
    .head = on_head, .body = on_body, .whole = on_whole, .gone = on_gone, .done = on_done};

/* ---- the bus ---- */

/* A peer that speaks nonsense: of a message that tells what it was about, only that attempt fails;
 * else the peer is done with. */
static void take_bad(struct loop *loop, struct msg *msg, uint32_t peer, const struct status *st)
{
    log_warn("bad message", "peer=%u text=\"%s\"", peer, st->text);
    if (peer == BUS_PEER_NONE)
        return;
    if (msg->head.kind != MSG_RESULT) {
        step(loop, &(struct ledger_event){.kind = EVENT_WORKER_GONE, .worker = peer});
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
    step(loop, &(struct ledger_event){.kind = EVENT_MESSAGE, .worker = peer, .head = failed});
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
            step(loop, &(struct ledger_event){.kind = EVENT_MESSAGE,
                                              .worker = peer,
                                              .head = &msg->head,
                                              .blobs = msg->blobs});
        msg_clear(msg);
    }
    return true;
}

/* ---- time ---- */

/* Comments for quiet streams, and what slow readers have not taken. */
static void look_after_streams(struct loop *loop)
{
    static const char comment[] = ": \n\n";
    int64_t now_us = clock_now_us();

    for (size_t i = 0; i < loop->n_clients; i++) {
        struct client *client = loop->clients[i];
        if (!client->begun || !client->submitted)
            continue;
        uint64_t unsent = exchange_unsent(client->exchange);
        uint64_t known = client->reported_bytes;
        if (unsent == 0 && now_us - client->written_us >= LOOP_COMMENT_US) {
            client->written_us = now_us;
            exchange_write(client->exchange, span_of(comment, sizeof comment - 1));
        }
        uint64_t change = unsent > known ? unsent - known : known - unsent;
        if (change >= LOOP_UNSENT_STEP || (unsent == 0 && known > 0)) {
            client->reported_bytes = unsent;
            step(loop, &(struct ledger_event){.kind = EVENT_CLIENT_UNSENT,
                                              .rid = client->rid,
                                              .unsent_bytes = unsent});
        }
    }
}

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
    step(loop, &(struct ledger_event){.kind = EVENT_DRAIN});
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
        if (fds[2].revents & POLLIN)
            start_draining(loop);
        http_run(loop->http);
        look_after_streams(loop);
        if (clock_now_us() >= ledger_next_us(loop->ledger))
            step(loop, &(struct ledger_event){.kind = EVENT_TICK});
        more = release_step();
        more = drain_bus(loop, msg) || more;
    }
    heap_free(msg);
}

/* Time is over: whoever still waits is told so, and their connections end. */
static void end_clients(struct loop *loop)
{
    static const struct ledger_action over = {
        .kind = ACTION_END, .code = STATUS_UNAVAILABLE, .text = "shutting down"};
    int64_t end_us = clock_now_us() + LOOP_GOODBYE_US;

    for (size_t i = 0; i < loop->n_clients; i++) {
        if (loop->clients[i]->submitted)
            give_error(loop, loop->clients[i], &over);
        loop->clients[i]->submitted = false;
    }
    while (loop->n_clients > 0 && clock_now_us() < end_us) {
        struct pollfd fd = {.fd = http_descriptor(loop->http), .events = POLLIN};
        (void)poll(&fd, 1, 10);
        http_run(loop->http);
    }
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
    random_bytes(&loop->hash_seed, sizeof loop->hash_seed);
    loop->ledger = ledger_new(&options->ledger);
    bool ok = open_signals(loop, st) && bus_open(&loop->bus, options->bus, st) &&
              http_open(&loop->http, options->listen, &calls, loop, st);
    if (ok) {
        log_info("listening", "http=%s bus=%s", http_address(loop->http), options->bus);
        serve(loop);
        log_info("stopped", "requests_left=%zu", loop->n_clients);
        end_clients(loop);
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
