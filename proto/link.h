/* link.h - sockets: a gateway's bus and a worker's line to it; the only file that speaks ZeroMQ.
 *
 * Addresses: ipc:///absolute/path (its directory must be ours with mode 0700; made when missing) or
 * tcp://127.x.x.x:port. Beyond loopback is refused until links are encrypted.
 *
 * The descriptors are edge-triggered, as ZeroMQ's are: they become readable when something may have
 * changed and not again for the same reason. So the owner calls receive until it says false each
 * time the descriptor was readable, and once more after it has sent and before it waits. */
#pragma once
#include "engine/base/status.h"
#include "proto/msg.h"

#define LINK_ADDRESS_MAX 128
#define LINK_FDS_MAX 64

/* Where gateway and workers meet when nobody says otherwise: ipc in $XDG_RUNTIME_DIR/millrace, or
 * in /tmp/millrace-UID. */
void link_default_address(char out[LINK_ADDRESS_MAX]);

/* The gateway's end: a ROUTER bound to one address; peers are numbered as they come. A peer is one
 * connection: a worker that lost its connection and is back has a new number. */
struct bus;
#define BUS_PEERS_MAX 1024
#define BUS_PEER_NONE UINT32_MAX
MUST_CHECK bool bus_open(struct bus **out, const char *address, struct status *st);
void bus_close(struct bus *bus);
int bus_descriptor(const struct bus *bus); /* readable when something may have happened (edge!) */

/* Receive one message without waiting: true and a peer number, or false when there is none. A
 * message that is not well formed is dropped; `bad` then says so and `st` why, and *out_peer is
 * its sender (BUS_PEER_NONE when there are too many). When only the blobs were wrong, msg->head
 * tells kind, rid and epoch, without blobs; else head.kind is MSG_KINDS. The caller clears msg. */
bool bus_receive(struct bus *bus, struct msg *msg, uint32_t *out_peer, bool *bad,
                 struct status *st);
/* Send; the message's blobs are let go in any case. False when the peer is unreachable
 * (STATUS_UNAVAILABLE) or its queue is full (STATUS_BUSY). */
MUST_CHECK bool bus_send_take(struct bus *bus, uint32_t peer, struct msg *msg, struct status *st);
/* The number may be used again; nothing is sent. If the peer writes once more it gets a number as
 * if it were new. A peer that is answered `refuse` is best forgotten at once. */
void bus_forget(struct bus *bus, uint32_t peer);

/* A worker's end: a DEALER connected to the gateway. */
struct link;
MUST_CHECK bool link_open(struct link **out, const char *address, struct status *st);
void link_close(struct link *link);                 /* what is not sent yet is lost */
void link_finish(struct link *link, int linger_ms); /* close; waits so long for what is unsent */
int link_descriptor(const struct link *link);
bool link_receive(struct link *link, struct msg *msg, bool *bad, struct status *st); /* as bus */
/* Whether a gateway is connected and the queue to it has room. */
bool link_can_send(const struct link *link);
MUST_CHECK bool link_send_take(struct link *link, struct msg *msg, struct status *st);
/* Wait until a message may be there, one of `fds` [n] is readable, a signal came, or timeout_ms is
 * over (-1: no limit). readable [n] is set; returns true when the link has a message. n is at most
 * LINK_FDS_MAX. */
bool link_wait(struct link *link, const int *fds, size_t n, bool *readable, int timeout_ms);
