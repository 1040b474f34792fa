#include "services/format/format.h"
#include "engine/base/heap.h"
#include "engine/text/parse.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "services/format/styles.h"
#include <string.h>

#define STREAMS_MAX 256
#define NOTES_BYTES_MAX 65536

/* An answer under way. */
struct stream {
    bool used, opened;
    struct rid rid;
    uint32_t epoch;
    const struct style_row *style;
    void *state; /* the style's, from the opening on */
    struct parse *parse;
    uint32_t n_tokens; /* seen so far: the next index */
    uint32_t skip;     /* pieces of indices below are written out already */
    int64_t created;
    bool streamed, include_usage;
    char *model;
    struct buffer notes; /* of media, until the opening */
};

struct format {
    struct weights *weights;
    struct tokenizer *tokenizer;
    struct stream streams[STREAMS_MAX];
};

bool format_open(void **out_self, const struct stage_options *options, struct stage_hello *hello,
                 struct status *st)
{
    struct format *f = heap_new(1, sizeof *f);
    const char *model = stage_option(options, "model", "");

    if (!*model) {
        (void)status_fail(st, STATUS_INVALID, "--model FILE is missing");
        goto fail;
    }
    if (!weights_open(&f->weights, model, st) || !tokenizer_new(&f->tokenizer, f->weights, st))
        goto fail;
    hello->model = tokenizer_hash(f->tokenizer);
    hello->slots = STREAMS_MAX;
    *out_self = f;
    return true;
fail:
    format_close(f);
    return false;
}

static void stream_clear(struct stream *s)
{
    if (s->state)
        s->style->free(s->state);
    parse_free(s->parse);
    heap_free(s->model);
    buffer_clear(&s->notes);
    *s = (struct stream){0};
}

void format_close(void *self)
{
    struct format *f = self;

    for (size_t i = 0; i < STREAMS_MAX; i++)
        stream_clear(&f->streams[i]);
    tokenizer_free(f->tokenizer);
    weights_close(f->weights);
    heap_free(f);
}

static struct stream *find(struct format *f, struct rid rid, uint32_t epoch)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        if (f->streams[i].used && rid_equal(f->streams[i].rid, rid) && f->streams[i].epoch == epoch)
            return &f->streams[i];
    return NULL;
}

/* ------------------------------------------------------------------ tokens to bytes */

static void open_answer(struct stream *s, struct buffer *out)
{
    struct style_request request = {.rid = s->rid,
                                    .created = s->created,
                                    .model = span_text(s->model),
                                    .notes = buffer_span(&s->notes),
                                    .stream = s->streamed,
                                    .include_usage = s->include_usage};

    if (s->opened)
        return;
    s->opened = true;
    s->state = s->style->begin(&request, out);
}

struct sink {
    struct stream *stream;
    struct buffer *out;
};

static void take_event(void *context, const struct parse_event *event)
{
    struct sink *sink = context;

    sink->stream->style->event(sink->stream->state, event, sink->out);
}

/* The pieces of these tokens; those of indices below skip are made and dropped. */
static void push_tokens(struct stream *s, const int32_t *tokens, size_t n, struct buffer *out)
{
    for (size_t i = 0; i < n; i++) {
        size_t before = out->size;
        struct sink sink = {s, out};

        open_answer(s, out);
        parse_push(s->parse, tokens[i], take_event, &sink);
        if (s->n_tokens < s->skip)
            out->size = before;
        s->n_tokens++;
    }
}

static void end_answer(struct stream *s, struct span fields, struct buffer *out)
{
    struct style_end end = {0};
    struct sink sink = {s, out};
    struct span how = span_text("stop");

    open_answer(s, out);
    parse_end(s->parse, take_event, &sink);
    (void)field_text(fields, "finish", &how);
    (void)field_int(fields, "prompt_tokens", &end.prompt_tokens);
    (void)field_int(fields, "completion_tokens", &end.completion_tokens);
    (void)field_int(fields, "cached_tokens", &end.cached_tokens);
    (void)field_int(fields, "drafted", &end.drafted);
    (void)field_int(fields, "accepted", &end.accepted);
    (void)field_float(fields, "prefill_ms", &end.prefill_ms);
    (void)field_float(fields, "decode_ms", &end.decode_ms);
    end.finish = parse_finish(s->parse);
    /* A stop string ends an answer without a stop token, which the parser would call a cut. */
    if (span_is(how, "stop_string"))
        end.finish = "stop";
    s->style->end(s->state, &end, out);
}

/* Sends what there is; ends the stream when `last`. */
static void send_bytes(struct stream *s, struct buffer *bytes, bool last, struct outbox *out)
{
    struct msg *msg = heap_new(1, sizeof *msg);

    msg->head.last = last;
    msg->head.upto = s->n_tokens;
    if (bytes->size)
        msg_add_take(msg, "bytes", BLOB_U8, (size_t[]){bytes->size}, 1,
                     blob_copy(bytes->data, bytes->size));
    outbox_result_take(out, s->rid, s->epoch, msg);
    heap_free(msg);
}

static bool read_tokens(const struct format *f, const struct msg *msg, const int32_t **out,
                        size_t *out_n, struct status *st)
{
    int at = msg_find(msg, "tokens", 0);

    *out = NULL;
    *out_n = 0;
    if (at < 0)
        return true;
    const struct blob_desc *desc = &msg->head.blobs[at];
    if (desc->type != BLOB_I32 || desc->n_dims != 1)
        return status_fail(st, STATUS_CORRUPT, "tokens: not i32 [n]");
    const int32_t *ids = (const int32_t *)(const void *)blob_data(msg->blobs[at]);
    for (size_t i = 0; i < desc->dims[0]; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= tokenizer_size(f->tokenizer))
            return status_fail(st, STATUS_CORRUPT, "tokens[%zu]: %d is no id", i, ids[i]);
    *out = ids;
    *out_n = desc->dims[0];
    return true;
}

/* ------------------------------------------------------------------ job and more */

static bool read_job(const struct msg *job, struct stream *s, struct status *st)
{
    struct span style = span_text("chat");
    struct span model = span_text("");

    (void)field_text(job->head.fields, "style", &style);
    (void)field_text(job->head.fields, "model", &model);
    (void)field_int(job->head.fields, "created", &s->created);
    (void)field_bool(job->head.fields, "stream", &s->streamed);
    (void)field_bool(job->head.fields, "include_usage", &s->include_usage);
    s->style = style_find(style);
    if (!s->style)
        return status_fail(st, STATUS_UNSUPPORTED, "style '%.*s' is not known",
                           (int)(style.size < 40 ? style.size : 40), (const char *)style.data);
    s->model = heap_text((const char *)model.data, model.size);
    s->skip = job->head.skip;
    int notes = msg_find(job, "notes", 0);
    if (notes >= 0 && blob_size(job->blobs[notes]) > NOTES_BYTES_MAX)
        return status_fail(st, STATUS_CORRUPT, "notes: %zu bytes, at most %d",
                           blob_size(job->blobs[notes]), NOTES_BYTES_MAX);
    if (notes >= 0)
        buffer_append(&s->notes, blob_data(job->blobs[notes]), blob_size(job->blobs[notes]));
    return true;
}

bool format_job(void *self, const struct msg *job, struct outbox *out, enum fault *fault,
                struct status *st)
{
    struct format *f = self;
    struct stream *s = NULL;
    struct buffer bytes = {0};
    const int32_t *tokens;
    size_t n;

    *fault = FAULT_REQUEST;
    for (size_t i = 0; i < STREAMS_MAX && !s; i++)
        if (!f->streams[i].used)
            s = &f->streams[i];
    if (!s) {
        *fault = FAULT_CAPACITY;
        return status_fail(st, STATUS_BUSY, "format: more streams than credit");
    }
    *s = (struct stream){.used = true, .rid = job->head.rid, .epoch = job->head.epoch};
    int start = msg_find(job, "start", 0);
    bool in_thought =
        start >= 0 && blob_size(job->blobs[start]) == 1 && blob_data(job->blobs[start])[0] == 1;
    s->parse = parse_new(f->tokenizer, in_thought);
    if (!read_job(job, s, st) || !read_tokens(f, job, &tokens, &n, st)) {
        stream_clear(s);
        return false;
    }
    push_tokens(s, tokens, n, &bytes);
    if (n > 0)
        send_bytes(s, &bytes, false, out);
    buffer_clear(&bytes);
    return true;
}

bool format_more(void *self, const struct msg *more, struct outbox *out, enum fault *fault,
                 struct status *st)
{
    struct format *f = self;
    struct stream *s = find(f, more->head.rid, more->head.epoch);
    struct buffer bytes = {0};
    const int32_t *tokens;
    size_t n;

    *fault = FAULT_STAGE;
    if (!s)
        return status_fail(st, STATUS_INTERNAL, "more: there is no such stream");
    if (!read_tokens(f, more, &tokens, &n, st))
        goto fail;
    if (n > 0 && more->head.index != s->n_tokens) {
        (void)status_fail(st, STATUS_CORRUPT, "more: index %u, expected %u", more->head.index,
                          s->n_tokens);
        goto fail;
    }
    push_tokens(s, tokens, n, &bytes);
    if (more->head.last)
        end_answer(s, more->head.fields, &bytes);
    send_bytes(s, &bytes, more->head.last, out);
    buffer_clear(&bytes);
    if (more->head.last)
        stream_clear(s);
    return true;
fail:
    stream_clear(s);
    return false;
}

void format_cancel(void *self, struct rid rid, uint32_t epoch)
{
    struct stream *s = find(self, rid, epoch);

    if (s)
        stream_clear(s);
}
