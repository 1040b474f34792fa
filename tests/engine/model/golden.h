/* golden.h - golden case files and the models they name, for tests of the decoder. */
#pragma once
#include "engine/base/status.h"
#include "engine/model/model.h"
#include "engine/weights/weights.h"
#include <stddef.h>
#include <stdint.h>

#define GOLDEN_PATH_MAX 512

/* Where a file of the golden set lies: in tests/golden, else in $MILLRACE_GOLDEN or
 * ../shared/golden. False when it is in neither. */
bool golden_path(char out[GOLDEN_PATH_MAX], const char *name);

/* A model of the set ("models/nano-f32.gguf"). */
struct golden_model {
    struct weights *weights;
    struct pool *pool;
    struct model *model;
};
/* Skips the test, saying why, when the file is not there; fails it when it cannot be opened. */
void golden_model_open(struct golden_model *m, const char *name, bool exact, size_t threads);
void golden_model_close(struct golden_model *m);

/* A case of the set; skips the test when it is not there. */
struct weights *golden_case_open(const char *name);
/* The tensor's values; *out_n of them in all. Fails the test when there is none of that type. */
const float *golden_f32(const struct weights *c, const char *name, size_t *out_n);
const int32_t *golden_i32(const struct weights *c, const char *name, size_t *out_n);

/* Read inputs [n] in chunks of the given sizes (0-terminated or used up: the rest at once), asking
 * for logits [n][vocabulary] of every row. Sequence and logits of the inputs are set here. A chunk
 * that would end inside a picture is made longer. `watch` as forward_trace. */
struct golden_reading {
    struct model_input *inputs;
    size_t n;
    const int32_t *chunks; /* NULL: all at once */
    size_t n_chunks;
    int64_t budget_us; /* of each forward_advance */
    forward_watch *watch;
    void *watch_context;
};
void golden_read(struct model *m, const struct golden_reading *reading, float *logits);

/* The largest difference; equal infinities count as equal, NaN as infinite. */
double golden_distance(const float *a, const float *b, size_t n);
