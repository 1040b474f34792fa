/* millrace-gateway: HTTP on one side, the stages on the other. */
#include "engine/base/heap.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/base/schedule.h"
#include "gateway/loop.h"
#include "proto/link.h"
#include "proto/media.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_BYTES_DEFAULT (64U << 20)

static const char usage[] =
    "millrace-gateway [options]\n"
    "  --listen ADDRESS:PORT     where clients come (127.0.0.1:8080; port 0: a free one)\n"
    "  --bus ADDRESS             where stages come (ipc:// in a directory of this user)\n"
    "  --pipeline NAME=A,B,...   a model of the API and its stages, in order; may be repeated\n"
    "                            (chat=ingest,encode,infer,format)\n"
    "  --memory BYTES            for all requests together (1073741824)\n"
    "  --body-bytes BYTES        of one request (67108864)\n"
    "  --requests N              held at once (256)\n"
    "  --image-budget N, --video-frames N   as ingest has them: what a request that does not say\n"
    "                            is expected to need (280, 60)\n";

static bool read_count(const char *text, uint64_t low, uint64_t *out, struct status *st)
{
    return span_number(span_text(text), low, UINT64_MAX, out) ||
           status_fail(st, STATUS_INVALID, "'%s' is not a number from %llu", text,
                       (unsigned long long)low);
}

/* NAME=A,B,C */
static bool read_pipeline(const char *text, struct ledger_config *config, struct status *st)
{
    const char *stages[LEDGER_PIPELINE_STAGES_MAX];
    size_t n = 0;
    char *copy = heap_text(text, strlen(text));
    char *rest = strchr(copy, '=');
    bool ok = rest || status_fail(st, STATUS_INVALID, "not NAME=STAGE,STAGE,...");

    if (ok)
        *rest++ = 0;
    while (ok && rest) {
        ok = n < LEDGER_PIPELINE_STAGES_MAX ||
             status_fail(st, STATUS_LIMIT, "more than %d stages", LEDGER_PIPELINE_STAGES_MAX);
        if (ok)
            stages[n++] = rest;
        rest = strchr(rest, ',');
        if (rest)
            *rest++ = 0;
    }
    ok = ok && ledger_config_pipeline(config, copy, stages, n, st);
    heap_free(copy);
    return ok;
}

static bool read_option(const char *name, const char *value, struct loop_options *out,
                        struct status *st)
{
    uint64_t count = 0;
    bool ok = true;

    if (strcmp(name, "--listen") == 0) {
        out->listen = value;
    } else if (strcmp(name, "--bus") == 0) {
        out->bus = value;
    } else if (strcmp(name, "--pipeline") == 0) {
        ok = read_pipeline(value, &out->ledger, st);
    } else if (strcmp(name, "--memory") == 0) {
        ok = read_count(value, 1U << 20, &out->ledger.memory_max_bytes, st);
    } else if (strcmp(name, "--body-bytes") == 0) {
        ok = read_count(value, 1024, &count, st);
        out->body_bytes_max = (size_t)count;
    } else if (strcmp(name, "--requests") == 0) {
        ok = read_count(value, 1, &count, st);
        out->ledger.requests_max = (size_t)count;
    } else if (strcmp(name, "--image-budget") == 0) {
        ok = read_count(value, 1, &count, st) &&
             (media_budget_known(count) ||
              status_fail(st, STATUS_INVALID, "must be %s", MEDIA_BUDGETS));
        out->usual.image_budget = (size_t)count;
    } else if (strcmp(name, "--video-frames") == 0) {
        ok = read_count(value, 1, &count, st) &&
             (count <= VIDEO_FRAMES_MAX ||
              status_fail(st, STATUS_INVALID, "at most %d", VIDEO_FRAMES_MAX));
        out->usual.video_frames = (size_t)count;
    } else {
        return status_fail(st, STATUS_INVALID, "unknown option '%s'", name);
    }
    return ok || status_wrap(st, "%s '%s'", name, value);
}

static bool read_options(int argc, char **argv, struct loop_options *out, struct status *st)
{
    static const char *const standard[] = {"ingest", "encode", "infer", "format"};

    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return status_fail(st, STATUS_INVALID, "'%s' needs a value", argv[i]);
        if (!read_option(argv[i], argv[i + 1], out, st))
            return false;
    }
    return out->ledger.n_pipelines > 0 ||
           ledger_config_pipeline(&out->ledger, "chat", standard, 4, st);
}

int main(int argc, char **argv)
{
    static char bus[LINK_ADDRESS_MAX];
    static struct loop_options options;
    struct status st = {0};

    log_open("gateway", LOG_INFO);
    schedule_at_once();
    limits_allow_files(); /* ZeroMQ ends the process when a peer connects and none is left */
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0)
            return fputs(usage, stdout) < 0;
    link_default_address(bus);
    options = (struct loop_options){.listen = "127.0.0.1:8080",
                                    .bus = bus,
                                    .body_bytes_max = BODY_BYTES_DEFAULT,
                                    .usual = {IMAGE_BUDGET_DEFAULT, VIDEO_FRAMES_DEFAULT},
                                    .ledger = ledger_config_default()};
    if (read_options(argc, argv, &options, &st) && loop_run(&options, &st))
        return EXIT_SUCCESS;
    log_error("cannot run", "code=%s text=%s", status_name(st.code), log_quoted(st.text).text);
    return st.code == STATUS_INVALID ? 2 : EXIT_FAILURE;
}
