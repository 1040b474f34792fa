/* loop_private.h - what the loop's two files share: loop.c has the bus, the ledger and the time,
 * loop_clients.c the exchanges of HTTP. */
#pragma once
#include "gateway/api.h"
#include "gateway/body.h"
#include "gateway/http.h"
#include "gateway/loop.h"
#include "proto/link.h"

/* One exchange of HTTP, and the request of the ledger that it may become. */
struct client {
    struct exchange *exchange;
    const struct api_route *route;
    struct body *body;
    size_t body_bytes;
    int64_t began_us;
    struct rid rid;
    struct api_media media;
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

void loop_random(void *out, size_t size);

/* The event goes to the ledger, and what it asks for is done. */
void loop_step(struct loop *loop, const struct ledger_event *event);

/* What HTTP calls; its context is the loop. */
extern const struct http_calls client_calls;

struct client *client_find(struct loop *loop, struct rid rid);
void client_give_bytes(struct client *client, struct span bytes, bool last);
void client_give_error(struct loop *loop, struct client *client,
                       const struct ledger_action *action);

void clients_look_after(struct loop *loop);
void clients_end(struct loop *loop);
