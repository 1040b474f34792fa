/* up.h - a line as `up` starts it: flags and pipeline file make the plan, the plan makes processes.
 */
#pragma once
#include "engine/base/config.h"
#include "services/millrace/fit.h"
#include "services/millrace/supervise.h"

#define RUNTIME_BASE_MAX 80 /* with /millrace-XXXXXX/bus it fits into a socket's address */

struct up {
    struct config config;
    struct fit fit;
    char programs[CONFIG_PATH_MAX];      /* folder of this program */
    char runtime[RUNTIME_BASE_MAX + 24]; /* fresh folder of the bus, removed at the end; "": none */
    char bus[CONFIG_PATH_MAX];
    bool verbose;
    uint64_t kv_bytes;
};

/* Gives the supervisor the gateway and every stage that a pipeline uses, each with its arguments.
 * The plan is whole: checked, and with the bus. */
void up_add_children(struct up *up, struct supervise *s);
