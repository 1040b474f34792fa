#include "gateway/http.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "gateway/crowd.h"
#include "gateway/listen.h"
#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK_BYTES 32768 /* of a stream, given to the library at once */
/* More connections than this: for each new one, one that sends no request goes. The rest up to
 * HTTP_CONNECTIONS_MAX is room for the new ones until the old ones are closed. */
#define CROWDED (HTTP_CONNECTIONS_MAX - HTTP_CONNECTIONS_MAX / 16)

struct http {
    struct MHD_Daemon *daemon;
    const struct http_calls *calls;
    void *context;
    int epoll;    /* the library's epoll set, and the sockets watched for hang-up */
    int listen;   /* -1 once it is the library's */
    bool resumed; /* the library must run, though no socket says so */
    int64_t turn_end_us;
    struct exchange *put_off; /* a list: their bodies wait for the next turn */
    struct crowd crowd;
    size_t n_connections;
    char address[HTTP_ADDRESS_MAX];
};

struct exchange {
    struct http *http;
    struct MHD_Connection *connection;
    void *owner;
    char *method, *path;
    int64_t length;
    bool in_handler, suspended, is_whole, streaming, ended, gone, watched, queued;
    struct MHD_Response *response; /* held until it may be queued */
    unsigned status;
    uint64_t drop_bytes_max, dropped_bytes;
    struct buffer unsent; /* of a stream; the first bytes of it are sent */
    size_t sent_bytes;
    struct exchange *next_put_off;
};

/* ---- watching for hang-up ---- */

static int socket_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    return info ? info->connect_fd : -1;
}

static void watch(struct exchange *x)
{
    struct epoll_event event = {.events = EPOLLRDHUP, .data.ptr = x};

    if (x->watched)
        return;
    x->watched = epoll_ctl(x->http->epoll, EPOLL_CTL_ADD, socket_of(x->connection), &event) == 0;
    if (!x->watched)
        log_warn("socket cannot be watched", "errno=%d", errno);
}

static void unwatch(struct exchange *x)
{
    if (x->watched)
        (void)epoll_ctl(x->http->epoll, EPOLL_CTL_DEL, socket_of(x->connection), NULL);
    x->watched = false;
}

/* ---- too many connections ---- */

static struct crowd_member *member_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http *http = context;

    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        crowd_remove(*socket_context);
        heap_free(*socket_context);
        http->n_connections--;
        return;
    }
    *socket_context = heap_array(struct crowd_member, 1);
    crowd_add(&http->crowd, *socket_context, socket_of(connection));
    if (++http->n_connections > CROWDED)
        crowd_shut_oldest(&http->crowd);
}

/* ---- answers ---- */

static void resume(struct exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    x->http->resumed = true;
    MHD_resume_connection(x->connection);
}

static enum MHD_Result queue(struct exchange *x)
{
    enum MHD_Result ok = MHD_queue_response(x->connection, x->status, x->response);

    MHD_destroy_response(x->response);
    x->response = NULL;
    x->queued = true;
    return ok;
}

static void add_headers(struct MHD_Response *response, const struct http_answer *answer)
{
    char seconds[24];

    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer->type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (answer->allow)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, answer->allow);
    if (answer->retry_after_s > 0) {
        (void)snprintf(seconds, sizeof seconds, "%lld", (long long)answer->retry_after_s);
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
}

/* Now when the library allows it, else as soon as it does. */
static void give(struct exchange *x, struct MHD_Response *response,
                 const struct http_answer *answer)
{
    assert(!x->response && !x->queued);
    x->response = response;
    x->status = answer->http;
    add_headers(response, answer);
    if (!x->suspended)
        return;
    (void)queue(x);
    resume(x);
}

void exchange_answer(struct exchange *x, const struct http_answer *answer, struct span body,
                     uint64_t drop_bytes_max)
{
    if (x->gone || x->response || x->queued)
        return;
    x->ended = true;
    x->drop_bytes_max = drop_bytes_max;
    /* The library copies; it does not change what is behind the pointer. */
    give(x, MHD_create_response_from_buffer(body.size, (void *)body.data, MHD_RESPMEM_MUST_COPY),
         answer);
}

/* The library asks for bytes of a stream. */
static ssize_t read_stream(void *context, uint64_t pos, char *out, size_t max)
{
    struct exchange *x = context;
    size_t n = x->unsent.size - x->sent_bytes;

    (void)pos;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n > 0) {
        n = n < max ? n : max;
        memcpy(out, x->unsent.data + x->sent_bytes, n);
        x->sent_bytes += n;
        return (ssize_t)n;
    }
    if (x->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    return 0;
}

void exchange_begin(struct exchange *x, const struct http_answer *answer)
{
    if (x->gone)
        return;
    assert(x->is_whole);
    x->streaming = true;
    give(x, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, x, NULL),
         answer);
}

void exchange_write(struct exchange *x, struct span piece)
{
    struct buffer *unsent = &x->unsent;

    if (x->gone || piece.size == 0)
        return;
    assert(x->streaming && !x->ended);
    if (x->sent_bytes > unsent->size / 2) { /* each byte is moved once at most, on average */
        unsent->size -= x->sent_bytes;
        memmove(unsent->data, unsent->data + x->sent_bytes, unsent->size);
        x->sent_bytes = 0;
    }
    buffer_append(unsent, piece.data, piece.size);
    resume(x);
}

void exchange_end(struct exchange *x)
{
    if (x->gone)
        return;
    x->ended = true;
    resume(x);
}

uint64_t exchange_unsent(const struct exchange *x)
{
    return x->unsent.size - x->sent_bytes;
}

/* ---- requests ---- */

const char *exchange_method(const struct exchange *x)
{
    return x->method;
}

const char *exchange_path(const struct exchange *x)
{
    return x->path;
}

int64_t exchange_length(const struct exchange *x)
{
    return x->length;
}

void exchange_set(struct exchange *x, void *owner)
{
    x->owner = owner;
}

void *exchange_owner(const struct exchange *x)
{
    return x->owner;
}

static const char *header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static struct exchange *exchange_new(struct http *http, struct MHD_Connection *connection,
                                     const char *method, const char *path)
{
    struct exchange *x = heap_array(struct exchange, 1);

    *x = (struct exchange){.http = http, .connection = connection, .length = -1};
    x->method = heap_text(method, strlen(method));
    x->path = heap_text(path, strlen(path));
    const char *length = header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (length)
        x->length = strtoll(length, NULL, 10);
    return x;
}

static void exchange_free(struct exchange *x)
{
    buffer_clear(&x->unsent);
    if (x->response)
        MHD_destroy_response(x->response);
    heap_free(x->method);
    heap_free(x->path);
    heap_free(x);
}

/* The first call for a request: its head is there. */
static enum MHD_Result take_head(struct exchange *x)
{
    x->http->calls->head(x->http->context, x);
    if (x->length > 0 || header(x, MHD_HTTP_HEADER_TRANSFER_ENCODING))
        watch(x);
    if (!x->response)
        return MHD_YES;
    /* A client that asks before it sends, or would send more than anybody wants to drop, gets its
     * answer at once; the connection then ends. */
    bool asks = header(x, MHD_HTTP_HEADER_EXPECT) != NULL;
    bool too_much = x->length > 0 && (uint64_t)x->length > x->drop_bytes_max;
    return asks || too_much ? queue(x) : MHD_YES;
}

/* The piece is not taken now. The library offers it again when the connection goes on; by itself it
 * would only do so when more bytes come, and these may be the last. */
static void put_off(struct exchange *x)
{
    x->next_put_off = x->http->put_off;
    x->http->put_off = x;
    MHD_suspend_connection(x->connection);
}

static void go_on(struct http *http)
{
    while (http->put_off) {
        struct exchange *x = http->put_off;
        http->put_off = x->next_put_off;
        MHD_resume_connection(x->connection);
    }
}

static enum MHD_Result take_piece(struct exchange *x, const char *data, size_t *size)
{
    struct http *http = x->http;

    if (x->response) {
        x->dropped_bytes += *size;
        *size = 0;
        return x->dropped_bytes <= x->drop_bytes_max ? MHD_YES : MHD_NO;
    }
    if (clock_now_us() > http->turn_end_us) {
        put_off(x);
        return MHD_YES;
    }
    http->calls->body(http->context, x, span_of(data, *size));
    *size = 0;
    return MHD_YES;
}

static enum MHD_Result take_end(struct exchange *x)
{
    crowd_remove(member_of(x->connection));
    if (!x->response) {
        x->is_whole = true;
        x->http->calls->whole(x->http->context, x);
    }
    if (x->response)
        return queue(x);
    watch(x);
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    return MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    struct exchange *x = *state;

    (void)version;
    if (!x) {
        x = exchange_new(context, connection, method, url);
        *state = x;
        return take_head(x);
    }
    if (x->queued)
        return MHD_YES;
    return *upload_size > 0 ? take_piece(x, upload, upload_size) : take_end(x);
}

static void tell_gone(struct exchange *x)
{
    if (x->gone)
        return;
    x->gone = true;
    x->http->calls->gone(x->http->context, x);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode how)
{
    struct exchange *x = *state;
    struct http *http = context;

    if (!x)
        return;
    *state = NULL;
    crowd_remove(member_of(connection));
    crowd_add(&http->crowd, member_of(connection),
              socket_of(connection)); /* for its next request */
    unwatch(x);
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        tell_gone(x);
    http->calls->done(http->context, x);
    exchange_free(x);
}

/* A client has hung up: the socket of its request says so. */
static void on_hang_up(struct exchange *x)
{
    static const struct http_answer closed = {.http = 400, .type = "text/plain"};

    unwatch(x);
    if (x->gone)
        return;
    tell_gone(x);
    /* The library would wait for the rest of a body until the connection times out. */
    if (!x->is_whole)
        (void)shutdown(socket_of(x->connection), SHUT_RDWR);
    if (!x->suspended)
        return;
    if (!x->queued)
        give(x, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT), &closed);
    else
        resume(x);
}

/* ---- the server ---- */

static void on_library_log(void *context, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static void on_library_log(void *context, const char *format, va_list args)
{
    char text[512];

    (void)context;
    (void)vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("libmicrohttpd", "text=%s", log_quoted(text).text);
}

static bool start_daemon(struct http *http, struct status *st)
{
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
        http, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        http->listen, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, http, MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S, MHD_OPTION_END);
    if (!http->daemon)
        return status_fail(st, STATUS_SYSTEM, "libmicrohttpd does not start");
    http->listen = -1;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    assert(info);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    http->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (http->epoll < 0 || epoll_ctl(http->epoll, EPOLL_CTL_ADD, info->epoll_fd, &event) < 0)
        return status_fail_sys(st, errno, "epoll");
    return true;
}

bool http_open(struct http **out, const char *listen, const struct http_calls *calls, void *context,
               struct status *st)
{
    struct http *http = heap_array(struct http, 1);

    http->calls = calls;
    http->context = context;
    http->epoll = -1;
    crowd_init(&http->crowd);
    http->listen = listen_open(listen, http->address, st);
    if (http->listen < 0 || !start_daemon(http, st)) {
        http_close(http);
        return false;
    }
    *out = http;
    return true;
}

void http_close(struct http *http)
{
    if (!http)
        return;
    if (http->daemon) {
        go_on(http);
        MHD_stop_daemon(http->daemon);
    }
    if (http->listen >= 0)
        (void)close(http->listen);
    if (http->epoll >= 0)
        (void)close(http->epoll);
    heap_free(http);
}

const char *http_address(const struct http *http)
{
    return http->address;
}

void http_stop_accepting(struct http *http)
{
    MHD_socket socket = MHD_quiesce_daemon(http->daemon);

    if (socket != MHD_INVALID_SOCKET)
        (void)close(socket);
}

int http_descriptor(const struct http *http)
{
    return http->epoll;
}

int http_timeout_ms(const struct http *http)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (http->resumed || http->put_off)
        return 0;
    if (MHD_get_timeout(http->daemon, &ms) != MHD_YES)
        return -1;
    return ms < 60000 ? (int)ms : 60000;
}

void http_run(struct http *http)
{
    struct epoll_event events[64];
    int n = epoll_wait(http->epoll, events, sizeof events / sizeof *events, 0);

    for (int i = 0; i < n; i++)
        if (events[i].data.ptr)
            on_hang_up(events[i].data.ptr);
    http->resumed = false;
    go_on(http);
    http->turn_end_us = clock_now_us() + HTTP_TURN_US;
    (void)MHD_run(http->daemon);
}
