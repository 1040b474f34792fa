/* link.h - sockets: a gateway's bus and a worker's line to it; the only file that speaks ZeroMQ. */
#pragma once
#include "engine/base/status.h"
#include "proto/msg.h"

/* The gateway's end: a ROUTER bound to one address; peers are numbered as they come. */
struct bus;
#define BUS_PEERS_MAX 1024
MUST_CHECK bool bus_open(struct bus **out, const char *address, struct status *st);
void bus_close(struct bus *bus);
int bus_descriptor(const struct bus *bus); /* readable when something may have happened (edge!) */

/* Receive one message without waiting: true and a peer number, or false when there is none. A
 * message that is not well formed is dropped; `bad` then says so and `st` why, and *out_peer is
 * its sender. The caller clears msg. */
bool bus_receive(struct bus *bus, struct msg *msg, uint32_t *out_peer, bool *bad,
                 struct status *st);
/* Send; the message's blobs are let go in any case. False when the peer is unreachable or its
 * queue is full. */
MUST_CHECK bool bus_send_take(struct bus *bus, uint32_t peer, struct msg *msg, struct status *st);
void bus_forget(struct bus *bus, uint32_t peer); /* its number may be used again */

/* A worker's end: a DEALER connected to the gateway. */
struct link;
MUST_CHECK bool link_open(struct link **out, const char *address, struct status *st);
void link_close(struct link *link);
int link_descriptor(const struct link *link);
bool link_receive(struct link *link, struct msg *msg, bool *bad, struct status *st);
MUST_CHECK bool link_send_take(struct link *link, struct msg *msg, struct status *st);
/* Wait until a message may be there, one of `fds` [n] is readable, or timeout_ms is over.
 * readable [n] is set; returns true when the link has a message. */
bool link_wait(struct link *link, const int *fds, size_t n, bool *readable, int timeout_ms);
