/* bench: how fast is a model on this machine, and how near to the machine's own limits? */
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "services/millrace/bench/parts.h"
#include "services/millrace/bench/random_model.h"
#include "services/millrace/commands.h"
#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYERS_12B 48
#define LAYERS_STEP 6 /* one of them is a full layer */
#define PARTS_MAX 16
#define ROUNDS_MAX 16

static const char usage[] =
    "usage: millrace bench [MODEL] [OPTIONS]\n"
    "  Measures reading of prompts and writing of answers as the server does them, and what this\n"
    "  machine could do at best: memory bandwidth and 8-bit products, right beside each figure.\n"
    "  Without a model a random one of the 12B's shape is made in the folder for temporary files\n"
    "  (7 GB). Leave the machine alone meanwhile: about a minute and a half a round at 12B.\n\n"
    "  --media FILE      also the projection of pictures and sounds\n"
    "  --drafter FILE    also answers with a drafter, as if 0.7 of its guesses were right\n"
    "  --scale X         the random model has so much of the 12B's 48 layers (0.125 to 1)\n"
    "  --type NAME       of the random model's layers: q4_0, q4_k (with a q6_k head) or q8_0\n"
    "  --keep FILE       the random model is written there and stays\n"
    "  --threads N       as many as cores when not given\n"
    "  --rounds N        of which medians are shown, 1 to 16 (3)\n"
    "  --only PART,...   start, decode, prefill, media, batch, verify, depth, long, drafter (all)\n"
    "  --quick           the same as --only decode,prefill\n"
    "  --depth N,...     tokens before that of part depth (8192,32768,131072 as far as memory\n"
    "                    goes; their keys and values are made up)\n"
    "  --whole           part long reads 8192 tokens as one prompt (5 minutes a round at 12B), "
    "not\n"
    "                    the first 512 and pieces behind 1024 and 7936\n"
    "  --kv-type NAME    f16, q8 or f32, as of `millrace up`\n"
    "  --exact           float32 activations, as infer's --exact\n"
    "  --json            the medians for machines\n";

struct options {
    struct bench_setup setup;
    double scale;
    enum dtype type;
    size_t rounds, n_depths, depths[DEPTHS_MAX];
    const char *keep;       /* NULL: a temporary file */
    bool wanted[PARTS_MAX]; /* by number of a part */
    bool whole, json;
};

/* ------------------------------------------------------------------ options */

static bool read_number(const char *text, size_t least, size_t most, size_t *out)
{
    uint64_t number = 0;
    bool ok = span_number(span_text(text), least, most, &number);

    *out = (size_t)number;
    return ok;
}

static bool read_depths(struct options *o, char *text)
{
    o->n_depths = 0;
    for (char *at = strtok(text, ","); at; at = strtok(NULL, ",")) {
        if (o->n_depths == DEPTHS_MAX ||
            !read_number(at, 1, 262144 - 1024, &o->depths[o->n_depths++]))
            return false;
    }
    return o->n_depths > 0;
}

static bool read_type(struct options *o, const char *text)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"q4_0", DTYPE_Q4_0}, {"q4_k", DTYPE_Q4_K}, {"q8_0", DTYPE_Q8_0}};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, text) == 0) {
            o->type = types[i].type;
            return true;
        }
    return false;
}

static bool read_parts(struct options *o, char *text)
{
    memset(o->wanted, 0, sizeof o->wanted);
    for (char *at = strtok(text, ","); at; at = strtok(NULL, ",")) {
        size_t i = 0;
        while (i < parts_n && strcmp(parts[i].name, at) != 0)
            i++;
        if (i == parts_n)
            return false;
        o->wanted[i] = true;
    }
    return true;
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
        return read_number(optarg, 1, ROUNDS_MAX, &o->rounds);
    case 'd':
        return read_depths(o, optarg);
    case 'p':
        o->keep = optarg;
        return *optarg != 0;
    case 'o':
        return read_parts(o, optarg);
    case 'q':
        return read_parts(o, (char[]){"decode,prefill"});
    case 'w':
        return o->whole = true;
    case 'k':
        o->setup.kv_type = optarg;
        return true;
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
        {"keep", required_argument, NULL, 'p'},    {"only", required_argument, NULL, 'o'},
        {"whole", no_argument, NULL, 'w'},         {"kv-type", required_argument, NULL, 'k'},
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
    if (optind + 1 < argc || (optind < argc && o->keep)) {
        (void)fprintf(stderr, "bench: one model at most\n\n%s", usage);
        return 3;
    }
    o->setup.model = optind < argc ? argv[optind] : "";
    o->setup.prompt_max = o->whole ? PARTS_LONG_TOKENS : PARTS_PROMPT_TOKENS;
    o->setup.depth_max = PARTS_LONG_TOKENS;
    for (size_t i = 0; i < o->n_depths; i++)
        if (o->depths[i] > o->setup.depth_max)
            o->setup.depth_max = o->depths[i];
    return 0;
}

/* ------------------------------------------------------------------ rounds */

static void print_json(const struct run *run, const struct options *o)
{
    json_t *out = json_object();

    (void)json_object_set_new(out, "numerics", json_string(bench_numerics(run->b)));
    (void)json_object_set_new(out, "cpu", json_string(machine_cpu()));
    (void)json_object_set_new(out, "threads", json_integer((json_int_t)o->setup.threads));
    for (size_t i = 0; i < run->report.n; i++) {
        const struct report_row *row = &run->report.row[i];
        (void)json_object_set_new(out, row->key, json_real(report_value(row)));
        if (row->of)
            (void)json_object_set_new(out, row->ratio_key, json_real(report_ratio(row)));
    }
    (void)json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    (void)putchar('\n');
    json_decref(out);
}

static void rounds(struct run *run, const struct options *o)
{
    bool terminal = isatty(STDERR_FILENO);

    for (size_t i = 0; i < o->rounds; i++)
        for (size_t k = 0; k < parts_n; k++) {
            if (!o->wanted[k])
                continue;
            if (terminal)
                (void)fprintf(stderr, "\rround %zu of %zu: %s \033[K", i + 1, o->rounds,
                              parts[k].what);
            parts[k].measure(run);
        }
    if (terminal)
        (void)fputs("\r\033[K", stderr);
}

/* made: the model is ours and its file not needed once it is mapped. */
static bool measure(struct run *run, struct options *o, bool made, struct status *st)
{
    bool opened = bench_open(&run->b, &o->setup, st);

    if (made && !o->keep)
        (void)unlink(o->setup.model);
    if (!opened)
        return false;
    run->machine = machine_new(o->setup.threads);
    if (!o->json)
        (void)printf("%s\n  %s, %zu threads; %s; %.2f GB read for a token\n",
                     made ? "random model of the 12B's shape" : o->setup.model, machine_cpu(),
                     o->setup.threads, bench_numerics(run->b), bench_step_bytes(run->b) * 1e-9);
    rounds(run, o);
    if (o->json)
        print_json(run, o);
    else
        report_print(stdout, &run->report);
    machine_free(run->machine);
    bench_close(run->b);
    return true;
}

/* path [size]: becomes its name. A temporary file stays when writing fails half way, so it goes
 * here. */
static bool make_model(struct options *o, char *path, size_t size, struct status *st)
{
    size_t layers = (size_t)(o->scale * LAYERS_12B / LAYERS_STEP + 0.5) * LAYERS_STEP;
    const char *folder = getenv("TMPDIR");

    (void)snprintf(path, size, "%.480s/millrace-bench-XXXXXX", folder ? folder : "/tmp");
    if (o->keep) {
        (void)snprintf(path, size, "%s", o->keep);
    } else {
        int fd = mkstemp(path);
        if (fd < 0)
            return status_fail(st, STATUS_NOT_FOUND, "no file can be made in '%s'", path);
        (void)close(fd);
    }
    o->setup.model = path;
    bool ok = random_model_write(path, layers, o->type,
                                 o->type == DTYPE_Q8_0 ? DTYPE_Q8_0 : DTYPE_Q6_K, st);
    if (!ok && !o->keep)
        (void)unlink(path);
    return ok;
}

static void defaults(struct options *o)
{
    static const size_t depths[] = {8192, 32768, 131072};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    *o = (struct options){.setup = {.media = "",
                                    .drafter = "",
                                    .kv_type = "",
                                    .threads = cores > 0 ? (size_t)cores : 1},
                          .scale = 1,
                          .type = DTYPE_Q4_0,
                          .rounds = 3,
                          .n_depths = sizeof depths / sizeof *depths};
    memcpy(o->depths, depths, sizeof depths);
    for (size_t i = 0; i < parts_n; i++)
        o->wanted[i] = true;
}

int bench_main(int argc, char **argv)
{
    struct run *run = heap_new(1, sizeof *run);
    struct options o;
    struct status st = {0};
    char path[512];

    defaults(&o);
    int stop = read_options(&o, argc, argv);
    if (stop) {
        heap_free(run);
        return stop - 1;
    }
    run->whole = o.whole;
    run->n_depths = o.n_depths;
    memcpy(run->depths, o.depths, sizeof o.depths);
    bool made = !*o.setup.model;
    bool ok = (!made || make_model(&o, path, sizeof path, &st)) && measure(run, &o, made, &st);
    if (!ok)
        (void)fprintf(stderr, "bench: %s\n", st.text);
    heap_free(run);
    return ok ? 0 : 1;
}
