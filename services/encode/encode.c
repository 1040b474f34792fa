#include "services/encode/encode.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/ops/dense.h"
#include "engine/text/template.h"
#include "engine/weights/weights.h"
#include "services/encode/pieces.h"
#include "services/stage/manifest.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define JOBS_MAX 4
#define TOKENS_A_TICK 32 /* soft tokens between two looks at the socket: about 0.1 s at 12B */

/* A job between its arrival and its result. */
struct work {
    bool used;
    struct rid rid;
    uint32_t epoch;
    struct prompt prompt;
    struct pieces pieces;
    size_t piece, token; /* the next soft token to make */
    size_t row;          /* and its row in soft */
    struct blob *soft;   /* [pieces.rows][width] f32, or NULL */
    int64_t spent_us;    /* for them */
};

struct encode {
    struct weights *model;
    struct weights *media;
    struct tokenizer *tokenizer;
    struct projector *projector; /* NULL: media are refused */
    size_t width;
    struct work works[JOBS_MAX];
    size_t turn; /* works take turns */
};

/* ------------------------------------------------------------------ open */

static bool model_width(const struct weights *w, size_t *out, struct status *st)
{
    struct span arch;
    uint64_t width;
    char key[96];

    if (!weights_string(w, "general.architecture", &arch, st))
        return false;
    (void)snprintf(key, sizeof key, "%.*s.embedding_length", (int)(arch.size < 64 ? arch.size : 64),
                   (const char *)arch.data);
    if (!weights_u64(w, key, &width, st))
        return false;
    *out = (size_t)width;
    return true;
}

bool encode_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                 struct status *st)
{
    struct encode *e = heap_new(1, sizeof *e);
    const char *model = stage_option(options, "model", "");
    const char *media = stage_option(options, "media", "");
    const char *manifest = stage_option(options, "manifest", "");

    if (!*model) {
        (void)status_fail(st, STATUS_INVALID, "--model FILE is missing");
        goto fail;
    }
    if (!weights_open(&e->model, model, st) || !tokenizer_new(&e->tokenizer, e->model, st) ||
        !model_width(e->model, &e->width, st))
        goto fail;
    /* the decoder's files are infer's to check, a checkpoint's folder among them */
    if (*media &&
        (!weights_open(&e->media, media, st) ||
         (*manifest && strcmp(media, model) != 0 && !manifest_check(manifest, e->media, st)) ||
         !projector_open(&e->projector, e->media, e->width, st)))
        goto fail;
    hello->model = tokenizer_hash(e->tokenizer);
    /* What soft tokens hang on: OpenBLAS multiplies, one thread, with the kernels of this core. */
    (void)snprintf(hello->numerics, sizeof hello->numerics, "openblas %s", dense_core());
    hello->slots = JOBS_MAX;
    *out_self = e;
    return true;
fail:
    encode_close(e);
    return false;
}

static void work_clear(struct work *work)
{
    pieces_clear(&work->pieces);
    blob_drop(work->soft);
    prompt_clear(&work->prompt);
    *work = (struct work){0};
}

void encode_close(void *self)
{
    struct encode *e = self;

    for (size_t i = 0; i < JOBS_MAX; i++)
        work_clear(&e->works[i]);
    projector_close(e->projector);
    tokenizer_free(e->tokenizer);
    weights_close(e->media);
    weights_close(e->model);
    heap_free(e);
}

/* ------------------------------------------------------------------ turns to a chat */

struct arrays {
    struct chat_message *messages;
    struct chat_part *parts;
    struct chat_call *calls;
};

static void arrays_clear(struct arrays *a)
{
    heap_free(a->messages);
    heap_free(a->parts);
    heap_free(a->calls);
}

static enum media_kind kind_of(enum turn_part_kind kind)
{
    switch (kind) {
    case TURN_IMAGE:
        return MEDIA_IMAGE;
    case TURN_VIDEO:
        return MEDIA_VIDEO;
    case TURN_AUDIO:
        return MEDIA_AUDIO;
    case TURN_TEXT:
        break;
    }
    return MEDIA_NONE;
}

static bool copy_parts(const struct turn *turn, struct chat_part *parts,
                       const struct pieces *pieces, size_t *medium, struct status *st)
{
    for (size_t i = 0; i < turn->n_parts; i++) {
        enum media_kind kind = kind_of(turn->parts[i].kind);
        parts[i] = (struct chat_part){.kind = kind, .text = turn->parts[i].text};
        if (kind == MEDIA_NONE)
            continue;
        if (pieces->n_media == 0)
            return status_fail(
                st, STATUS_UNSUPPORTED,
                "this line decodes no media: pictures, sound and video are not read");
        if (*medium >= pieces->n_media || pieces->kinds[*medium] != kind)
            return status_fail(st, STATUS_CORRUPT, "turns: medium %zu has no frame of its kind",
                               *medium);
        parts[i].medium = (*medium)++;
    }
    return true;
}

static bool make_chat(const struct turns *turns, const struct pieces *pieces, struct arrays *a,
                      struct chat *chat, struct status *st)
{
    size_t n_parts = 0;
    size_t n_calls = 0;
    size_t medium = 0;

    for (size_t i = 0; i < turns->n; i++) {
        n_parts += turns->items[i].n_parts;
        n_calls += turns->items[i].n_calls;
    }
    a->messages = heap_array(struct chat_message, turns->n);
    a->parts = heap_array(struct chat_part, n_parts);
    a->calls = heap_array(struct chat_call, n_calls);
    struct chat_part *part = a->parts;
    struct chat_call *call = a->calls;
    for (size_t i = 0; i < turns->n; i++) {
        static const enum chat_role roles[] = {[TURN_SYSTEM] = CHAT_SYSTEM,
                                               [TURN_USER] = CHAT_USER,
                                               [TURN_ASSISTANT] = CHAT_ASSISTANT,
                                               [TURN_TOOL] = CHAT_TOOL};
        const struct turn *turn = &turns->items[i];
        a->messages[i] = (struct chat_message){.role = roles[turn->role],
                                               .is_list = turn->is_list,
                                               .parts = part,
                                               .n_parts = turn->n_parts,
                                               .calls = call,
                                               .n_calls = turn->n_calls,
                                               .reasoning = turn->reasoning,
                                               .tool_call_id = turn->tool_call_id,
                                               .name = turn->name};
        if (!copy_parts(turn, part, pieces, &medium, st))
            return false;
        part += turn->n_parts;
        for (size_t k = 0; k < turn->n_calls; k++)
            *call++ = (struct chat_call){.id = turn->calls[k].id,
                                         .name = turn->calls[k].name,
                                         .arguments = turn->calls[k].arguments};
    }
    if (medium != pieces->n_media)
        return status_fail(st, STATUS_CORRUPT, "turns: %zu media, %zu came decoded", medium,
                           pieces->n_media);
    chat->messages = a->messages;
    chat->n_messages = turns->n;
    chat->media = pieces->media;
    chat->n_media = pieces->n_media;
    return true;
}

static struct span blob_span(const struct msg *msg, const char *name)
{
    int at = msg_find(msg, name, 0);

    return at < 0 ? span_of(NULL, 0)
                  : span_of(blob_data(msg->blobs[at]), blob_size(msg->blobs[at]));
}

static bool render(const struct encode *e, const struct msg *job, struct work *work,
                   struct status *st)
{
    struct chat chat = {.generation_prompt = true, .tools = blob_span(job, "tools")};
    struct turns turns = {0};
    struct arrays arrays = {0};

    (void)field_bool(job->head.fields, "thinking", &chat.thinking);
    (void)field_bool(job->head.fields, "preserve_thinking", &chat.preserve_thinking);
    bool ok = turns_unpack(&turns, blob_span(job, "turns"), st) &&
              make_chat(&turns, &work->pieces, &arrays, &chat, st) &&
              template_render(e->tokenizer, &chat, &work->prompt, st);
    arrays_clear(&arrays);
    turns_clear(&turns);
    return ok;
}

bool encode_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                struct status *st)
{
    struct encode *e = self;
    struct work *work = NULL;

    (void)out;
    *fault = FAULT_REQUEST;
    for (size_t i = 0; i < JOBS_MAX && !work; i++)
        if (!e->works[i].used)
            work = &e->works[i];
    if (!work) {
        *fault = FAULT_CAPACITY;
        return status_fail(st, STATUS_BUSY, "encode: more jobs than credit");
    }
    *work = (struct work){.used = true, .rid = job->head.rid, .epoch = job->head.epoch};
    if (!pieces_read(&work->pieces, e->projector, job, st) || !render(e, job, work, st)) {
        work_clear(work);
        return false;
    }
    if (work->pieces.rows)
        work->soft = blob_new(work->pieces.rows * e->width * sizeof(float));
    return true;
}

void encode_cancel(void *self, struct rid rid, uint32_t epoch)
{
    struct encode *e = self;

    for (size_t i = 0; i < JOBS_MAX; i++)
        if (e->works[i].used && rid_equal(e->works[i].rid, rid) && e->works[i].epoch == epoch)
            work_clear(&e->works[i]);
}

/* ------------------------------------------------------------------ work in ticks */

/* Makes some soft tokens; true when all of the job's are there. */
static bool project_some(const struct encode *e, struct work *work, struct status *st, bool *failed)
{
    if (work->piece == work->pieces.n)
        return true;
    const struct piece *piece = &work->pieces.items[work->piece];
    float *rows = (float *)(void *)blob_data(work->soft) + work->row * e->width;
    size_t n = piece->tokens - work->token;

    if (piece->kind == MEDIA_AUDIO) {
        audio_embed(e->projector, rows, piece->samples, piece->n_samples);
    } else {
        if (n > TOKENS_A_TICK)
            n = TOKENS_A_TICK;
        *failed = !image_embed(e->projector, rows, piece->rgb, piece->height, piece->width,
                               work->token, n, st);
    }
    work->token += n;
    work->row += n;
    if (work->token == piece->tokens) {
        work->piece++;
        work->token = 0;
    }
    return work->piece == work->pieces.n;
}

static void add_ids(struct msg *msg, const char *name, const struct ids *ids)
{
    msg_add_take(msg, name, BLOB_I32, (size_t[]){ids->size}, 1,
                 blob_copy(ids->data, ids->size * sizeof *ids->data));
}

static void add_spans(struct msg *msg, const struct prompt *prompt)
{
    struct blob *blob = blob_new(prompt->n_spans * 3 * sizeof(int32_t));
    int32_t *rows = (int32_t *)(void *)blob_data(blob);

    for (size_t i = 0; i < prompt->n_spans; i++) {
        rows[3 * i] = (int32_t)prompt->spans[i].start;
        rows[3 * i + 1] = (int32_t)prompt->spans[i].count;
        rows[3 * i + 2] = (int32_t)prompt->spans[i].kind;
    }
    msg_add_take(msg, "spans", BLOB_I32, (size_t[]){prompt->n_spans, 3}, 2, blob);
}

static void send_result(const struct encode *e, struct work *work, struct outbox *out)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    struct fields_writer fields = {0};
    struct buffer packed = {0};
    uint8_t start = work->prompt.starts_in_thought;

    msg->head.last = true;
    add_ids(msg, "ids", &work->prompt.ids);
    if (work->pieces.rows) {
        log_debug("media projected", "request=%s rows=%zu elapsed_ms=%.2f", rid_hex(work->rid).text,
                  work->pieces.rows, (double)work->spent_us / 1000);
        add_spans(msg, &work->prompt);
        msg_add_take(msg, "soft", BLOB_F32, (size_t[]){work->pieces.rows, e->width}, 2,
                     blob_keep(work->soft));
    }
    add_ids(msg, "cuts", &work->prompt.cuts);
    msg_add_take(msg, "start", BLOB_U8, (size_t[]){1}, 1, blob_copy(&start, 1));
    fields_int(&fields, "prompt_tokens", (int64_t)work->prompt.ids.size);
    fields_int(&fields, "media_tokens", (int64_t)work->pieces.rows);
    fields_finish(&fields, &packed);
    msg->head.fields = buffer_span(&packed);
    outbox_result_take(out, work->rid, work->epoch, msg);
    buffer_clear(&packed);
    heap_free(msg);
}

int encode_tick(void *self, struct outbox *out)
{
    struct encode *e = self;

    for (size_t i = 0; i < JOBS_MAX; i++) {
        struct work *work = &e->works[(e->turn + i) % JOBS_MAX];
        struct status st = {0};
        bool failed = false;

        if (!work->used)
            continue;
        e->turn = (e->turn + i + 1) % JOBS_MAX;
        int64_t begun_us = clock_now_us();
        bool done = project_some(e, work, &st, &failed);
        work->spent_us += clock_now_us() - begun_us;
        outbox_work(out);
        if (failed)
            outbox_fail(out, work->rid, work->epoch, FAULT_REQUEST, &st);
        else if (done)
            send_result(e, work, out);
        if (failed || done)
            work_clear(work);
        return 0;
    }
    return -1;
}
