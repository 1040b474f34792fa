/* conform.h - golden cases through the real code: what is shared by the kinds of cases. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/weights/weights.h"
#include <stddef.h>
#include <stdint.h>

#define CONFORM_PATH_MAX 1024
#define CONFORM_TENSORS_MAX 512 /* of one case */

/* A run over many cases. */
struct conform {
    const char *skip; /* "video,q4_1": words of case names, by comma */
    bool fast;
    size_t passed, failed, skipped;
    double worst; /* largest difference / tolerance so far; of equal-or-not cases 0 or infinity */
};

/* One case and how far it is off. */
struct conform_case {
    struct conform *run;
    char name[128];
    char folder[CONFORM_PATH_MAX]; /* of the file: models are named relative to it */
    const struct weights *file;    /* NULL for a line of JSON */
    double tolerance;
    double largest;                 /* difference so far */
    char where[96];                 /* the tensor it is in */
    char why[240];                  /* first failure; "": none */
    bool seen[CONFORM_TENSORS_MAX]; /* tensors that were compared or used as input */
};

/* Whether a word of --skip is among the dash-separated parts of this name. */
bool conform_skips(const struct conform *run, const char *name);

/* Record a failure (the first one is shown). */
void conform_fail(struct conform_case *c, const char *format, ...) PRINTF_LIKE(2, 3);

/* Tensors of the case, marked as seen. NULL, and a failure, when it is not there or of another
 * type. */
const struct tensor_view *conform_tensor(struct conform_case *c, const char *name);
const float *conform_f32(struct conform_case *c, const char *name, size_t *out_n);
const int32_t *conform_i32(struct conform_case *c, const char *name, size_t *out_n);
const uint8_t *conform_u8(struct conform_case *c, const char *name, size_t *out_n);
bool conform_has(const struct conform_case *c, const char *name); /* without marking */

/* Open the file that metadata key `key` of the case names; false: recorded as a failure. */
bool conform_open(struct conform_case *c, const char *key, struct weights **out);

/* Compare n values with tensor `name`; infinities must be equal. tolerance 0: equal. */
void conform_compare(struct conform_case *c, const char *name, const float *got, size_t n,
                     double tolerance);
void conform_compare_i32(struct conform_case *c, const char *name, const int32_t *got, size_t n);
void conform_compare_u8(struct conform_case *c, const char *name, const uint8_t *got, size_t n,
                        double tolerance);

/* Kinds of cases: whether it is theirs, and the run. */
bool conform_is_model(const struct conform_case *c);
void conform_model(struct conform_case *c);
bool conform_is_greedy(const struct conform_case *c);
void conform_greedy(struct conform_case *c);
bool conform_is_drafter(const struct conform_case *c);
void conform_drafter(struct conform_case *c);
bool conform_is_speculation(const struct conform_case *c);
void conform_speculation(struct conform_case *c);
bool conform_is_kernels(const struct conform_case *c);
void conform_kernels(struct conform_case *c);
bool conform_is_dequant(const struct conform_case *c);
void conform_dequant(struct conform_case *c);
bool conform_is_sizes(const struct conform_case *c);
void conform_sizes(struct conform_case *c);
bool conform_is_resize(const struct conform_case *c);
void conform_resize(struct conform_case *c);

/* A file of lines of JSON; prints and counts one row for the file. */
void conform_lines(struct conform *run, const char *path);

/* fast-bounds.json: 8-bit activations against exact ones; a row for each model. */
void conform_bounds(struct conform *run, const char *path);

/* Print and count a case. */
void conform_report(struct conform_case *c, double milliseconds);
