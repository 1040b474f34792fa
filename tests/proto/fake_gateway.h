/* fake_gateway.h - a bus that plays gateway to one stage in a child process, for tests of stages.
 */
#pragma once
#include "proto/link.h"
#include <stdint.h>
#include <sys/types.h>

struct fake_gateway {
    char directory[64];
    char address[LINK_ADDRESS_MAX];
    struct bus *bus;
    uint32_t peer;      /* who sent `in`, who is told `out` */
    pid_t child;        /* 0: none; killed by close */
    struct msg in, out; /* the last one received; the next one sent */
};
extern struct fake_gateway fake;

/* A directory and an address in it, without a bus: a child that is forked now has no ZeroMQ. */
bool fake_gateway_place(void);
bool fake_gateway_open(void);
/* Also removes the directory: false when something else lies in it. */
bool fake_gateway_close(void);

/* The next message that is not a beat, into fake.in; fails the test after some seconds, and when it
 * is of another kind. */
void expect(enum msg_kind kind);
/* Sends fake.out; what it has is taken. */
void tell(void);
/* Greets a stage which then gives that many credits. */
void welcome(uint32_t credits);
