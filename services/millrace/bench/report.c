#include "services/millrace/bench/report.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct report_row *report_add(struct report *r, const char *key, const char *label,
                              const char *unit, double scale, double value)
{
    size_t i = 0;

    while (i < r->n && strcmp(r->row[i].key, key) != 0)
        i++;
    assert(i < REPORT_ROWS_MAX);
    struct report_row *row = &r->row[i];
    if (i == r->n) {
        *row = (struct report_row){.key = key, .label = label, .unit = unit, .scale = scale};
        r->n++;
    }
    assert(row->n < REPORT_ROUNDS_MAX);
    row->value[row->n++] = value;
    return row;
}

void report_ratio(struct report_row *row, const char *key, const char *of, double ratio)
{
    row->of = of;
    row->ratio_key = key;
    row->ratio[row->n - 1] = ratio;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sorted(double *out, const double *values, size_t n)
{
    assert(n >= 1 && n <= REPORT_ROUNDS_MAX);
    memcpy(out, values, n * sizeof *out);
    qsort(out, n, sizeof *out, by_value);
}

double report_median(const double *values, size_t n)
{
    double s[REPORT_ROUNDS_MAX];

    sorted(s, values, n);
    return (s[(n - 1) / 2] + s[n / 2]) / 2;
}

void report_print(FILE *out, const struct report *r)
{
    (void)fprintf(out, "%-34s %10s  %-17s %s\n", "", "median", "(least - most)", "ratio");
    for (size_t i = 0; i < r->n; i++) {
        const struct report_row *row = &r->row[i];
        double s[REPORT_ROUNDS_MAX];
        char spread[32] = "";
        sorted(s, row->value, row->n);
        if (row->n > 1)
            (void)snprintf(spread, sizeof spread, "(%.*f - %.*f)", s[0] * row->scale < 100,
                           s[0] * row->scale, s[0] * row->scale < 100, s[row->n - 1] * row->scale);
        double shown = report_median(row->value, row->n) * row->scale;
        (void)fprintf(out, "%-34s %10.*f  %-17s", row->label, shown < 10 ? 2 : shown < 100, shown,
                      spread);
        (void)fprintf(out, " %-10s", row->unit);
        if (row->of)
            (void)fprintf(out, " %.2f %s", report_median(row->ratio, row->n), row->of);
        (void)fputc('\n', out);
    }
}
