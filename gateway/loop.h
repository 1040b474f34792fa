/* loop.h - the gateway's one loop: sockets and timers → events → ledger_step → actions. */
#pragma once
#include "engine/base/status.h"
#include "gateway/api.h"
#include "gateway/ledger.h"
#include <stddef.h>

#define LOOP_DEADLINE_US INT64_C(600000000) /* of a request */
#define LOOP_DRAIN_US 5000000               /* after SIGTERM */
#define LOOP_GOODBYE_US 200000              /* and then, for last words */
#define LOOP_COMMENT_US 1000000             /* a quiet stream gets a comment this often */
#define LOOP_MESSAGES_MAX 256               /* of the bus, in one turn */
#define LOOP_UNSENT_STEP 65536              /* a change that the ledger is told of, in bytes */

struct loop_options {
    const char *listen, *bus;
    size_t body_bytes_max;
    struct ledger_config ledger;
    struct api_media_usual usual;
};

/* Serve until SIGTERM or SIGINT. False when it cannot begin. */
MUST_CHECK bool loop_run(const struct loop_options *options, struct status *st);
