/* conform: golden case files through the engine's public headers; a line a case. */
#include "services/millrace/conform/conform.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "services/millrace/commands.h"
#include <dirent.h>
#include <getopt.h>
#include <libgen.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILES_MAX 4096

static const char usage[] =
    "usage: millrace conform PATH... [--skip WORD,...] [--fast]\n"
    "  Runs golden cases (GGUF with architecture \"golden\", and .jsonl of the text side) through "
    "the\n"
    "  real code and says for each the largest difference and the tolerance. PATH is a case file "
    "or\n"
    "  a folder of them; the models they name lie relative to the file.\n\n"
    "  --skip WORDS   leave out cases with one of these words in their name: video,moe,q4_k\n"
    "  --fast         the 8-bit path instead: its distance from exact arithmetic against the "
    "bounds\n"
    "                 in fast-bounds.json\n"
    "  Exit status 0 when nothing failed. An unknown case, a missing model, no cases at all, or a\n"
    "  tensor that was not compared count as failed.\n";

static const struct {
    bool (*is)(const struct conform_case *c);
    void (*run)(struct conform_case *c);
} kinds[] = {
    {conform_is_greedy, conform_greedy},   {conform_is_kernels, conform_kernels},
    {conform_is_dequant, conform_dequant}, {conform_is_sizes, conform_sizes},
    {conform_is_resize, conform_resize},   {conform_is_model, conform_model},
    {conform_is_drafter, conform_drafter}, {conform_is_speculation, conform_speculation},
};

/* ------------------------------------------------------------------ names and tensors */

/* Is [word, word + n) among the parts of name, as a run of whole parts? */
static bool has_word(const char *name, const char *word, size_t n)
{
    for (const char *at = name; *at; at++) {
        bool starts = at == name || at[-1] == '-';
        if (starts && strncmp(at, word, n) == 0 && (at[n] == 0 || at[n] == '-'))
            return true;
    }
    return false;
}

bool conform_skips(const struct conform *run, const char *name)
{
    for (const char *word = run->skip; word && *word;) {
        size_t n = strcspn(word, ",");
        if (n && has_word(name, word, n))
            return true;
        word += n + (word[n] == ',');
    }
    return false;
}

void conform_fail(struct conform_case *c, const char *format, ...)
{
    va_list args;

    if (c->why[0])
        return;
    va_start(args, format);
    (void)vsnprintf(c->why, sizeof c->why, format, args);
    va_end(args);
}

bool conform_has(const struct conform_case *c, const char *name)
{
    return c->file && weights_find(c->file, name);
}

const struct tensor_view *conform_tensor(struct conform_case *c, const char *name)
{
    for (size_t i = 0; i < weights_tensors(c->file) && i < CONFORM_TENSORS_MAX; i++) {
        const struct tensor_view *t = weights_at(c->file, i);
        if (strcmp(t->name, name) != 0)
            continue;
        c->seen[i] = true;
        return t;
    }
    conform_fail(c, "tensor '%s' is missing", name);
    return NULL;
}

static const void *typed(struct conform_case *c, const char *name, enum dtype type, size_t *out_n)
{
    const struct tensor_view *t = conform_tensor(c, name);

    *out_n = 0;
    if (!t)
        return NULL;
    if (t->type->dtype != type) {
        conform_fail(c, "tensor '%s' has type %s", name, t->type->name);
        return NULL;
    }
    *out_n = t->size_bytes / t->type->block_bytes;
    return t->data;
}

const float *conform_f32(struct conform_case *c, const char *name, size_t *out_n)
{
    return typed(c, name, DTYPE_F32, out_n);
}

const int32_t *conform_i32(struct conform_case *c, const char *name, size_t *out_n)
{
    return typed(c, name, DTYPE_I32, out_n);
}

const uint8_t *conform_u8(struct conform_case *c, const char *name, size_t *out_n)
{
    return typed(c, name, DTYPE_I8, out_n);
}

/* ------------------------------------------------------------------ comparing */

static void note(struct conform_case *c, const char *name, double difference, double tolerance)
{
    double scaled =
        tolerance > 0 && c->tolerance > 0 ? difference / tolerance * c->tolerance : difference;

    if (scaled > c->largest || !c->where[0]) {
        c->largest = scaled > c->largest ? scaled : c->largest;
        (void)snprintf(c->where, sizeof c->where, "%s", name);
    }
    if (!(difference <= tolerance))
        conform_fail(c, "%s differs by %.3g, allowed is %.3g", name, difference, tolerance);
}

static bool counts_agree(struct conform_case *c, const char *name, size_t got, size_t wanted)
{
    if (got != wanted)
        conform_fail(c, "%s: %zu values, %zu are expected", name, got, wanted);
    return got == wanted;
}

void conform_compare(struct conform_case *c, const char *name, const float *got, size_t n,
                     double tolerance)
{
    size_t wanted_n;
    const float *wanted = conform_f32(c, name, &wanted_n);
    double largest = 0;

    if (!wanted || !counts_agree(c, name, n, wanted_n))
        return;
    for (size_t i = 0; i < n; i++) {
        /* Equal infinities have no difference; one alone, or no number, has an infinite one. */
        double difference = got[i] == wanted[i] ? 0 : fabs((double)got[i] - (double)wanted[i]);
        if (isnan(difference))
            difference = INFINITY;
        largest = difference > largest ? difference : largest;
    }
    note(c, name, largest, tolerance);
}

void conform_compare_i32(struct conform_case *c, const char *name, const int32_t *got, size_t n)
{
    size_t wanted_n;
    const int32_t *wanted = conform_i32(c, name, &wanted_n);

    if (!wanted || !counts_agree(c, name, n, wanted_n))
        return;
    for (size_t i = 0; i < n; i++)
        if (got[i] != wanted[i]) {
            conform_fail(c, "%s[%zu] is %d, expected %d", name, i, got[i], wanted[i]);
            return;
        }
    note(c, name, 0, 0);
}

void conform_compare_u8(struct conform_case *c, const char *name, const uint8_t *got, size_t n,
                        double tolerance)
{
    size_t wanted_n;
    const uint8_t *wanted = conform_u8(c, name, &wanted_n);
    int largest = 0;

    if (!wanted || !counts_agree(c, name, n, wanted_n))
        return;
    for (size_t i = 0; i < n; i++) {
        int difference = abs((int)got[i] - (int)wanted[i]);
        largest = difference > largest ? difference : largest;
    }
    note(c, name, largest, tolerance);
}

void conform_report(struct conform_case *c, double milliseconds)
{
    struct conform *run = c->run;
    double ratio = c->tolerance > 0 ? c->largest / c->tolerance : c->largest > 0 ? INFINITY : 0;

    if (c->why[0]) {
        run->failed++;
        (void)printf("FAILED  %-26s %s\n", c->name, c->why);
        return;
    }
    run->passed++;
    run->worst = ratio > run->worst ? ratio : run->worst;
    (void)printf("ok      %-26s difference %-9.3g tolerance %-9.3g %-24s %6.0f ms\n", c->name,
                 c->largest, c->tolerance, c->where, milliseconds);
    (void)fflush(stdout);
}

/* ------------------------------------------------------------------ one file */

/* Every tensor of a case is an input or was compared. */
static void check_seen(struct conform_case *c)
{
    if (weights_tensors(c->file) > CONFORM_TENSORS_MAX)
        conform_fail(c, "more than %d tensors", CONFORM_TENSORS_MAX);
    for (size_t i = 0; i < weights_tensors(c->file) && i < CONFORM_TENSORS_MAX; i++)
        if (!c->seen[i])
            conform_fail(c, "tensor '%s' was not compared", weights_at(c->file, i)->name);
}

static void run_case(struct conform_case *c)
{
    struct status st = {0};

    if (!weights_f64(c->file, "golden.tolerance", &c->tolerance, &st)) {
        conform_fail(c, "%s", st.text);
        return;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!kinds[i].is(c))
            continue;
        kinds[i].run(c);
        check_seen(c);
        return;
    }
    conform_fail(c, "unknown kind of case");
}

/* The case's own name, else that of its file. */
static void name_case(struct conform_case *c, const char *path)
{
    struct span name;
    struct status st = {0};
    char copy[CONFORM_PATH_MAX];

    (void)snprintf(copy, sizeof copy, "%s", path);
    (void)snprintf(c->folder, sizeof c->folder, "%s", dirname(copy));
    (void)snprintf(copy, sizeof copy, "%s", path);
    (void)snprintf(c->name, sizeof c->name, "%s", basename(copy));
    if (c->file && weights_has(c->file, "golden.case") &&
        weights_string(c->file, "golden.case", &name, &st))
        (void)snprintf(c->name, sizeof c->name, "%.*s", (int)(name.size < 100 ? name.size : 100),
                       (const char *)name.data);
}

static void run_gguf(struct conform *run, const char *path, bool named)
{
    struct conform_case *c = heap_new(1, sizeof *c);
    struct weights *file = NULL;
    struct status st = {0};
    struct span arch = {0};
    int64_t begun_us = clock_now_us();

    c->run = run;
    bool opened = weights_open(&file, path, &st);
    c->file = file;
    name_case(c, path);
    bool golden = opened && weights_string(file, "general.architecture", &arch, &st) &&
                  span_is(arch, "golden");
    if (opened && !golden && !named) { /* a model or vocabulary beside the cases */
        weights_close(file);
        heap_free(c);
        return;
    }
    if (conform_skips(run, c->name)) {
        run->skipped++;
        (void)printf("skipped %s\n", c->name);
    } else {
        if (!golden)
            conform_fail(c, "%s", opened ? "no golden case" : st.text);
        else
            run_case(c);
        conform_report(c, (double)(clock_now_us() - begun_us) / 1000);
    }
    weights_close(file);
    heap_free(c);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text);
    size_t k = strlen(end);

    return n >= k && strcmp(text + n - k, end) == 0;
}

static void run_file(struct conform *run, const char *path, bool named)
{
    if (run->fast) {
        if (ends_with(path, "fast-bounds.json"))
            conform_bounds(run, path);
        return;
    }
    if (ends_with(path, ".gguf")) {
        run_gguf(run, path, named);
        return;
    }
    if (ends_with(path, ".jsonl"))
        conform_lines(run, path);
    else if (named && !ends_with(path, "fast-bounds.json")) {
        run->failed++;
        (void)printf("FAILED  %s: neither .gguf nor .jsonl\n", path);
    }
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_path(struct conform *run, const char *path)
{
    struct dirent **entries = NULL;
    struct stat info;

    if (stat(path, &info) != 0) {
        run->failed++;
        (void)printf("FAILED  %s: not there\n", path);
        return;
    }
    if (!S_ISDIR(info.st_mode)) {
        run_file(run, path, true);
        return;
    }
    int n = scandir(path, &entries, visible, alphasort);
    for (int i = 0; i < n; i++) {
        char file[CONFORM_PATH_MAX];
        (void)snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        run_file(run, file, false);
        free(entries[i]); /* scandir's */
    }
    free(entries);
}

int conform_main(int argc, char **argv)
{
    static const struct option options[] = {{"skip", required_argument, NULL, 's'},
                                            {"fast", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct conform run = {0};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return 0;
        }
        if (option == '?')
            return 2;
        if (option == 's')
            run.skip = optarg;
        if (option == 'f')
            run.fast = true;
    }
    if (optind == argc) {
        (void)fprintf(stderr, "conform: a path is wanted\n\n%s", usage);
        return 2;
    }
    for (int i = optind; i < argc; i++)
        run_path(&run, argv[i]);
    if (run.passed + run.failed + run.skipped == 0) {
        (void)printf("FAILED  no cases found\n");
        run.failed++;
    }
    (void)printf("%zu passed, %zu failed, %zu skipped, worst ratio %.3g\n", run.passed, run.failed,
                 run.skipped, run.worst);
    return run.failed ? 1 : 0;
}
