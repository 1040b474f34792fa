/* ingest.c - jobs of several media; each medium goes to a child of its own, order is kept. */
#include "services/ingest/ingest.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/media/media.h"
#include "engine/weights/weights.h"
#include "services/ingest/children.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOBS_MAX 8
#define WORK_EVERY_MS 200 /* the beat's counter moves while children work */

enum item_state { ITEM_WAITS, ITEM_RUNS, ITEM_DONE };

struct item {
    enum item_state state;
    uint64_t ticket;
    enum decode_want want;
    struct blob *file; /* until it is handed over */
    struct blob *frames;
    size_t height, width;
};

struct job {
    bool used;
    struct rid rid;
    uint32_t epoch;
    uint64_t order; /* of arrival */
    size_t budget;
    struct item items[BLOBS_MAX];
    size_t n;
};

struct ingest {
    struct children *children;
    struct job jobs[JOBS_MAX];
    size_t tile_px, budget;
    uint64_t tickets;
};

static bool check_budget(size_t budget, struct status *st)
{
    static const size_t allowed[] = {70, 140, 280, 560, 1120};
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (budget == allowed[i])
            return true;
    return status_fail(st, STATUS_INVALID,
                       "image budget %zu: it is 70, 140, 280, 560 or 1120 soft tokens", budget);
}

/* A number of an option, within [1, max]. */
static bool option_number(const struct stage_options *options, const char *name,
                          const char *fallback, size_t max, size_t *out, struct status *st)
{
    const char *text = stage_option(options, name, fallback);
    char *end;
    const unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value == 0 || value > max)
        return status_fail(st, STATUS_INVALID, "--%s '%s': a number from 1 to %zu", name, text,
                           max);
    *out = value;
    return true;
}

static bool read_tile(struct ingest *in, const char *path, struct status *st)
{
    struct weights *weights;
    struct media_shape shape;
    if (!path)
        return status_fail(st, STATUS_INVALID,
                           "--media FILE is needed: it decides the size of "
                           "pictures");
    if (!weights_open(&weights, path, st))
        return false;
    const bool ok = media_shape_read(&shape, weights, st);
    weights_close(weights);
    if (!ok)
        return status_wrap(st, "media '%s'", path);
    in->tile_px = shape.patch_px;
    return true;
}

static bool ingest_open(void **out_self, const struct stage_options *options,
                        struct stage_hello *hello, struct status *st)
{
    struct ingest *in = heap_new(1, sizeof *in);
    size_t spares, wall_s;
    char program[512];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) {
        (void)status_fail(st, STATUS_SYSTEM, "cannot tell where this program is (/proc/self/exe)");
        goto fail;
    }
    program[n] = 0;
    if (!option_number(options, "image-budget", "280", 1120, &in->budget, st) ||
        !check_budget(in->budget, st) ||
        !option_number(options, "spares", "2", CHILDREN_MAX / 2, &spares, st) ||
        !option_number(options, "seconds", "20", 600, &wall_s, st) ||
        !read_tile(in, stage_option(options, "media", NULL), st) ||
        !children_new(&in->children, program, spares, (int64_t)wall_s * 1000, st))
        goto fail;
    hello->slots = JOBS_MAX;
    *out_self = in;
    return true;
fail:
    heap_free(in);
    return false;
}

static void job_drop(struct ingest *in, struct job *job)
{
    for (size_t i = 0; i < job->n; i++) {
        if (job->items[i].state == ITEM_RUNS)
            children_cancel(in->children, job->items[i].ticket);
        blob_drop(job->items[i].file);
        blob_drop(job->items[i].frames);
    }
    *job = (struct job){0};
}

static void ingest_close(void *self)
{
    struct ingest *in = self;
    for (size_t i = 0; i < JOBS_MAX; i++)
        job_drop(in, &in->jobs[i]);
    children_free(in->children);
    heap_free(in);
}

static bool ingest_job(void *self, const struct msg *msg, struct outbox *out, enum fault *fault,
                       struct status *st)
{
    (void)out;
    struct ingest *in = self;
    struct job *job = NULL;
    for (size_t i = 0; i < JOBS_MAX && !job; i++)
        if (!in->jobs[i].used)
            job = &in->jobs[i];
    *fault = FAULT_CAPACITY;
    if (!job)
        return status_fail(st, STATUS_BUSY, "ingest holds %d jobs already", JOBS_MAX);
    *fault = FAULT_REQUEST;
    int64_t budget = 0;
    (void)field_int(msg->head.fields, "image_budget", &budget);
    if (budget != 0 && (budget < 0 || !check_budget((size_t)budget, st)))
        return budget < 0 ? status_fail(st, STATUS_INVALID, "image budget is negative") : false;
    for (size_t i = 0; i < msg->head.n_blobs; i++) {
        const char *name = msg->head.blobs[i].name;
        if (strcmp(name, "image") != 0 && strcmp(name, "audio") != 0)
            return status_fail(st, STATUS_UNSUPPORTED, "blob '%s' is neither image nor audio",
                               name);
    }
    *job = (struct job){.used = true,
                        .rid = msg->head.rid,
                        .epoch = msg->head.epoch,
                        .order = ++in->tickets,
                        .budget = budget > 0 ? (size_t)budget : in->budget,
                        .n = msg->head.n_blobs};
    for (size_t i = 0; i < job->n; i++)
        job->items[i] =
            (struct item){.ticket = ++in->tickets,
                          .want = msg->head.blobs[i].name[0] == 'i' ? DECODE_PICTURE : DECODE_SOUND,
                          .file = blob_keep(msg->blobs[i])};
    return true; /* the tick that follows hands the items over */
}

static void ingest_cancel(void *self, struct rid rid, uint32_t epoch)
{
    struct ingest *in = self;
    for (size_t i = 0; i < JOBS_MAX; i++)
        if (in->jobs[i].used && in->jobs[i].epoch == epoch && rid_equal(in->jobs[i].rid, rid))
            job_drop(in, &in->jobs[i]);
}

/* "image 2: ..." when there are several of that kind, else "image: ...". */
static void fail_item(struct ingest *in, struct job *job, const struct item *item,
                      struct outbox *out, enum fault fault, struct status *st)
{
    size_t number = 0, of = 0;
    for (size_t i = 0; i < job->n; i++) {
        of += job->items[i].want == item->want;
        if (&job->items[i] == item)
            number = of;
    }
    const char *what = item->want == DECODE_PICTURE ? "image" : "audio";
    if (of > 1)
        (void)status_wrap(st, "%s %zu", what, number);
    else
        (void)status_wrap(st, "%s", what);
    outbox_fail(out, job->rid, job->epoch, fault, st);
    job_drop(in, job);
}

static void finish_job(struct ingest *in, struct job *job, struct outbox *out)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    msg->head.kind = MSG_RESULT;
    msg->head.last = true;
    for (size_t i = 0; i < job->n; i++) {
        struct item *item = &job->items[i];
        if (item->want == DECODE_PICTURE)
            msg_add_take(msg, "image.rgb", BLOB_U8, (size_t[]){item->height, item->width, 3}, 3,
                         item->frames);
        else
            msg_add_take(msg, "audio.pcm", BLOB_F32, &item->width, 1, item->frames);
        item->frames = NULL;
    }
    outbox_result_take(out, job->rid, job->epoch, msg);
    heap_free(msg);
    job_drop(in, job);
}

static bool all_done(const struct job *job)
{
    for (size_t i = 0; i < job->n; i++)
        if (job->items[i].state != ITEM_DONE)
            return false;
    return true;
}

static struct item *find_item(struct ingest *in, uint64_t ticket, struct job **out_job)
{
    for (size_t i = 0; i < JOBS_MAX; i++)
        for (size_t k = 0; k < in->jobs[i].n; k++)
            if (in->jobs[i].items[k].ticket == ticket) {
                *out_job = &in->jobs[i];
                return &in->jobs[i].items[k];
            }
    return NULL;
}

static bool samples_finite(const struct children_end *end)
{
    for (size_t i = 0; i < end->width; i++) {
        float value;
        memcpy(&value, end->frames.data + i * sizeof value, sizeof value);
        if (!(fabsf(value) <= 1.0F))
            return false;
    }
    return true;
}

static void take_end(struct ingest *in, struct children_end *end, struct outbox *out)
{
    struct job *job = NULL;
    struct item *item = find_item(in, end->ticket, &job);
    assert(item); /* a cancelled item has no end */
    if (end->ok && item->want == DECODE_SOUND && !samples_finite(end)) {
        end->ok = false;
        (void)status_fail(&end->st, STATUS_INTERNAL, "the decoder's samples are not believed");
    }
    outbox_work(out);
    if (!end->ok) {
        buffer_clear(&end->frames);
        fail_item(in, job, item, out, FAULT_REQUEST, &end->st);
        return;
    }
    log_debug("medium decoded", "height=%zu width=%zu child_ms=%.1f", end->height, end->width,
              end->took_us / 1000.0);
    item->state = ITEM_DONE;
    item->height = end->height;
    item->width = end->width;
    item->frames = blob_copy(end->frames.data, end->frames.size);
    buffer_clear(&end->frames);
    if (all_done(job))
        finish_job(in, job, out);
}

/* The oldest item that waits, or NULL. */
static struct item *next_item(struct ingest *in, struct job **out_job)
{
    struct item *first = NULL;
    for (size_t i = 0; i < JOBS_MAX; i++)
        for (size_t k = 0; k < in->jobs[i].n; k++) {
            struct item *item = &in->jobs[i].items[k];
            if (item->state == ITEM_WAITS && (!first || item->ticket < first->ticket)) {
                first = item;
                *out_job = &in->jobs[i];
            }
        }
    return first;
}

static void give_items(struct ingest *in, struct outbox *out)
{
    struct job *job = NULL;
    struct item *item;
    while ((item = next_item(in, &job)) != NULL) {
        struct status st = {0};
        const struct status *broken = children_broken(in->children);
        if (!children_ready(in->children)) {
            if (!broken)
                return;
            st = *broken;
            fail_item(in, job, item, out, FAULT_STAGE, &st);
            continue;
        }
        const struct decode_request request = {
            .want = item->want, .budget = (uint32_t)job->budget, .tile_px = (uint32_t)in->tile_px};
        const struct span file = span_of(blob_data(item->file), blob_size(item->file));
        if (!children_give(in->children, item->ticket, &request, file, &st)) {
            fail_item(in, job, item, out, FAULT_STAGE, &st);
            continue;
        }
        item->state = ITEM_RUNS;
        blob_drop(item->file);
        item->file = NULL;
    }
}

static int ingest_tick(void *self, struct outbox *out)
{
    struct ingest *in = self;
    struct children_end end;
    while (children_poll(in->children, &end))
        take_end(in, &end, out);
    bool busy = false;
    for (size_t i = 0; i < JOBS_MAX; i++) {
        struct job *job = &in->jobs[i];
        if (!job->used)
            continue;
        if (job->n == 0) { /* nothing to do is done */
            finish_job(in, job, out);
        } else if (outbox_ms_left(out, job->rid, job->epoch) < 0) {
            struct status st = {0};
            (void)status_fail(&st, STATUS_DEADLINE,
                              "the time allowed was over while media were decoded");
            outbox_fail(out, job->rid, job->epoch, FAULT_REQUEST, &st);
            job_drop(in, job);
        }
    }
    give_items(in, out);
    for (size_t i = 0; i < JOBS_MAX; i++)
        busy = busy || in->jobs[i].used;
    const int wait_ms = children_wait_ms(in->children);
    if (!busy)
        return wait_ms;
    outbox_work(out); /* waiting for children is work; how long is their wall clock's business */
    return wait_ms >= 0 && wait_ms < WORK_EVERY_MS ? wait_ms : WORK_EVERY_MS;
}

static size_t ingest_descriptors(void *self, int *fds, size_t max)
{
    const struct ingest *in = self;
    return children_descriptors(in->children, fds, max);
}

static size_t ingest_running(void *self, struct rid *rids, size_t max)
{
    const struct ingest *in = self;
    size_t n = 0;
    for (size_t i = 0; i < JOBS_MAX && n < max; i++)
        if (in->jobs[i].used)
            rids[n++] = in->jobs[i].rid;
    return n;
}

static const struct stage_option_row options[] = {
    {"media", "FILE", "the projector file (mmproj), for the size of pictures"},
    {"image-budget", "N", "soft tokens a picture: 70, 140, 280, 560 or 1120 (280)"},
    {"spares", "N", "decoders kept ready (2)"},
    {"seconds", "N", "after so many seconds a decoder is killed (20)"},
    {NULL, NULL, NULL},
};

const struct stage ingest_stage = {
    .name = "ingest",
    .about = "Turns pictures and sounds into frames for the model, each in a process of its own.",
    .options = options,
    .open = ingest_open,
    .job = ingest_job,
    .cancel = ingest_cancel,
    .tick = ingest_tick,
    .descriptors = ingest_descriptors,
    .running = ingest_running,
    .close = ingest_close,
};
