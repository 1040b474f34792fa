#include "services/millrace/bench/report.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void name(char out[REPORT_NAME_BYTES], const char *text)
{
    (void)snprintf(out, REPORT_NAME_BYTES, "%s", text);
}

struct report_row *report_row(struct report *r, const char *key, const char *label,
                              const char *unit, double scale)
{
    size_t i = 0;

    while (i < r->n && strcmp(r->row[i].key, key) != 0)
        i++;
    assert(i < REPORT_ROWS_MAX);
    struct report_row *row = &r->row[i];
    if (i == r->n) {
        *row = (struct report_row){.unit = unit, .scale = scale};
        name(row->key, key);
        name(row->label, label);
        r->n++;
    }
    return row;
}

void report_of(struct report_row *row, const char *ratio_key, const char *of)
{
    name(row->ratio_key, ratio_key);
    row->of = of;
}

void report_add(struct report_row *row, double value, double ratio)
{
    assert(row->n < REPORT_SAMPLES_MAX);
    row->value[row->n] = value;
    row->ratio[row->n++] = ratio;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sorted(double *out, const double *values, size_t n)
{
    assert(n >= 1 && n <= REPORT_SAMPLES_MAX);
    memcpy(out, values, n * sizeof *out);
    qsort(out, n, sizeof *out, by_value);
}

/* The middle one; the mean of two. */
static double median(const double *values, size_t n)
{
    double s[REPORT_SAMPLES_MAX];

    sorted(s, values, n);
    return (s[(n - 1) / 2] + s[n / 2]) / 2;
}

double report_value(const struct report_row *row)
{
    return median(row->value, row->n);
}

double report_ratio(const struct report_row *row)
{
    return median(row->ratio, row->n);
}

double report_find(const struct report *r, const char *key)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->row[i].key, key) == 0)
            return report_value(&r->row[i]);
    return 0;
}

void report_print(FILE *out, const struct report *r)
{
    (void)fprintf(out, "%-34s %10s  %-17s %s\n", "", "median", "(middle half)", "ratio");
    for (size_t i = 0; i < r->n; i++) {
        const struct report_row *row = &r->row[i];
        double s[REPORT_SAMPLES_MAX];
        char spread[32] = "";
        sorted(s, row->value, row->n);
        double low = s[row->n / 4] * row->scale;
        double high = s[row->n - 1 - row->n / 4] * row->scale;
        if (row->n > 1)
            (void)snprintf(spread, sizeof spread, "(%.*f - %.*f)", low < 100, low, low < 100, high);
        double shown = report_value(row) * row->scale;
        (void)fprintf(out, "%-34s %10.*f  %-17s", row->label, shown < 10 ? 2 : shown < 100, shown,
                      spread);
        (void)fprintf(out, " %-10s", row->unit);
        if (row->of)
            (void)fprintf(out, " %.2f %s", report_ratio(row), row->of);
        (void)fputc('\n', out);
    }
}
