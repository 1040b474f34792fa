/* bench: how fast is a model on this machine, and how near to the machine's own limits? */
#include "services/millrace/bench/bench.h"
#include "engine/base/heap.h"
#include "services/millrace/bench/machine.h"
#include "services/millrace/bench/random_model.h"
#include "services/millrace/bench/report.h"
#include "services/millrace/commands.h"
#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYERS_12B 48
#define LAYERS_STEP 6 /* one of them is a full layer */
#define DEPTHS_MAX 4
#define DECODE_STEPS 12

static const char usage[] =
    "usage: millrace bench [MODEL] [OPTIONS]\n"
    "  Measures reading of prompts and writing of answers as the server does them, and what this\n"
    "  machine could do at best: memory bandwidth and 8-bit products, in the same run. Without a\n"
    "  model a random one of the 12B's shape is made in the folder for temporary files (7 GB).\n"
    "  Leave the machine alone meanwhile: about a minute a round at 12B.\n\n"
    "  --media FILE      also the projection of pictures and sounds\n"
    "  --drafter FILE    also answers with a drafter, as if 0.7 of its guesses were right\n"
    "  --scale X         the random model has so much of the 12B's 48 layers (0.125 to 1)\n"
    "  --type NAME       of the random model's layers: q4_0 (with a q6_k head) or q8_0\n"
    "  --threads N       as many as cores when not given\n"
    "  --rounds N        of which medians are shown, 1 to 16 (3)\n"
    "  --depth N,...     also answers behind prompts of so many tokens: 8192,32768 (slow)\n"
    "  --quick           only prompts of 128 and 512 tokens and one answer\n"
    "  --exact           float32 activations, as infer's --exact\n"
    "  --json            the medians for machines\n";

struct options {
    struct bench_setup setup;
    double scale;
    enum dtype type;
    size_t rounds, n_depths, depths[DEPTHS_MAX];
    bool quick, json;
};

/* ------------------------------------------------------------------ options */

static bool read_number(const char *text, size_t least, size_t most, size_t *out)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    *out = (size_t)n;
    return end != text && !*end && text[0] != '-' && n >= least && n <= most;
}

static bool read_depths(struct options *o, char *text)
{
    for (char *at = strtok(text, ","); at; at = strtok(NULL, ",")) {
        if (o->n_depths == DEPTHS_MAX ||
            !read_number(at, 1, 262144 - 1024, &o->depths[o->n_depths++]))
            return false;
    }
    return o->n_depths > 0;
}

static bool read_type(struct options *o, const char *text)
{
    o->type = strcmp(text, "q8_0") == 0 ? DTYPE_Q8_0 : DTYPE_Q4_0;
    return o->type == DTYPE_Q8_0 || strcmp(text, "q4_0") == 0;
}

static bool read_scale(struct options *o, const char *text)
{
    char *end;

    o->scale = strtod(text, &end);
    return end != text && !*end && o->scale >= 0.125 && o->scale <= 1;
}

static bool read_option(struct options *o, int option)
{
    switch (option) {
    case 'm':
        o->setup.media = optarg;
        return true;
    case 'f':
        o->setup.drafter = optarg;
        return true;
    case 's':
        return read_scale(o, optarg);
    case 't':
        return read_type(o, optarg);
    case 'n':
        return read_number(optarg, 1, 256, &o->setup.threads);
    case 'r':
        return read_number(optarg, 1, REPORT_ROUNDS_MAX, &o->rounds);
    case 'd':
        return read_depths(o, optarg);
    case 'q':
        return o->quick = true;
    case 'e':
        return o->setup.exact = true;
    case 'j':
        return o->json = true;
    default:
        return false;
    }
}

/* 0: go on; else the exit status plus one. */
static int read_options(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"media", required_argument, NULL, 'm'},   {"drafter", required_argument, NULL, 'f'},
        {"scale", required_argument, NULL, 's'},   {"type", required_argument, NULL, 't'},
        {"threads", required_argument, NULL, 'n'}, {"rounds", required_argument, NULL, 'r'},
        {"depth", required_argument, NULL, 'd'},   {"quick", no_argument, NULL, 'q'},
        {"exact", no_argument, NULL, 'e'},         {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {0}};
    int option;
    int index = 0;

    while ((option = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (!read_option(o, option)) {
            (void)fprintf(stderr, "bench: --%s '%s' makes no sense here\n\n%s", names[index].name,
                          optarg ? optarg : "", usage);
            return 3;
        }
    }
    if (optind + 1 < argc) {
        (void)fprintf(stderr, "bench: one model at most\n\n%s", usage);
        return 3;
    }
    o->setup.model = optind < argc ? argv[optind] : "";
    for (size_t i = 0; i < o->n_depths; i++)
        if (o->depths[i] > o->setup.depth_max)
            o->setup.depth_max = o->depths[i];
    return 0;
}

/* ------------------------------------------------------------------ rounds */

struct run {
    struct options o;
    struct bench *b;
    struct report report;
    struct machine machine; /* of this round */
};

static void prefill(struct run *run, size_t n, const char *key, const char *label,
                    const char *ratio_key)
{
    double rate = (double)n / bench_prefill_s(run->b, n);
    struct report_row *row = report_add(&run->report, key, label, "tokens/s", 1, rate);
    report_ratio(row, ratio_key, "of 8-bit operations",
                 rate * bench_token_products(run->b) / run->machine.int8_products_per_s);
}

static void streams(struct run *run, double one_s, size_t n, const char *key, const char *label)
{
    double s = bench_decode_s(run->b, n, 0, DECODE_STEPS);
    struct report_row *row = report_add(&run->report, key, label, "tokens/s", 1, (double)n / s);
    report_ratio(row, n == 4 ? "batch4_of_one" : "batch8_of_one", "x one stream",
                 (double)n / s * one_s);
}

static void depth(struct run *run, double one_s, size_t n)
{
    static const char *const keys[DEPTHS_MAX][2] = {{"depth1_added_s", "token added, depth 1"},
                                                    {"depth2_added_s", "token added, depth 2"},
                                                    {"depth3_added_s", "token added, depth 3"},
                                                    {"depth4_added_s", "token added, depth 4"}};
    size_t tokens = run->o.depths[n];
    double added = bench_decode_s(run->b, 1, tokens, DECODE_STEPS) - one_s;
    double memory = bench_kv_bytes(run->b, tokens) / run->machine.bandwidth_bytes_per_s;
    double products = bench_attend_products(run->b, tokens) / run->machine.float_products_per_s;
    struct report_row *row = report_add(&run->report, keys[n][0], keys[n][1], "ms", 1e3, added);
    report_ratio(row, NULL, memory > products ? "x memory's limit" : "x float operations' limit",
                 added / (memory > products ? memory : products));
}

static void verify(struct run *run)
{
    double one = bench_verify_s(run->b, 1);
    double four = bench_verify_s(run->b, 4);
    struct report_row *row =
        report_add(&run->report, "verify4_s", "four rows of one answer", "ms", 1e3, four);
    report_ratio(row, "verify4_of_one", "x one row", four / one);
}

/* Guesses that are right, of those that come behind right ones only. */
#define GUESSES_RIGHT 0.7

static void drafted(struct run *run)
{
    double plain, with;

    if (!bench_drafted_s(run->b, GUESSES_RIGHT, &plain, &with))
        return;
    struct report_row *row = report_add(&run->report, "drafted_tokens_per_s", "answer, drafted",
                                        "tokens/s", 1, 1 / with);
    report_ratio(row, "drafted_of_plain", "x without a drafter", plain / with);
}

static void projection(struct run *run, double prefill_rate)
{
    size_t tokens;
    double s = bench_picture_s(run->b, &tokens);

    if (s < 0)
        return;
    report_ratio(
        report_add(&run->report, "picture_projection_s", "projection of a picture", "ms", 1e3, s),
        "picture_of_prefill", "of its prefill", s * prefill_rate / (double)tokens);
    s = bench_sound_s(run->b, &tokens);
    report_ratio(
        report_add(&run->report, "sound_projection_s", "projection of 30 s of sound", "ms", 1e3, s),
        "sound_of_prefill", "of its prefill", s * prefill_rate / (double)tokens);
}

static void round_once(struct run *run)
{
    struct report *r = &run->report;

    machine_measure(&run->machine, run->o.setup.threads);
    (void)report_add(r, "bandwidth_bytes_per_s", "memory, reading", "GB/s", 1e-9,
                     run->machine.bandwidth_bytes_per_s);
    (void)report_add(r, "int8_ops_per_s", "8-bit operations", "Gop/s", 1e-9,
                     2 * run->machine.int8_products_per_s);
    (void)report_add(r, "float_ops_per_s", "float operations", "Gop/s", 1e-9,
                     2 * run->machine.float_products_per_s);
    double one_s = bench_decode_s(run->b, 1, 0, DECODE_STEPS);
    struct report_row *row =
        report_add(r, "decode_tokens_per_s", "answer, one stream", "tokens/s", 1, 1 / one_s);
    report_ratio(row, "decode_of_limit", "of bandwidth",
                 bench_step_bytes(run->b) / one_s / run->machine.bandwidth_bytes_per_s);
    prefill(run, 128, "prefill_tokens_per_s", "prompt of 128", NULL);
    prefill(run, 512, "prefill512_tokens_per_s", "prompt of 512", "prefill_of_limit");
    if (run->o.quick)
        return;
    projection(run, row->value[row->n - 1]);
    streams(run, one_s, 4, "batch4_tokens_per_s", "answers, four streams");
    streams(run, one_s, 8, "batch8_tokens_per_s", "answers, eight streams");
    verify(run);
    for (size_t i = 0; i < run->o.n_depths; i++)
        depth(run, one_s, i);
    drafted(run);
}

static void print_json(const struct run *run)
{
    json_t *out = json_object();

    (void)json_object_set_new(out, "numerics", json_string(bench_numerics(run->b)));
    (void)json_object_set_new(out, "cpu", json_string(machine_cpu()));
    (void)json_object_set_new(out, "threads", json_integer((json_int_t)run->o.setup.threads));
    (void)json_object_set_new(out, "start_s", json_real(bench_start_s(run->b)));
    for (size_t i = 0; i < run->report.n; i++) {
        const struct report_row *row = &run->report.row[i];
        (void)json_object_set_new(out, row->key, json_real(report_median(row->value, row->n)));
        if (row->ratio_key)
            (void)json_object_set_new(out, row->ratio_key,
                                      json_real(report_median(row->ratio, row->n)));
    }
    (void)json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    (void)putchar('\n');
    json_decref(out);
}

/* made: the model is ours and its file not needed once it is mapped. */
static bool measure(struct run *run, bool made, struct status *st)
{
    bool terminal = isatty(STDERR_FILENO);
    bool opened = bench_open(&run->b, &run->o.setup, st);

    if (made)
        (void)unlink(run->o.setup.model);
    if (!opened)
        return false;
    if (!run->o.json)
        (void)printf("%s\n  %s, %zu threads; %s; %.2f GB read for a token\n",
                     made ? "random model of the 12B's shape" : run->o.setup.model, machine_cpu(),
                     run->o.setup.threads, bench_numerics(run->b), bench_step_bytes(run->b) * 1e-9);
    (void)bench_decode_s(run->b, 1, 0, 1); /* the file's pages are brought in */
    for (size_t i = 0; i < run->o.rounds; i++) {
        if (terminal)
            (void)fprintf(stderr, "\rround %zu of %zu ", i + 1, run->o.rounds);
        round_once(run);
    }
    if (terminal)
        (void)fputs("\r\033[K", stderr);
    if (run->o.json)
        print_json(run);
    else
        report_print(stdout, &run->report);
    bench_close(run->b);
    return true;
}

/* path: a template for mkstemp; the file stays when writing fails half way, so it goes here. */
static bool make_model(struct options *o, char *path, struct status *st)
{
    size_t layers = (size_t)(o->scale * LAYERS_12B / LAYERS_STEP + 0.5) * LAYERS_STEP;
    int fd = mkstemp(path);

    if (fd < 0)
        return status_fail(st, STATUS_NOT_FOUND, "no file can be made in '%s'", path);
    (void)close(fd);
    o->setup.model = path;
    bool ok = random_model_write(path, layers, o->type,
                                 o->type == DTYPE_Q4_0 ? DTYPE_Q6_K : DTYPE_Q8_0, st);
    if (!ok)
        (void)unlink(path);
    return ok;
}

int bench_main(int argc, char **argv)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct run *run = heap_new(1, sizeof *run);
    struct status st = {0};
    char path[512];
    const char *folder = getenv("TMPDIR");

    run->o = (struct options){.setup = {.media = "",
                                        .drafter = "",
                                        .threads = cores > 0 ? (size_t)cores : 1,
                                        .depth_max = 512},
                              .scale = 1,
                              .type = DTYPE_Q4_0,
                              .rounds = 3};
    int stop = read_options(&run->o, argc, argv);
    if (stop) {
        heap_free(run);
        return stop - 1;
    }
    (void)snprintf(path, sizeof path, "%.480s/millrace-bench-XXXXXX", folder ? folder : "/tmp");
    bool made = !*run->o.setup.model;
    bool ok = (!made || make_model(&run->o, path, &st)) && measure(run, made, &st);
    if (!ok)
        (void)fprintf(stderr, "bench: %s\n", st.text);
    heap_free(run);
    return ok ? 0 : 1;
}
