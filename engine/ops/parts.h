/* parts.h - what the files of this folder share. */
#pragma once
#include "engine/kernels/kernels.h"
#include "engine/ops/ops.h"

/* Multiplications that are worth a piece of their own: waking a thread costs some 10 us. */
#define WORK_GRAIN ((size_t)1 << 18)
/* The same of work on single numbers. */
#define ELEMENTS_GRAIN 4096

struct attend_memory; /* attend.c: of a call in progress */
struct gated_memory;  /* matmul.c: the same */
struct panel_store;   /* panels.h */

struct ops {
    struct pool *pool;
    const struct kernel_set *set;
    enum precision precision;
    struct attend_memory *attend;
    struct gated_memory *gated;
    struct panel_store *panels;
    char name[40];
};

struct attend_memory *attend_memory_new(size_t threads);
void attend_memory_free(struct attend_memory *memory);
struct gated_memory *gated_memory_new(size_t threads);
