/* bench_model.h - what a bench has opened, for the parts that measure it. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define COMPANIES 3
#define PROMPT_SHORT ((size_t)16)
#define ROOM_TOKENS ((size_t)512) /* behind the longest prompt or depth: a piece, and rows */

/* Answers that are written at once. */
struct company {
    size_t streams;
    struct batch *batch; /* NULL: not wanted yet */
};

struct bench {
    struct weights *weights, *media, *drafter_file;
    struct drafter *drafter; /* NULL: none */
    struct tokenizer *tokenizer;
    struct projector *projector;
    struct pool *pool;
    struct model *model;
    struct batch *batch; /* reads prompts */
    struct company company[COMPANIES];
    int32_t *ids; /* [prompt_max] a prompt */
    size_t prompt_max;
    double start_s, lay_out_s, lay_out_bytes;
};
