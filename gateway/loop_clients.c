/* The loop's other half: what comes by HTTP, and the answers. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "gateway/loop_private.h"
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct client *client_find(struct loop *loop, struct rid rid)
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

void client_give_bytes(struct client *client, struct span bytes, bool last)
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
}

/* The ledger has ended the request with an error. In a stream that has begun it is an event of its
 * own, never a forged stop. */
void client_give_error(struct loop *loop, struct client *client, const struct ledger_action *action)
{
    struct api_error error;
    struct buffer event = {0};

    api_error_from_end(&error, action->code, action->text, action->retry_after_s, &client->media);
    log_info("request failed", "request=%s code=%s text=%s", rid_hex(client->rid).text,
             status_name(action->code), log_quoted(action->text).text);
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

/* ---- HTTP ---- */

static struct api_context context_of(const struct loop *loop)
{
    struct api_context context = {.config = &loop->options->ledger,
                                  .ledger = loop->ledger,
                                  .usual = loop->options->usual,
                                  .created = (int64_t)time(NULL),
                                  .draining = loop->draining};

    loop_random(&context.random, sizeof context.random);
    return context;
}

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

/* Beyond the bound the upload that began first gives way: whoever holds the room and does not come
 * to an end keeps nobody else out. */
static void make_room(struct loop *loop)
{
    while (loop->uploading_bytes > loop->options->ledger.memory_max_bytes) {
        struct client *oldest = NULL;
        struct api_error error;
        for (size_t i = 0; i < loop->n_clients; i++) {
            struct client *client = loop->clients[i];
            if (client->body_bytes && (!oldest || client->began_us < oldest->began_us))
                oldest = client;
        }
        assert(oldest);
        (void)api_refuse(&error, STATUS_UNAVAILABLE, "", "too many bodies are being sent");
        error.retry_after_s = 1;
        let_go_of_body(loop, oldest);
        refuse(loop, oldest, &error, NULL);
    }
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
    make_room(loop);
    if (client->body && !body_push(client->body, piece, &st))
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

    loop_random(&event.rid, sizeof event.rid);
    client->rid = event.rid;
    client->media = request->media;
    client->stream = request->stream;
    client->submitted = true;
    log_debug("request", "request=%s blobs=%zu reserve_bytes=%llu", rid_hex(event.rid).text,
              request->msg->head.n_blobs, (unsigned long long)request->reserve_bytes);
    loop_step(loop, &event);
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
        answer.http =
            client->route->answer(&api, exchange_path(x) + strlen(client->route->path), &out);
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
    loop_step(context, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = client->rid});
}

static void on_done(void *context, struct exchange *x)
{
    struct loop *loop = context;
    struct client *client = exchange_owner(x);
    char path[101];
    size_t i = 0;

    (void)snprintf(path, sizeof path, "%s", exchange_path(x));
    log_info("exchange", "method=%.16s path=%s http=%u elapsed_ms=%.1f", exchange_method(x),
             log_quoted(path).text, client->http,
             (double)(clock_now_us() - client->began_us) / 1000);
    while (loop->clients[i] != client)
        i++;
    loop->clients[i] = loop->clients[--loop->n_clients];
    let_go_of_body(loop, client);
    buffer_clear(&client->whole);
    heap_free(client);
}

const struct http_calls client_calls = {
    .head = on_head, .body = on_body, .whole = on_whole, .gone = on_gone, .done = on_done};

/* ---- time ---- */

/* Comments for quiet streams, and what slow readers have not taken. */
void clients_look_after(struct loop *loop)
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
            loop_step(loop, &(struct ledger_event){.kind = EVENT_CLIENT_UNSENT,
                                                   .rid = client->rid,
                                                   .unsent_bytes = unsent});
        }
    }
}

/* Time is over: whoever still waits is told so, and their connections end. */
void clients_end(struct loop *loop)
{
    static const struct ledger_action over = {
        .kind = ACTION_END, .code = STATUS_UNAVAILABLE, .text = "shutting down"};
    int64_t end_us = clock_now_us() + LOOP_GOODBYE_US;

    for (size_t i = 0; i < loop->n_clients; i++) {
        if (loop->clients[i]->submitted)
            client_give_error(loop, loop->clients[i], &over);
        loop->clients[i]->submitted = false;
    }
    while (loop->n_clients > 0 && clock_now_us() < end_us) {
        struct pollfd fd = {.fd = http_descriptor(loop->http), .events = POLLIN};
        (void)poll(&fd, 1, 10);
        http_run(loop->http);
    }
}
