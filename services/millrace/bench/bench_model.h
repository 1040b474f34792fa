/* bench_model.h - what a bench has opened, for the parts that measure it. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct bench {
    struct weights *weights, *media, *drafter_file;
    struct drafter *drafter; /* NULL: none */
    struct tokenizer *tokenizer;
    struct projector *projector;
    struct pool *pool;
    struct model *model;
    struct batch *batch;
    int32_t *ids; /* [depth_max + ROOM_TOKENS] a prompt */
    size_t depth_max;
    double start_s;
};
