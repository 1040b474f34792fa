/* ingest.c - jobs of several media; each medium goes to a child of its own, order is kept. */
#include "services/ingest/ingest.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/media/media.h"
#include "engine/weights/weights.h"
#include "proto/media.h"
#include "services/ingest/children.h"
#include "services/ingest/wish.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define JOBS_MAX 8
#define WORK_EVERY_MS 200 /* the beat's counter moves while children work */

enum item_state { ITEM_WAITS, ITEM_RUNS, ITEM_DONE };

/* Words for what is wanted: the blob's name, and how it is spoken of. */
static const char *const names[WANTS] = {
    [WANT_PICTURE] = "image", [WANT_SOUND] = "audio", [WANT_VIDEO] = "video"};

struct item {
    enum item_state state;
    uint64_t ticket;
    enum medium_want want;
    struct blob *file; /* until it is handed over */
    struct children_end end;
};

struct job {
    bool used;
    struct rid rid;
    uint32_t epoch;
    uint64_t order; /* of arrival */
    struct wish wish;
    struct item items[BLOBS_MAX];
    size_t n;
};

struct ingest {
    struct children *children;
    struct job jobs[JOBS_MAX];
    size_t tile_px;
    struct wish wish;
    uint64_t tickets;
};

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
    uint64_t spares, wall_s;
    char program[512];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) {
        (void)status_fail(st, STATUS_SYSTEM, "cannot tell where this program is (/proc/self/exe)");
        goto fail;
    }
    program[n] = 0;
    if (!wish_options(&in->wish, options, st) ||
        !stage_number(options, "spares", "2", 1, CHILDREN_MAX / 2, &spares, st) ||
        !stage_number(options, "seconds", "20", 1, 600, &wall_s, st) ||
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
        buffer_clear(&job->items[i].end.bytes);
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

/* WANTS: no name of ours. */
static enum medium_want want_of(const char *name)
{
    int want = 0;
    while (want < WANTS && strcmp(name, names[want]) != 0)
        want++;
    return (enum medium_want)want;
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
    struct wish wish = in->wish;
    if (!wish_fields(&wish, msg->head.fields, st))
        return false;
    for (size_t i = 0; i < msg->head.n_blobs; i++)
        if (want_of(msg->head.blobs[i].name) == WANTS)
            return status_fail(st, STATUS_UNSUPPORTED,
                               "blob '%s' is neither image, audio nor video",
                               msg->head.blobs[i].name);
    *job = (struct job){.used = true,
                        .rid = msg->head.rid,
                        .epoch = msg->head.epoch,
                        .order = ++in->tickets,
                        .wish = wish,
                        .n = msg->head.n_blobs};
    for (size_t i = 0; i < job->n; i++)
        job->items[i] = (struct item){.ticket = ++in->tickets,
                                      .want = want_of(msg->head.blobs[i].name),
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
    if (of > 1)
        (void)status_wrap(st, "%s %zu", names[item->want], number);
    else
        (void)status_wrap(st, "%s", names[item->want]);
    outbox_fail(out, job->rid, job->epoch, fault, st);
    job_drop(in, job);
}

/* A blob of the next bytes of a result. */
static void add_part(struct msg *msg, const char *name, enum blob_type type, const size_t *dims,
                     size_t n_dims, const uint8_t **bytes)
{
    size_t size = type == BLOB_U8 ? 1 : 4;
    for (size_t i = 0; i < n_dims; i++)
        size *= dims[i];
    msg_add_take(msg, name, type, dims, n_dims, blob_copy(*bytes, size));
    *bytes += size;
}

/* A video, and what is said of it in the answer: which frames of how many, what was left out. */
static void add_video(struct msg *msg, const struct children_end *end, size_t number,
                      struct buffer *notes)
{
    const uint8_t *bytes = end->bytes.data;
    char text[192 + DECODE_NOTE_SIZE];
    add_part(msg, "video.rgb", BLOB_U8, (size_t[]){end->frames, end->height, end->width, 3}, 4,
             &bytes);
    add_part(msg, "video.times", BLOB_I32, &end->frames, 1, &bytes);
    if (end->samples > 0)
        add_part(msg, "video.pcm", BLOB_F32, &end->samples, 1, &bytes);
    int n = snprintf(text, sizeof text,
                     "%s{\"kind\":\"video\",\"number\":%zu,\"length_ms\":%zu,\"frames\":%zu,"
                     "\"frames_in_file\":%zu,\"sound_ms\":%zu",
                     notes->size == 0 ? "[" : ",", number, end->length_ms, end->frames,
                     end->frames_seen, end->samples / (MEDIA_AUDIO_RATE_HZ / 1000));
    if (end->note[0])
        (void)snprintf(text + n, sizeof text - (size_t)n, ",\"left_out\":\"%s\"", end->note);
    for (char *c = text + n + (end->note[0] ? 13 : 0); *c && c[1]; c++)
        if (*c == '"' || *c == '\\')
            *c = '\'';
    buffer_append_text(notes, text);
    buffer_append_text(notes, "}");
}

/* A blob of the whole result, which is no longer the item's: copying a picture takes 1 ms. */
static struct blob *take_bytes(struct children_end *end)
{
    struct buffer bytes = end->bytes;

    end->bytes = (struct buffer){0};
    return blob_wrap(bytes.data, bytes.size, heap_free, bytes.data);
}

static void finish_job(struct ingest *in, struct job *job, struct outbox *out)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    struct buffer notes = {0};
    size_t videos = 0;
    msg->head.kind = MSG_RESULT;
    msg->head.last = true;
    for (size_t i = 0; i < job->n; i++) {
        struct item *item = &job->items[i];
        struct children_end *end = &item->end;
        if (item->want == WANT_PICTURE)
            msg_add_take(msg, "image.rgb", BLOB_U8, (size_t[]){end->height, end->width, 3}, 3,
                         take_bytes(end));
        else if (item->want == WANT_SOUND)
            msg_add_take(msg, "audio.pcm", BLOB_F32, &end->samples, 1, take_bytes(end));
        else
            add_video(msg, end, ++videos, &notes);
    }
    if (notes.size > 0) {
        buffer_append_text(&notes, "]");
        msg_add_take(msg, "notes", BLOB_JSON, &notes.size, 1, blob_copy(notes.data, notes.size));
    }
    buffer_clear(&notes);
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

/* The samples are at the end of a result, also of a video's. */
static bool samples_finite(const struct children_end *end)
{
    const uint8_t *first = end->bytes.data + end->bytes.size - end->samples * sizeof(float);
    for (size_t i = 0; i < end->samples; i++) {
        float value;
        memcpy(&value, first + i * sizeof value, sizeof value);
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
    if (end->ok && !samples_finite(end)) {
        end->ok = false;
        (void)status_fail(&end->st, STATUS_INTERNAL, "the decoder's samples are not believed");
    }
    outbox_work(out);
    if (!end->ok) {
        buffer_clear(&end->bytes);
        fail_item(in, job, item, out, FAULT_REQUEST, &end->st);
        return;
    }
    log_debug("medium decoded",
              "request=%s height=%zu width=%zu frames=%zu samples=%zu elapsed_ms=%.2f",
              rid_hex(job->rid).text, end->height, end->width, end->frames, end->samples,
              end->took_us / 1000.0);
    item->state = ITEM_DONE;
    item->end = *end; /* with its bytes */
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
        const struct wish *wish = &job->wish;
        const bool video = item->want == WANT_VIDEO;
        const struct decode_request request = {
            .want = item->want,
            .budget = (uint32_t)(video ? wish->video_budget : wish->image_budget),
            .tile_px = (uint32_t)in->tile_px,
            .frames_max = (uint32_t)wish->video_frames_max,
            .sound_s = (uint32_t)wish->video_sound_s,
            .fps = wish->video_fps};
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
    {"image-budget", "N", "soft tokens a picture: " MEDIA_BUDGETS " (280)"},
    {"video-frames", "N", "frames of a video at most, 1 to 240 (60)"},
    {"video-fps", "N", "frames shown of each second of a video, 0.01 to 30 (1)"},
    {"spares", "N", "decoders kept ready (2)"},
    {"seconds", "N",
     "after so many seconds a decoder is killed; three times as many for a video (20)"},
    {NULL, NULL, NULL},
};

const struct stage ingest_stage = {
    .name = "ingest",
    .about = "Turns pictures, sounds and videos into frames for the model, each in a process of "
             "its own.",
    .options = options,
    .open = ingest_open,
    .job = ingest_job,
    .cancel = ingest_cancel,
    .tick = ingest_tick,
    .descriptors = ingest_descriptors,
    .running = ingest_running,
    .close = ingest_close,
};
