/* report.h - what was measured, sample by sample, and how it is printed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define REPORT_SAMPLES_MAX 1024
#define REPORT_ROWS_MAX 64
#define REPORT_NAME_BYTES 48

/* One figure. */
struct report_row {
    char key[REPORT_NAME_BYTES];   /* in the JSON: "decode_tokens_per_s" */
    char label[REPORT_NAME_BYTES]; /* for people */
    const char *unit;              /* static */
    double scale;                  /* shown = value * scale */
    double value[REPORT_SAMPLES_MAX];
    double ratio[REPORT_SAMPLES_MAX]; /* to what `of` says, measured beside it */
    const char *of;                   /* "of bandwidth"; static; NULL: no ratio */
    char ratio_key[REPORT_NAME_BYTES];
    size_t n;
};

struct report {
    struct report_row row[REPORT_ROWS_MAX];
    size_t n;
};

/* The row of a figure, made when it is new. */
struct report_row *report_row(struct report *r, const char *key, const char *label,
                              const char *unit, double scale);
/* What the ratios of a row are to. */
void report_of(struct report_row *row, const char *ratio_key, const char *of);
/* Another sample; ratio is ignored where the row has none. */
void report_add(struct report_row *row, double value, double ratio);

double report_value(const struct report_row *row); /* medians of the samples, at least one */
double report_ratio(const struct report_row *row);
/* The median value under that key; 0 when there is none. */
double report_find(const struct report *r, const char *key);

void report_print(FILE *out, const struct report *r);
