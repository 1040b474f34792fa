/* The stream: infer's tokens are kept and given on to format; format's bytes go to the client. */
#include "engine/base/heap.h"
#include "gateway/ledger_private.h"
#include <assert.h>
#include <string.h>

/* --- tokens come from infer --- */

/* The blob of tokens in a result, NULL when there is none; *out_n is how many. False: not as the
 * contract says. */
static bool tokens_of(const struct ledger_event *event, struct blob **out_blob, uint32_t *out_n,
                      struct status *st)
{
    const struct head *head = event->head;
    const struct blob_desc *desc = &head->blobs[0];

    *out_blob = NULL;
    *out_n = 0;
    if (head->n_blobs == 0)
        return head->last || status_fail(st, STATUS_CORRUPT, "a result without tokens");
    if (head->n_blobs > 1 || strcmp(desc->name, "tokens") != 0 || desc->type != BLOB_I32 ||
        desc->n_dims != 1 || desc->dims[0] > LEDGER_TOKENS_MAX ||
        blob_size(event->blobs[0]) != desc->dims[0] * sizeof(int32_t))
        return status_fail(st, STATUS_CORRUPT, "wants one blob 'tokens', i32 [n]");
    if (desc->dims[0] == 0 && !head->last)
        return status_fail(st, STATUS_CORRUPT, "a result without tokens");
    const uint8_t *data = blob_data(event->blobs[0]);
    for (size_t i = 0; i < desc->dims[0]; i++) {
        int32_t token = 0;
        memcpy(&token, data + i * sizeof token, sizeof token);
        if (token < 0)
            return status_fail(st, STATUS_CORRUPT, "token %d", token);
    }
    *out_blob = desc->dims[0] > 0 ? event->blobs[0] : NULL;
    *out_n = (uint32_t)desc->dims[0];
    return true;
}

static void emit(struct request *request, struct blob *blob, uint32_t n)
{
    uint32_t needed = request->n_emitted + n;

    if (needed > request->emitted_capacity) {
        uint32_t capacity = request->emitted_capacity ? request->emitted_capacity : 64;
        while (capacity < needed)
            capacity *= 2; /* at most 2 * LEDGER_TOKENS_MAX */
        request->emitted = heap_resize(request->emitted, capacity, sizeof *request->emitted);
        request->emitted_capacity = capacity;
    }
    memcpy(request->emitted + request->n_emitted, blob_data(blob), n * sizeof(int32_t));
    request->n_emitted = needed;
}

/* tokens[from, n_emitted) as a blob; the piece that infer just sent is given on as it is. */
static void add_tokens(struct msg *msg, const struct request *request, uint32_t from, uint32_t to,
                       struct blob *piece)
{
    size_t n = to - from;

    if (piece && blob_size(piece) == n * sizeof(int32_t))
        piece = blob_keep(piece);
    else
        piece = blob_copy(request->emitted + from, n * sizeof(int32_t));
    msg_add_take(msg, "tokens", BLOB_I32, &n, 1, piece);
}

static void forward(struct ledger *ledger, struct request *request, struct blob *piece)
{
    struct job *job = &request->jobs[1];
    uint32_t n = request->n_emitted - request->forwarded;
    bool last = request->life == LIFE_TAIL && !request->last_forwarded;

    if (job->state != JOB_HELD || request->paused || (n == 0 && !last))
        return;
    worker_expect(ledger, job->worker);
    struct msg *msg = action_send(ledger, job->worker->peer, MSG_MORE_INPUT);
    msg->head.rid = request->rid;
    msg->head.epoch = job->epoch;
    msg->head.seq = request->more_seq++;
    msg->head.index = request->forwarded;
    msg->head.last = last;
    if (n > 0)
        add_tokens(msg, request, request->forwarded, request->n_emitted, piece);
    if (last) {
        msg->frame = blob_keep(request->final);
        msg->head.fields = span_of(blob_data(request->final), blob_size(request->final));
        request->last_forwarded = true;
    }
    request->forwarded = request->n_emitted;
}

void stream_forward(struct ledger *ledger, struct request *request)
{
    forward(ledger, request, NULL);
}

void stream_tokens(struct ledger *ledger, struct job *job, const struct ledger_event *event)
{
    struct request *request = job->request;
    const struct head *head = event->head;
    struct blob *piece = NULL;
    struct status st = {0};
    uint32_t n = 0;

    if (!tokens_of(event, &piece, &n, &st)) {
        job_bad(ledger, job, "%s", st.text);
        return;
    }
    if (n > 0 && head->index != request->n_emitted) {
        job_bad(ledger, job, "tokens from index %u; %u were expected", head->index,
                request->n_emitted);
        return;
    }
    if (n > request->tokens_max - request->n_emitted) {
        job_bad(ledger, job, "more than %u tokens", request->tokens_max);
        return;
    }
    job->seq++;
    if (n > 0 && request->n_emitted == 0)
        memcpy(request->numerics, job->worker->numerics, sizeof request->numerics);
    if (n > 0)
        emit(request, piece, n);
    if (request->n_emitted > job->point || head->last)
        job_passed(ledger, job);
    if (head->last) {
        request->final = blob_copy(head->fields.data, head->fields.size);
        job_release(job);
        bag_drop(ledger, request, job->stage->row->drops);
    }
    if (request->life == LIFE_STAGE)
        job_begin(ledger, &request->jobs[1],
                  ledger->lines[request->pipeline][request->position + 1]);
    request->life = head->last ? LIFE_TAIL : LIFE_STREAM;
    request_schedule(ledger, request);
    forward(ledger, request, piece);
}

/* --- bytes come from format --- */

/* The stream's part of a job: what infer has given so far, and what format has already covered. */
void stream_job(struct ledger *ledger, struct job *job, struct msg *msg)
{
    struct request *request = job->request;
    enum flow flow = job->stage->row->flow;
    uint32_t n = request->n_emitted;

    if (flow == FLOW_BYTES) {
        /* A paused reader gets no more than it had coming. */
        n = request->paused ? request->forwarded : n;
        msg->head.skip = request->upto;
        request->forwarded = n;
        request->last_forwarded = false;
        request->more_seq = 0;
    }
    if (flow != FLOW_WHOLE && n > 0)
        add_tokens(msg, request, 0, n, NULL);
    if (flow == FLOW_BYTES)
        stream_forward(ledger, request); /* the end, if infer has come to it */
}

static bool bytes_of(const struct job *job, const struct ledger_event *event,
                     struct blob **out_bytes, struct status *st)
{
    const struct request *request = job->request;
    const struct head *head = event->head;
    const struct blob_desc *desc = &head->blobs[0];

    *out_bytes = NULL;
    if (head->n_blobs > 1 ||
        (head->n_blobs == 1 && (strcmp(desc->name, "bytes") != 0 || desc->type != BLOB_U8)))
        return status_fail(st, STATUS_CORRUPT, "wants one blob 'bytes', u8 [n]");
    if (head->upto < request->upto || head->upto > request->forwarded)
        return status_fail(st, STATUS_CORRUPT,
                           "bytes upto token %u; it has been sent %u and had "
                           "covered %u",
                           head->upto, request->forwarded, request->upto);
    if (head->n_blobs == 1 && blob_size(event->blobs[0]) > 0)
        *out_bytes = event->blobs[0];
    if (head->last) {
        if (!request->last_forwarded)
            return status_fail(st, STATUS_CORRUPT, "last, before the end of the tokens");
        if (head->upto != request->n_emitted)
            return status_fail(st, STATUS_CORRUPT, "last, upto %u of %u tokens", head->upto,
                               request->n_emitted);
    } else if (*out_bytes && head->upto == request->upto) {
        /* They could not be told from what a resumed job would send again. */
        return status_fail(st, STATUS_CORRUPT, "bytes that belong to no token");
    }
    return true;
}

void stream_bytes(struct ledger *ledger, struct job *job, const struct ledger_event *event)
{
    struct request *request = job->request;
    const struct head *head = event->head;
    struct blob *bytes = NULL;
    struct status st = {0};

    if (!bytes_of(job, event, &bytes, &st)) {
        job_bad(ledger, job, "%s", st.text);
        return;
    }
    job->seq++;
    request->upto = head->upto;
    if (head->last || (request->upto >= job->point && !job->point_last))
        job_passed(ledger, job);
    if (bytes || head->last) {
        struct ledger_action *action = action_add(ledger, ACTION_BYTES, request);
        action->bytes = bytes ? blob_keep(bytes) : blob_new(0);
        action->last = head->last;
        request->bytes_sent = request->bytes_sent || bytes;
    }
    if (head->last) {
        job_release(job);
        request_drop(ledger, request);
    }
}

/* --- the client --- */

/* What a slow reader has not taken is kept in memory; so format gets no more tokens until it has
 * taken half. Infer goes on: its tokens are small, and reserved for. */
void stream_unsent(struct ledger *ledger, const struct ledger_event *event)
{
    struct request *request = request_find(ledger, event->rid);

    if (!request)
        return;
    if (!request->paused && event->unsent_bytes > ledger->config.unsent_max_bytes) {
        request->paused = true;
        request->paused_us = ledger->now_us;
        (void)action_add(ledger, ACTION_PAUSE, request);
    } else if (request->paused && event->unsent_bytes <= ledger->config.unsent_max_bytes / 2) {
        request->paused = false;
        stream_forward(ledger, request);
    }
    request_schedule(ledger, request);
}

void stream_clear(struct request *request)
{
    blob_drop(request->final);
    heap_free(request->emitted);
    request->final = NULL;
    request->emitted = NULL;
}
