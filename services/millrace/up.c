/* up: start the line on this machine from a pipeline file or flags, and watch over it. */
#include "services/millrace/up.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "proto/media.h"
#include "services/millrace/client.h"
#include "services/millrace/commands.h"
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURN_MS 100
#define SLOTS_DEFAULT 4
#define WAIT_US 10000000 /* between two words about what is waited for */

static const char usage[] =
    "usage: millrace up [PIPELINE.yaml] [OPTIONS]\n"
    "  Starts gateway, ingest, encode, infer and format on this machine, restarts what dies, and\n"
    "  stops all of them on Ctrl-C. Flags go over the file.\n\n"
    "  --model PATH         the decoder: a GGUF file of Gemma 4, or a checkpoint's folder\n"
    "  --media FILE         its media file (\"mmproj\"); without it pictures, sound and "
    "video are refused\n"
    "                       (a checkpoint's folder has it inside; none: leave it out)\n"
    "  --drafter FILE       its drafter (gemma4-assistant): the same answers, sooner\n"
    "  --draft-tokens N     tokens it guesses at once, 1 to 8 (3)\n"
    "  --manifest FILE      SHA-256 and name of every model file (inspect --hash): start only if "
    "they agree\n"
    "  --listen HOST:PORT   where HTTP is served (127.0.0.1:8080)\n"
    "  --context N          tokens of one request, prompt and answer (8192, or what the model "
    "has)\n"
    "  --slots N            requests answered at once (4)\n"
    "  --threads N          threads that compute (one a core)\n"
    "  --image-budget N     soft tokens a picture: " MEDIA_BUDGETS " (280)\n"
    "  --video-frames N     frames of a video at most, 1 to 240 (60)\n"
    "  --video-fps N        frames shown of each second of a video, 0.01 to 30 (1)\n"
    "  --body SIZE          largest request body, like 32MiB (64MiB)\n"
    "  --kv-type TYPE       keys and values: f16, q8 (half the memory) or f32 (f16)\n"
    "  --exact              activations stay float32: slower, for comparisons\n"
    "  --verbose            show what every process logs\n";

/* ------------------------------------------------------------------ the command line */

static bool set_number(uint64_t *out, const char *flag, const char *text, struct status *st)
{
    char key[32];

    (void)snprintf(key, sizeof key, "%s", flag);
    for (char *c = key; *c; c++)
        *c = *c == '-' ? '_' : *c;
    return config_number(key, text, out, st) || status_wrap(st, "--%s '%.40s'", flag, text);
}

static bool set_text(char *out, size_t size, const char *flag, const char *text, struct status *st)
{
    if (strlen(text) >= size)
        return status_fail(st, STATUS_INVALID, "--%s: too long", flag);
    (void)snprintf(out, size, "%s", text);
    return true;
}

static bool take_option(struct up *up, const char *name, const char *value, struct status *st)
{
    struct config *c = &up->config;

    if (strcmp(name, "model") == 0)
        return set_text(c->weights, sizeof c->weights, name, value, st);
    if (strcmp(name, "media") == 0)
        return set_text(c->media, sizeof c->media, name, value, st);
    if (strcmp(name, "manifest") == 0)
        return set_text(c->manifest, sizeof c->manifest, name, value, st);
    if (strcmp(name, "drafter") == 0)
        return set_text(c->drafter, sizeof c->drafter, name, value, st);
    if (strcmp(name, "draft-tokens") == 0)
        return set_number(&config_stage(c, "infer")->draft_tokens, name, value, st);
    if (strcmp(name, "listen") == 0)
        return set_text(c->listen, sizeof c->listen, name, value, st);
    if (strcmp(name, "context") == 0)
        return set_number(&c->context, name, value, st);
    if (strcmp(name, "body") == 0)
        return set_number(&c->body_bytes, name, value, st);
    if (strcmp(name, "slots") == 0)
        return set_number(&config_stage(c, "infer")->slots, name, value, st);
    if (strcmp(name, "threads") == 0)
        return set_number(&config_stage(c, "infer")->threads, name, value, st);
    if (strcmp(name, "image-budget") == 0)
        return set_number(&config_stage(c, "ingest")->image_budget, name, value, st);
    if (strcmp(name, "video-frames") == 0)
        return set_number(&config_stage(c, "ingest")->video_frames, name, value, st);
    if (strcmp(name, "video-fps") == 0)
        return config_fps(value, &config_stage(c, "ingest")->video_fps) ||
               status_fail(st, STATUS_INVALID, "--video-fps '%s': a number from 0.01 to 30", value);
    if (strcmp(name, "kv-type") == 0)
        return set_text(config_stage(c, "infer")->kv_type, sizeof config_stage(c, "infer")->kv_type,
                        name, value, st);
    if (strcmp(name, "exact") == 0)
        config_stage(c, "infer")->exact = true;
    if (strcmp(name, "verbose") == 0)
        up->verbose = true;
    return true;
}

/* -1: go on; else the exit status. The file is read before the flags, wherever it stands. */
static int read_arguments(struct up *up, int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 0},
        {"media", required_argument, NULL, 0},
        {"drafter", required_argument, NULL, 0},
        {"manifest", required_argument, NULL, 0},
        {"draft-tokens", required_argument, NULL, 0},
        {"listen", required_argument, NULL, 0},
        {"context", required_argument, NULL, 0},
        {"slots", required_argument, NULL, 0},
        {"threads", required_argument, NULL, 0},
        {"kv-type", required_argument, NULL, 0},
        {"exact", no_argument, NULL, 0},
        {"body", required_argument, NULL, 0},
        {"image-budget", required_argument, NULL, 0},
        {"video-frames", required_argument, NULL, 0},
        {"video-fps", required_argument, NULL, 0},
        {"verbose", no_argument, NULL, 0},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct status st = {0};

    for (int pass = 0; pass < 2; pass++) {
        int option;
        int at = 0;
        optind = 1;
        while ((option = getopt_long(argc, argv, "", options, &at)) != -1) {
            if (option == 'h') {
                (void)fputs(usage, stdout);
                return 0;
            }
            if (option == '?')
                return 2;
            if (pass == 1 && !take_option(up, options[at].name, optarg, &st))
                goto fail;
        }
        if (argc - optind > 1) {
            (void)fprintf(stderr, "up: one pipeline file at most\n\n%s", usage);
            return 2;
        }
        if (pass == 0 && argc - optind == 1 && !config_load(&up->config, argv[optind], &st))
            goto fail;
    }
    return -1;
fail:
    (void)fprintf(stderr, "up: %s\n", st.text);
    return 2;
}

/* ------------------------------------------------------------------ the plan */

/* As infer will have it. */
static const char *kv_type(struct config *c)
{
    const struct config_stage *infer = config_stage(c, "infer");
    return infer->exact && !infer->kv_type[0] ? "f32" : infer->kv_type;
}

/* A port that is chosen freely could not be told to anybody; the colons of an IPv6 address would be
 * taken for the port's. */
static bool check_listen(const char *listen, struct status *st)
{
    const char *colon = strrchr(listen, ':');
    uint64_t port;

    if (colon && colon > listen && span_number(span_text(colon + 1), 1, 65535, &port) &&
        (strchr(listen, ':') == colon || (listen[0] == '[' && colon[-1] == ']')))
        return true;
    return status_fail(st, STATUS_INVALID,
                       "listen '%s': HOST:PORT is wanted, like 127.0.0.1:8080 or [::1]:8080",
                       listen);
}

/* A checkpoint's folder holds its media part; a GGUF file never does. */
static bool find_media(struct up *up, struct status *st)
{
    struct config *c = &up->config;
    bool wanted = strcmp(c->media, "none") != 0;

    if (!wanted)
        c->media[0] = 0;
    if (!fit_read(&up->fit, c->weights, c->media, c->context, kv_type(c), st))
        return false;
    if (!wanted || c->media[0] || !up->fit.media_inside)
        return true;
    memcpy(c->media, c->weights, sizeof c->media);
    return fit_read(&up->fit, c->weights, c->media, c->context, kv_type(c), st);
}

/* Without media nothing has to be decoded: our ingest leaves every pipeline. */
static void leave_ingest_out(struct config *c)
{
    if (c->media[0] || config_stage(c, "ingest")->program[0])
        return;
    for (size_t i = 0; i < c->n_pipelines; i++) {
        struct config_pipeline *p = &c->pipelines[i];
        size_t kept = 0;
        for (size_t k = 0; k < p->n_steps; k++)
            if (strcmp(p->steps[k], "ingest") != 0)
                memmove(p->steps[kept++], p->steps[k], sizeof *p->steps);
        p->n_steps = kept;
    }
}

static bool make_plan(struct up *up, struct status *st)
{
    struct config *c = &up->config;

    if (!config_check(c, st) || !check_listen(c->listen, st) || !find_media(up, st) ||
        !fit_drafter(&up->fit, c->weights, c->drafter, st))
        return false;
    c->context = up->fit.wanted;
    leave_ingest_out(c);
    struct config_stage *infer = config_stage(c, "infer");
    if (infer->slots == 0)
        infer->slots = SLOTS_DEFAULT;
    up->kv_bytes = infer->kv_bytes ? infer->kv_bytes : infer->slots * up->fit.kv.request;
    return fit_memory(&up->fit, up->kv_bytes, c->memory_bytes + FIT_WORK_BYTES, st);
}

/* Beyond this machine. */
static bool is_open(const char *listen)
{
    return strncmp(listen, "127.", 4) != 0 && strncmp(listen, "[::1]:", 6) != 0;
}

static void print_plan(const struct up *up)
{
    const struct config *c = &up->config;

    (void)printf("model     %s (%s, %s, %" PRIu64 " layers)\n", c->weights, up->fit.arch,
                 fit_bytes(up->fit.file_bytes), up->fit.layers);
    (void)printf("media     %s\n",
                 c->media[0] ? c->media : "none: pictures, sound and video are refused");
    if (c->drafter[0])
        (void)printf("drafter   %s\n", c->drafter);
    (void)printf("memory    weights %s, keys and values %s, requests up to %s; %s are free\n",
                 fit_bytes(up->fit.file_bytes + up->fit.media_bytes + up->fit.drafter_bytes),
                 fit_bytes(up->kv_bytes), fit_bytes(c->memory_bytes),
                 fit_bytes(up->fit.available_bytes));
    for (size_t i = 0; i < c->n_pipelines; i++) {
        (void)printf("pipeline  %s:", c->pipelines[i].name);
        for (size_t k = 0; k < c->pipelines[i].n_steps; k++)
            (void)printf("%s %s", k ? " >" : "", c->pipelines[i].steps[k]);
        (void)printf(" (context %" PRIu64 ")\n", c->context);
    }
    if (is_open(c->listen))
        (void)printf("note      whoever reaches %s may ask: there are no keys and no TLS here\n",
                     c->listen);
    (void)fflush(stdout);
}

static bool find_programs(struct up *up, struct status *st)
{
    ssize_t n = readlink("/proc/self/exe", up->programs, sizeof up->programs - 1);

    if (n <= 0)
        return status_fail_sys(st, errno, "read /proc/self/exe");
    up->programs[n] = 0;
    char *folder = dirname(up->programs);
    memmove(up->programs, folder, strlen(folder) + 1);
    return true;
}

static bool make_bus(struct up *up, struct status *st)
{
    const char *base = getenv("XDG_RUNTIME_DIR");

    if (up->config.bus[0]) {
        memcpy(up->bus, up->config.bus, sizeof up->bus);
        return true;
    }
    if (!base || !*base || strlen(base) > RUNTIME_BASE_MAX || access(base, W_OK) != 0)
        base = "/tmp";
    (void)snprintf(up->runtime, sizeof up->runtime, "%s/millrace-XXXXXX", base);
    if (!mkdtemp(up->runtime)) {
        int sys = errno;
        up->runtime[0] = 0;
        return status_fail_sys(st, sys, "a folder for the bus in %s", base);
    }
    (void)snprintf(up->bus, sizeof up->bus, "ipc://%s/bus", up->runtime);
    return true;
}

/* ------------------------------------------------------------------ watching */

/* Else `why` says what is missing. */
static bool line_is_ready(const char *url, struct status *why)
{
    struct buffer body = {0};
    long http = 0;
    const char *pipeline;
    json_t *stage;
    bool ok = client_get(url, &body, &http, why) && http == 200;

    if (!ok && http) {
        json_t *root = json_loadb((const char *)body.data, body.size, 0, NULL);
        (void)status_fail(why, STATUS_UNAVAILABLE, "the gateway is stopping");
        json_object_foreach(json_object_get(root, "missing"), pipeline, stage)
        {
            (void)status_fail(why, STATUS_UNAVAILABLE, "%s of pipeline %s is missing",
                              json_string_value(stage), pipeline);
        }
        json_decref(root);
    }
    buffer_clear(&body);
    return ok;
}

static int watch(const struct up *up, struct supervise *s)
{
    char url[128];
    bool ready = false;
    int64_t begun_us = clock_now_us();
    int64_t told_us = begun_us;

    (void)snprintf(url, sizeof url, "http://%s/health/ready", up->config.listen);
    for (;;) {
        enum supervise_turn turn = supervise_run(s, TURN_MS, ready);
        if (turn == SUPERVISE_STOPPED) {
            (void)printf("\nstopping\n");
            return 0;
        }
        if (turn == SUPERVISE_GIVEN_UP) {
            (void)fprintf(stderr, "up: the line could not start; the lines above say why\n");
            return 1;
        }
        struct status why = {0};
        if (ready)
            continue;
        if (!line_is_ready(url, &why)) {
            if (clock_now_us() - told_us < WAIT_US)
                continue;
            told_us = clock_now_us();
            (void)fprintf(stderr, "millrace: not ready yet: %s\n", why.text);
        } else {
            ready = true;
            (void)printf("ready     http://%s  after %.1f s; Ctrl-C stops\n", up->config.listen,
                         (double)(clock_now_us() - begun_us) / 1e6);
            (void)fflush(stdout);
        }
    }
}

/* What the children inherit. OpenBLAS picks its kernels by CPU when it is loaded, and others sum in
 * another order: fixed here, a picture is the same numbers on every machine that has them. */
static void set_environment(const struct up *up)
{
    /* On a terminal a person reads along; a file or a journal keeps what happened. */
    if (!up->verbose && isatty(STDERR_FILENO) == 1)
        (void)setenv("MILLRACE_LOG", "warn", 0);
    (void)setenv("OPENBLAS_NUM_THREADS", "1", 0);
#if defined(__x86_64__)
    (void)setenv("OPENBLAS_CORETYPE", "Haswell", 0);
#endif
}

static int run(struct up *up)
{
    struct supervise *s = NULL;
    struct status st = {0};
    int exit_status = 1;

    (void)signal(SIGPIPE, SIG_IGN); /* whoever read along and left does not end the line */
    if (!supervise_new(&s, &st) || !make_plan(up, &st) || !find_programs(up, &st) ||
        !make_bus(up, &st) || !supervise_connect(s, up->bus, &st)) {
        (void)fprintf(stderr, "up: %s\n", st.text);
    } else {
        print_plan(up);
        set_environment(up);
        up_add_children(up, s);
        exit_status = watch(up, s);
    }
    supervise_free(s);
    if (up->runtime[0]) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s/bus", up->runtime);
        (void)unlink(path);
        (void)rmdir(up->runtime);
    }
    (void)fflush(stdout);
    clearerr(stdout); /* nor do they count in the end */
    return exit_status;
}

int up_main(int argc, char **argv)
{
    struct up *up = heap_new(1, sizeof *up);

    config_defaults(&up->config);
    int exit_status = read_arguments(up, argc, argv);
    if (exit_status < 0)
        exit_status = run(up);
    heap_free(up);
    return exit_status;
}
