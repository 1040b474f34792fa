/* report.h - what was measured, round by round, and how it is printed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define REPORT_ROUNDS_MAX 16
#define REPORT_ROWS_MAX 48

/* One figure. */
struct report_row {
    const char *key;   /* in the JSON: "decode_tokens_per_s"; static */
    const char *label; /* for people; static */
    const char *unit;  /* static */
    double scale;      /* shown = value * scale */
    double value[REPORT_ROUNDS_MAX];
    double ratio[REPORT_ROUNDS_MAX]; /* to what `of` says, in the same round; 0: none */
    const char *of;                  /* "of bandwidth"; NULL: no ratio */
    const char *ratio_key;           /* in the JSON; NULL: only shown */
    size_t n;
};

struct report {
    struct report_row row[REPORT_ROWS_MAX];
    size_t n;
};

/* Another round of a figure; its row is made when it is new. */
struct report_row *report_add(struct report *r, const char *key, const char *label,
                              const char *unit, double scale, double value);
void report_ratio(struct report_row *row, const char *key, const char *of, double ratio);

/* The middle one of n values (the mean of two), n >= 1. */
double report_median(const double *values, size_t n);

void report_print(FILE *out, const struct report *r);
