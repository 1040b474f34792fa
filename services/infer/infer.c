#include "services/infer/infer.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/base/pool.h"
#include "engine/base/schedule.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "services/stage/manifest.h"
#include "services/stage/progress.h"
#include "services/stage/warm.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS_NEW_MAX 65536 /* of one answer, whatever the context allows */
#define GIVE_WAY_US 2000     /* four tokens are with their clients by then */
#define CRASH_AFTER 2        /* tokens given out before the test hook strikes */

/* What infer remembers of a request in a slot of the batch. */
struct slot {
    bool used;
    bool crashes; /* test hook: see infer.h */
    struct rid rid;
    uint32_t epoch;
    size_t prompt_tokens;
    size_t n_tokens; /* given out, those of earlier attempts included */
    int64_t begun_us, first_us;
};

struct infer {
    struct weights *weights;
    struct weights *drafter_file; /* NULL: none */
    struct drafter *drafter;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct model *model;
    struct batch *batch;
    size_t context;
    size_t width;
    int64_t crash_id; /* -1: none */
    size_t slots;
    struct slot slot[BATCH_SLOTS_MAX];
    struct batch_event events[BATCH_SLOTS_MAX];
};

/* ------------------------------------------------------------------ open */

struct settings {
    uint64_t threads, context, slots, kv_bytes, draft_tokens;
    const char *drafter; /* "": none */
    const char *kv_type;
    bool exact;
};

static bool read_settings(const struct stage_options *options, struct settings *out,
                          struct status *st)
{
    if (!stage_number(options, "threads", "0", 0, 256, &out->threads, st) ||
        !stage_number(options, "context", "8192", 16, 262144, &out->context, st) ||
        !stage_number(options, "draft-tokens", "3", 1, BATCH_DRAFT_TOKENS_MAX, &out->draft_tokens,
                      st) ||
        !stage_number(options, "slots", "4", 1, BATCH_SLOTS_MAX, &out->slots, st) ||
        !stage_number(options, "kv-bytes", "1073741824", 1 << 16, UINT64_C(1) << 40, &out->kv_bytes,
                      st))
        return false;
    if (out->threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        out->threads = cores > 0 ? (uint64_t)cores : 1;
    }
    out->drafter = stage_option(options, "drafter", "");
    out->kv_type = stage_option(options, "kv-type", "");
    out->exact = strcmp(stage_option(options, "exact", "no"), "yes") == 0;
    return true;
}

static bool open_engine(struct infer *infer, const struct settings *settings, struct status *st)
{
    struct progress progress;
    struct model_options model = {.exact = settings->exact,
                                  .kv_type = settings->kv_type,
                                  .context_max = infer->context,
                                  .kv_bytes = (size_t)settings->kv_bytes,
                                  .progress = progress_show,
                                  .progress_context = &progress};
    struct batch_options batch = {.slots = infer->slots,
                                  .context_max = infer->context,
                                  .chunk_tokens = BATCH_CHUNK_TOKENS,
                                  .step_us = BATCH_STEP_US,
                                  .draft_tokens = (size_t)settings->draft_tokens};

    progress_begin(&progress, "laying out weights", weights_path(infer->weights));
    bool opened = model_open(&infer->model, infer->weights, infer->pool, &model, st);
    progress_end(&progress);
    if (!opened)
        return false;
    if (model_memory_short(infer->model))
        log_warn("memory is too short to lay weights out: answers will be slower", "file=%s",
                 weights_path(infer->weights));
    if (infer->drafter_file &&
        !drafter_open(&infer->drafter, infer->drafter_file, infer->model, DRAFT_STEP_ROWS, st))
        return false;
    batch.drafter = infer->drafter;
    return batch_new(&infer->batch, infer->model, infer->tokenizer, &batch, st);
}

static bool warm_files(const struct weights *w, const char *manifest, struct status *st)
{
    if (*manifest)
        return manifest_check(manifest, w, st);
    for (size_t i = 0; i < weights_files(w); i++)
        if (!warm_read(weights_file(w, i), NULL, st))
            return false;
    return true;
}

/* The arithmetic of one request of the whole context (spec model.md section 6.2). */
static void log_memory(const struct infer *infer, uint64_t kv_bytes)
{
    const struct kv *kv = model_kv(infer->model);

    log_info("keys and values",
             "type=%s full_token_bytes=%zu sliding_token_bytes=%zu window=%zu full_bytes=%zu "
             "sliding_bytes=%zu request_bytes=%zu kv_bytes=%" PRIu64,
             kv_type_name(kv_type(kv)), kv_token_bytes(kv, KV_FULL), kv_token_bytes(kv, KV_SLIDING),
             model_hparams(infer->model)->window, kv_held_bytes(kv, KV_FULL, infer->context),
             kv_held_bytes(kv, KV_SLIDING, infer->context), kv_line_bytes(kv, infer->context),
             kv_bytes);
}

bool infer_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                struct status *st)
{
    struct infer *infer = heap_new(1, sizeof *infer);
    const char *model = stage_option(options, "model", "");
    const char *manifest = stage_option(options, "manifest", "");
    struct settings settings;
    int64_t begun_us = clock_now_us();

    if (!*model) {
        (void)status_fail(st, STATUS_INVALID, "--model FILE is missing");
        goto fail;
    }
    if (!read_settings(options, &settings, st) || !weights_open(&infer->weights, model, st) ||
        !tokenizer_new(&infer->tokenizer, infer->weights, st))
        goto fail;
    const char *crash_id = getenv("MILLRACE_TEST_CRASH_ID");
    infer->crash_id = crash_id ? strtol(crash_id, NULL, 10) : -1;
    infer->slots = (size_t)settings.slots;
    infer->context = (size_t)settings.context;
    schedule_behind(); /* the gateway must get its turn before us and the threads of the pool */
    infer->pool = pool_new((size_t)settings.threads);
    if (settings.drafter[0] && (!weights_open(&infer->drafter_file, settings.drafter, st) ||
                                !warm_files(infer->drafter_file, manifest, st)))
        goto fail;
    /* Without hashes to compare, what is laid out is read on the way: a cold disk is read once. */
    if (*manifest && !warm_files(infer->weights, manifest, st))
        goto fail;
    if (!open_engine(infer, &settings, st))
        goto fail;
    if (!*manifest && model_laid_out_bytes(infer->model) == 0 &&
        !warm_files(infer->weights, manifest, st))
        goto fail;
    infer->width = model_hparams(infer->model)->width;
    hello->model = tokenizer_hash(infer->tokenizer);
    hello->slots = (uint32_t)infer->slots;
    (void)snprintf(hello->numerics, sizeof hello->numerics, "%s", model_numerics(infer->model));
    log_info("model open",
             "file=%s bytes=%zu drafter=%s threads=%zu context=%zu slots=%zu elapsed_ms=%" PRId64,
             model, weights_size_bytes(infer->weights),
             settings.drafter[0] ? settings.drafter : "none", pool_threads(infer->pool),
             infer->context, infer->slots, (clock_now_us() - begun_us) / 1000);
    log_memory(infer, settings.kv_bytes);
    *out_self = infer;
    return true;
fail:
    infer_close(infer);
    return false;
}

void infer_close(void *self)
{
    struct infer *infer = self;

    batch_free(infer->batch);
    drafter_close(infer->drafter);
    weights_close(infer->drafter_file);
    model_close(infer->model);
    pool_free(infer->pool);
    tokenizer_free(infer->tokenizer);
    weights_close(infer->weights);
    heap_free(infer);
}

/* ------------------------------------------------------------------ a job */

/* The i32 blob of that name with `columns` numbers a row; absent is empty. */
static bool i32_blob(const struct msg *job, const char *name, size_t columns, const int32_t **out,
                     size_t *out_rows, struct status *st)
{
    int at = msg_find(job, name, 0);

    *out = NULL;
    *out_rows = 0;
    if (at < 0)
        return true;
    const struct blob_desc *desc = &job->head.blobs[at];
    if (desc->type != BLOB_I32 || desc->n_dims != (columns > 1 ? 2U : 1U) ||
        (columns > 1 && desc->dims[1] != columns))
        return status_fail(st, STATUS_CORRUPT, "%s: not i32 with %zu columns", name, columns);
    *out = (const int32_t *)(const void *)blob_data(job->blobs[at]);
    *out_rows = desc->dims[0];
    return true;
}

static bool soft_blob(const struct infer *infer, const struct msg *job,
                      struct batch_request *request, struct status *st)
{
    int at = msg_find(job, "soft", 0);
    int64_t rows = 0;

    for (size_t i = 0; i < request->n_spans; i++) {
        if (request->spans[3 * i + 1] <= 0)
            return status_fail(st, STATUS_CORRUPT, "spans[%zu]: count is not positive", i);
        rows += request->spans[3 * i + 1];
    }
    if (at < 0 && rows == 0)
        return true;
    if (at < 0)
        return status_fail(st, STATUS_CORRUPT, "soft: missing, spans want %" PRId64 " rows", rows);
    const struct blob_desc *desc = &job->head.blobs[at];
    if (desc->type != BLOB_F32 || desc->n_dims != 2 || desc->dims[1] != infer->width ||
        desc->dims[0] != (size_t)rows)
        return status_fail(st, STATUS_CORRUPT, "soft: not f32 [%" PRId64 "][%zu]", rows,
                           infer->width);
    request->soft = (const float *)(const void *)blob_data(job->blobs[at]);
    return true;
}

static void read_sampling(struct span fields, struct sampling *out)
{
    double temperature = 1.0;
    double top_p = 0.95;
    double min_p = 0.0;
    int64_t top_k = 64;
    int64_t seed = 0;

    (void)field_float(fields, "temperature", &temperature);
    (void)field_float(fields, "top_p", &top_p);
    (void)field_float(fields, "min_p", &min_p);
    (void)field_int(fields, "top_k", &top_k);
    (void)field_int(fields, "seed", &seed);
    *out = (struct sampling){.temperature = (float)temperature,
                             .top_k = top_k < 0 ? 0 : (uint32_t)top_k,
                             .top_p = (float)top_p,
                             .min_p = (float)min_p,
                             .seed = (uint64_t)seed};
}

/* Stop strings, ended with zeroes, in `texts`. */
static bool read_stops(struct span fields, struct batch_request *request,
                       char texts[BATCH_STOPS_MAX][BATCH_STOP_BYTES_MAX + 1], struct status *st)
{
    struct span stops[BATCH_STOPS_MAX];
    size_t n = field_texts(fields, "stop", stops, BATCH_STOPS_MAX);

    if (n > BATCH_STOPS_MAX)
        return status_fail(st, STATUS_LIMIT, "stop: %zu texts, at most %d", n, BATCH_STOPS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (stops[i].size == 0 || stops[i].size > BATCH_STOP_BYTES_MAX)
            return status_fail(st, STATUS_LIMIT, "stop[%zu]: 1 to %d bytes are wanted", i,
                               BATCH_STOP_BYTES_MAX);
        memcpy(texts[i], stops[i].data, stops[i].size);
        texts[i][stops[i].size] = 0;
        request->stops[i] = texts[i];
    }
    request->n_stops = n;
    return true;
}

/* New tokens allowed: what was asked for, else what the context leaves. */
static size_t tokens_allowed(const struct infer *infer, struct span fields, size_t prompt_tokens)
{
    int64_t wanted = 0;

    (void)field_int(fields, "max_tokens", &wanted);
    if (wanted > 0)
        return (size_t)wanted;
    size_t left = infer->context > prompt_tokens ? infer->context - prompt_tokens : 1;
    return left < TOKENS_NEW_MAX ? left : TOKENS_NEW_MAX;
}

static bool has_id(const struct batch_request *request, int64_t id)
{
    for (size_t i = 0; i < request->n_ids; i++)
        if (request->ids[i] == id)
            return true;
    return false;
}

bool infer_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
               struct status *st)
{
    struct infer *infer = self;
    struct batch_request request = {0};
    char stops[BATCH_STOPS_MAX][BATCH_STOP_BYTES_MAX + 1];
    size_t slot;

    (void)out;
    *fault = FAULT_REQUEST;
    if (!i32_blob(job, "ids", 1, &request.ids, &request.n_ids, st) ||
        !i32_blob(job, "spans", 3, &request.spans, &request.n_spans, st) ||
        !i32_blob(job, "cuts", 1, &request.cuts, &request.n_cuts, st) ||
        !i32_blob(job, "tokens", 1, &request.emitted, &request.n_emitted, st) ||
        !soft_blob(infer, job, &request, st) || !read_stops(job->head.fields, &request, stops, st))
        return false;
    if (request.n_ids == 0)
        return status_fail(st, STATUS_CORRUPT, "ids: the prompt is empty");
    read_sampling(job->head.fields, &request.sampling);
    request.tenant = job->head.tenant;
    request.tokens_max = tokens_allowed(infer, job->head.fields, request.n_ids);
    if (!batch_add(infer->batch, &request, &slot, st)) {
        if (st->code == STATUS_BUSY)
            *fault = FAULT_CAPACITY;
        return false;
    }
    infer->slot[slot] = (struct slot){.used = true,
                                      .crashes = has_id(&request, infer->crash_id),
                                      .rid = job->head.rid,
                                      .epoch = job->head.epoch,
                                      .prompt_tokens = request.n_ids,
                                      .n_tokens = request.n_emitted,
                                      .begun_us = clock_now_us()};
    return true;
}

void infer_cancel(void *self, struct rid rid, uint32_t epoch)
{
    struct infer *infer = self;

    for (size_t i = 0; i < infer->slots; i++) {
        struct slot *slot = &infer->slot[i];
        if (!slot->used || !rid_equal(slot->rid, rid) || slot->epoch != epoch)
            continue;
        batch_remove(infer->batch, i);
        slot->used = false;
        log_info("cancelled", "request=%s tokens=%zu", rid_hex(rid).text, slot->n_tokens);
    }
}

/* ------------------------------------------------------------------ steps */

static void add_final_fields(const struct slot *slot, const struct batch_event *event,
                             struct fields_writer *fields)
{
    static const char *const names[] = {
        [BATCH_STOP] = "stop", [BATCH_STOP_STRING] = "stop_string", [BATCH_LENGTH] = "length"};
    int64_t now_us = clock_now_us();
    int64_t first_us = slot->first_us ? slot->first_us : now_us;

    fields_text(fields, "finish", span_text(names[event->finish]));
    fields_int(fields, "prompt_tokens", (int64_t)slot->prompt_tokens);
    fields_int(fields, "completion_tokens", (int64_t)slot->n_tokens);
    fields_int(fields, "cached_tokens", (int64_t)event->cached_tokens);
    fields_int(fields, "drafted", (int64_t)event->drafted);
    fields_int(fields, "accepted", (int64_t)event->accepted);
    fields_float(fields, "prefill_ms", (double)(first_us - slot->begun_us) / 1000.0);
    fields_float(fields, "decode_ms", (double)(now_us - first_us) / 1000.0);
}

static void send_event(struct infer *infer, const struct batch_event *event, struct outbox *out)
{
    struct slot *slot = &infer->slot[event->slot];
    struct msg *msg = heap_new(1, sizeof *msg);
    struct buffer packed = {0};

    if (event->n_tokens) {
        if (slot->first_us == 0)
            slot->first_us = clock_now_us();
        slot->n_tokens += event->n_tokens;
        msg_add_take(msg, "tokens", BLOB_I32, (size_t[]){event->n_tokens}, 1,
                     blob_copy(event->tokens, event->n_tokens * sizeof *event->tokens));
    }
    msg->head.index = (uint32_t)event->index;
    if (event->finish != BATCH_RUNNING) {
        struct fields_writer fields = {0};
        add_final_fields(slot, event, &fields);
        fields_finish(&fields, &packed);
        msg->head.last = true;
        msg->head.fields = buffer_span(&packed);
        slot->used = false;
    }
    outbox_result_take(out, slot->rid, slot->epoch, msg);
    buffer_clear(&packed);
    heap_free(msg);
}

/* What was sent, for the log; had_us: when there was something to send. */
static void log_event(const struct infer *infer, const struct batch_event *event, int64_t had_us)
{
    const struct slot *slot = &infer->slot[event->slot];

    if (event->n_tokens)
        log_debug("tokens", "request=%s index=%zu n=%zu age_us=%" PRId64, rid_hex(slot->rid).text,
                  event->index, event->n_tokens, clock_now_us() - had_us);
    if (event->finish != BATCH_RUNNING)
        log_info("answered",
                 "request=%s prompt_tokens=%zu cached_tokens=%zu tokens=%zu elapsed_ms=%" PRId64,
                 rid_hex(slot->rid).text, slot->prompt_tokens, event->cached_tokens, slot->n_tokens,
                 (clock_now_us() - slot->begun_us) / 1000);
}

static void drop_overdue(struct infer *infer, struct outbox *out)
{
    for (size_t i = 0; i < infer->slots; i++) {
        struct slot *slot = &infer->slot[i];
        struct status st = {0};
        if (!slot->used || outbox_ms_left(out, slot->rid, slot->epoch) >= 0)
            continue;
        batch_remove(infer->batch, i);
        slot->used = false;
        (void)status_fail(&st, STATUS_DEADLINE, "the request's time is over after %zu tokens",
                          slot->n_tokens);
        outbox_fail(out, slot->rid, slot->epoch, FAULT_REQUEST, &st);
    }
}

int infer_tick(void *self, struct outbox *out)
{
    struct infer *infer = self;

    drop_overdue(infer, out);
    if (batch_active(infer->batch) == 0)
        return -1;
    size_t n = batch_step(infer->batch, infer->events);
    int64_t had_us = clock_now_us();
    for (size_t i = 0; i < n; i++) {
        if (infer->slot[infer->events[i].slot].crashes && infer->events[i].index >= CRASH_AFTER)
            abort();
        send_event(infer, &infer->events[i], out);
    }
    if (n > 0)
        pool_give_way(infer->pool, GIVE_WAY_US);
    /* Once all are on their way: beats and lines of the log take their time too. */
    outbox_work(out);
    for (size_t i = 0; i < n; i++)
        log_event(infer, &infer->events[i], had_us);
    return 0;
}

size_t infer_running(void *self, struct rid *rids, size_t max)
{
    struct infer *infer = self;
    size_t slots[BATCH_SLOTS_MAX];
    size_t n = batch_working(infer->batch, slots);
    size_t used = 0;

    for (size_t i = 0; i < n && used < max; i++)
        if (infer->slot[slots[i]].used)
            rids[used++] = infer->slot[slots[i]].rid;
    return used;
}
