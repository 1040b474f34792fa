/* http.h - HTTP in; whole answers and streams out; the only file that speaks libmicrohttpd. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stdint.h>

#define HTTP_CONNECTIONS_MAX 256 /* when it gets near, idle ones are closed, oldest first */
#define HTTP_CONNECTION_BYTES (64U << 10) /* of a connection: request head, and a piece of body */
#define HTTP_IDLE_S 60                    /* a connection on which nothing comes is closed */
#define HTTP_TURN_US 1000                 /* of one http_run, for bodies; the rest waits a turn */
#define HTTP_ADDRESS_MAX 64

struct http;     /* the server */
struct exchange; /* one request and its answer */

/* What the owner is told, from within http_run. An exchange ends with exactly one `done`, after
 * which it is gone. */
struct http_calls {
    void (*head)(void *context, struct exchange *x); /* before the body; may answer */
    void (*body)(void *context, struct exchange *x, struct span piece); /* may answer */
    void (*whole)(void *context,
                  struct exchange *x);               /* the body is complete; answer now or later */
    void (*gone)(void *context, struct exchange *x); /* the client left before the answer's end */
    void (*done)(void *context, struct exchange *x);
};

/* listen: "127.0.0.1:8080", "[::1]:8080"; port 0 takes a free one. calls must outlive it. */
MUST_CHECK bool http_open(struct http **out, const char *listen, const struct http_calls *calls,
                          void *context, struct status *st);
void http_close(struct http *http);
const char *http_address(const struct http *http); /* with the port that it has */
void http_stop_accepting(struct http *http);

int http_descriptor(const struct http *http); /* readable: call http_run */
int http_timeout_ms(const struct http *http); /* call http_run after so long; -1: no limit */
void http_run(struct http *http);             /* never waits */

const char *exchange_method(const struct exchange *x);
const char *exchange_path(const struct exchange *x); /* without the query */
int64_t exchange_length(const struct exchange *x);   /* the body's, as announced; -1: not said */
void exchange_set(struct exchange *x, void *owner);
void *exchange_owner(const struct exchange *x);

/* An answer. `allow` (405) and retry_after_s (> 0) become headers. */
struct http_answer {
    unsigned http;
    const char *type; /* of the content */
    const char *allow;
    int64_t retry_after_s;
};
/* The whole answer at once; body is copied. What is left of the request's body is read and dropped,
 * at most drop_bytes_max of it: a client that is still sending would not see the answer else. */
void exchange_answer(struct exchange *x, const struct http_answer *answer, struct span body,
                     uint64_t drop_bytes_max);
/* A stream, after `whole`: begin, pieces (copied), end. */
void exchange_begin(struct exchange *x, const struct http_answer *answer);
void exchange_write(struct exchange *x, struct span piece);
void exchange_end(struct exchange *x);
uint64_t exchange_unsent(const struct exchange *x); /* bytes written that the client did not take */
