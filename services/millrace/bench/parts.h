/* parts.h - what `millrace bench` measures, part by part. */
#pragma once
#include "services/millrace/bench/bench.h"
#include "services/millrace/bench/machine.h"
#include "services/millrace/bench/report.h"

#define DEPTHS_MAX 4

struct run {
    struct bench *b;
    struct machine *machine;
    struct report report;
    size_t n_depths, depths[DEPTHS_MAX];
    bool whole; /* the prompt of PARTS_LONG_TOKENS is read as a whole */
};
#define PARTS_LONG_TOKENS ((size_t)8192)
#define PARTS_PROMPT_TOKENS ((size_t)512) /* longest prompt but that one */

struct part {
    const char *name;
    const char *what;
    void (*measure)(struct run *run); /* one round of it */
};
extern const struct part parts[];
extern const size_t parts_n;
