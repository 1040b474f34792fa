/* supervise.h - children of `up`: started, watched, restarted with back-off, told to the gateway.
 */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>

#define CHILDREN_MAX 128
#define CHILD_ARGUMENTS_MAX 40

struct supervise;

/* From here on SIGINT, SIGTERM, SIGCHLD and, where it is not ignored, SIGHUP (a terminal that
 * closes) are blocked in this process for good, and read from a descriptor: call it before anything
 * is made that has to be cleared away. supervise_connect goes to the bus at this address, for
 * `gone` messages, before the first turn. supervise_free ends all children: SIGTERM, and after two
 * seconds SIGKILL. */
MUST_CHECK bool supervise_new(struct supervise **out, struct status *st);
MUST_CHECK bool supervise_connect(struct supervise *s, const char *bus, struct status *st);
void supervise_free(struct supervise *s);

/* A process to keep running: argv [n] ends with NULL and is copied; its texts too. `seat` is its
 * place on the wire ("" for the gateway, which has none): --seat and --start are added. */
void supervise_add(struct supervise *s, const char *name, const char *seat,
                   const char *const *argv);

/* How a turn of the loop ended. */
enum supervise_turn {
    SUPERVISE_GOING,
    SUPERVISE_STOPPED, /* a signal asked to stop */
    SUPERVISE_GIVEN_UP /* before `ready` was said, a child ended by itself: nothing to watch */
};

/* One turn of at most timeout_ms: reaps, restarts what is due, reads the bus. A child that ends is
 * started again at once, later with growing pauses; after 3 deaths in 10 s a line says so and it
 * rests for a while. ready: the line has been ready before. */
enum supervise_turn supervise_run(struct supervise *s, int timeout_ms, bool ready);
