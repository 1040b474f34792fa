/* What is asked, what an answer must be, and whether it was. */
#include "engine/base/heap.h"
#include "tests/sim/sim.h"
#include <stdio.h>
#include <string.h>

/* --- answers are pure functions --- */

uint32_t sim_n_tokens(const struct sim *sim, int request, char numerics)
{
    return (uint32_t)(sim_hash(sim->seed + 77, sim_hash((uint64_t)request, (uint64_t)numerics)) %
                      SIM_TOKENS_MAX);
}

int32_t sim_token(const struct sim *sim, int request, char numerics, uint32_t index)
{
    uint64_t who = sim_hash((uint64_t)request, (uint64_t)numerics);

    return (int32_t)(sim_hash(sim->seed ^ who, index) % 10000);
}

static void piece(const int32_t *tokens, uint32_t index, struct buffer *out)
{
    if (index == 0)
        buffer_append_text(out, "[");
    if (tokens[index] % 4 != 0) /* some tokens show nothing yet */
        buffer_printf(out, "%d.", tokens[index]);
}

void sim_piece(const struct sim_request *request, const int32_t *tokens, uint32_t index,
               struct buffer *out)
{
    if (!request->unstreamed)
        piece(tokens, index, out);
}

void sim_ending(const struct sim_request *request, const int32_t *tokens, uint32_t n,
                struct buffer *out)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum = sim_hash(sum, (uint64_t)tokens[i]);
        if (request->unstreamed)
            piece(tokens, i, out);
    }
    buffer_printf(out, "%s]%04x", n == 0 ? "[" : "", (unsigned)(sum & 0xffff));
}

static void expected(const struct sim *sim, int number, char numerics, struct buffer *out)
{
    int32_t tokens[SIM_TOKENS_MAX];
    uint32_t n = sim_n_tokens(sim, number, numerics);

    for (uint32_t i = 0; i < n; i++)
        tokens[i] = sim_token(sim, number, numerics, i);
    for (uint32_t i = 0; i < n; i++)
        sim_piece(&sim->requests[number], tokens, i, out);
    sim_ending(&sim->requests[number], tokens, n, out);
}

/* --- asking --- */

void sim_make_requests(struct sim *sim)
{
    sim->n_requests = 1 + (int)sim_random(sim, SIM_REQUESTS_MAX);
    if (sim->class == SIM_POISON && sim->n_requests > 10)
        sim->n_requests = 10; /* all find room */
    if (sim->class == SIM_CALM && sim->n_requests > 10)
        sim->n_requests = 10;
    for (int i = 0; i < sim->n_requests; i++) {
        struct sim_request *request = &sim->requests[i];
        uint64_t low = sim_hash(sim->seed, 1000 + (uint64_t)i);
        int64_t at = (int64_t)sim_random(sim, 300000);

        memcpy(request->rid.bytes, &low, sizeof low);
        request->rid.bytes[15] = (uint8_t)i;
        request->n_media = sim_random(sim, 2) ? (int)sim_random(sim, SIM_MEDIA_MAX + 1) : 0;
        for (int k = 0; k < request->n_media; k++)
            request->audio[k] = sim_random(sim, 2) == 0;
        request->unstreamed = sim_random(sim, 3) == 0;
        request->slow_reader = sim->class == SIM_MAD && sim_random(sim, 4) == 0;
        request->poison = (sim->class == SIM_POISON && sim_random(sim, 6) == 0) ||
                          (sim->class == SIM_MAD && sim_random(sim, 15) == 0);
        request->poison_stage = (enum sim_stage)sim_random(sim, SIM_STAGES);
        if (request->poison_stage == SIM_INGEST && request->n_media == 0)
            request->poison_stage = SIM_INFER;
        request->poison_index = (uint32_t)sim_random(sim, 8);
        (void)snprintf((char *)request->parameters, sizeof request->parameters, "\x81\xa1p%c",
                       'A' + i);
        sim_at(sim, at, SIM_REQUEST, i, NULL);
        if (sim->class >= SIM_ROUGH && sim_random(sim, 8) == 0)
            sim_at(sim, at + (int64_t)sim_random(sim, 1000000), SIM_CLIENT_GONE, i, NULL);
    }
}

int sim_request_of(struct sim *sim, struct rid rid)
{
    int number = rid.bytes[15];

    if (number >= sim->n_requests || !rid_equal(sim->requests[number].rid, rid)) {
        sim_wrong(sim, "a message about a request that nobody made");
        return 0;
    }
    return number;
}

static void add(struct msg *msg, const char *name, const char *text)
{
    size_t n = strlen(text);

    msg_add_take(msg, name, BLOB_U8, &n, 1, blob_copy(text, n));
}

void sim_ask(struct sim *sim, int number)
{
    struct sim_request *request = &sim->requests[number];
    struct msg *msg = heap_new(1, sizeof *msg);
    char text[32];

    if (request->ends > 0) { /* its client has left already */
        heap_free(msg);
        return;
    }
    msg->head.fields = span_of(request->parameters, 4);
    for (int k = 0; k < request->n_media; k++) {
        (void)snprintf(text, sizeof text, "medium %d.%d", number, k);
        add(msg, request->audio[k] ? "audio" : "image", text);
    }
    (void)snprintf(text, sizeof text, "turns %d", number);
    add(msg, "turns", text);
    request->accepted = true; /* until we hear otherwise */
    bool hurry = sim->class == SIM_MAD && sim_random(sim, 3) == 0;
    int64_t time_us = hurry ? 1 + (int64_t)sim_random(sim, 3000000) : 100000000;
    sim_step(sim, &(struct ledger_event){.kind = EVENT_REQUEST,
                                         .rid = request->rid,
                                         .head = &msg->head,
                                         .blobs = msg->blobs,
                                         .tenant = (uint32_t)sim_random(sim, 3),
                                         .batch_class = sim_random(sim, 4) == 0,
                                         .deadline_us = sim->now_us + time_us,
                                         .reserve_bytes = 500 + sim_random(sim, 1500),
                                         .work = sim_random(sim, 10000),
                                         .input_hash = sim_hash(sim->seed, (uint64_t)number) | 1,
                                         .tokens_max = SIM_TOKENS_MAX});
    msg_clear(msg);
    heap_free(msg);
}

/* --- getting --- */

void sim_client_bytes(struct sim *sim, const struct ledger_action *action)
{
    int number = sim_request_of(sim, action->rid);
    struct sim_request *request = &sim->requests[number];
    size_t n = action->bytes ? blob_size(action->bytes) : 0;

    if (request->ends > 0) {
        if (!request->gone)
            sim_wrong(sim, "request %d gets bytes after its end", number);
        return;
    }
    if (action->bytes_sent != (request->n_got > 0))
        sim_wrong(sim, "request %d: bytes_sent is wrong", number);
    if (!action->bytes || request->n_got + n > sizeof request->got) {
        sim_wrong(sim, "request %d gets no bytes, or too many", number);
        return;
    }
    memcpy(request->got + request->n_got, blob_data(action->bytes), n);
    request->n_got += n;
    request->unsent += n;
    if (action->last) {
        request->ends++;
        request->complete = true;
    } else if (request->slow_reader && request->unsent == n) {
        sim_at(sim, sim->now_us + 1, SIM_CLIENT_READS, number, NULL);
    }
}

void sim_client_end(struct sim *sim, const struct ledger_action *action)
{
    int number = sim_request_of(sim, action->rid);
    struct sim_request *request = &sim->requests[number];

    if (request->gone)
        sim_wrong(sim, "request %d ends after its client has left", number);
    if (action->bytes_sent != (request->n_got > 0))
        sim_wrong(sim, "request %d: bytes_sent is wrong at its end", number);
    if (action->code == STATUS_OK || action->text[0] == '\0')
        sim_wrong(sim, "request %d ends without a reason", number);
    request->ends++;
    request->code = action->code;
}

void sim_client_reads(struct sim *sim, int number)
{
    struct sim_request *request = &sim->requests[number];
    size_t n = 1 + sim_random(sim, 12);

    if (request->ends > 0)
        return;
    sim_step(sim, &(struct ledger_event){.kind = EVENT_CLIENT_UNSENT,
                                         .rid = request->rid,
                                         .unsent_bytes = request->unsent});
    request->unsent -= n < request->unsent ? n : request->unsent;
    if (request->unsent > 0)
        sim_at(sim, sim->now_us + 1 + (int64_t)sim_random(sim, 400000), SIM_CLIENT_READS, number,
               NULL);
    else if (request->ends == 0)
        sim_step(sim, &(struct ledger_event){.kind = EVENT_CLIENT_UNSENT, .rid = request->rid});
}

/* --- judging --- */

static bool is_prefix(const struct sim_request *request, const struct buffer *whole)
{
    return request->n_got <= whole->size && memcmp(request->got, whole->data, request->n_got) == 0;
}

static void judge_bytes(struct sim *sim, int number)
{
    const struct sim_request *request = &sim->requests[number];
    struct buffer whole = {0};
    bool good = false;

    for (const char *numerics = "ab"; *numerics && !good; numerics++) {
        buffer_reset(&whole);
        expected(sim, number, *numerics, &whole);
        good = is_prefix(request, &whole) && (!request->complete || request->n_got == whole.size);
    }
    if (!good && !sim->resume_any)
        sim_wrong(sim, "request %d got '%.*s', not '%.*s'", number, (int)request->n_got,
                  request->got, (int)whole.size, (const char *)whole.data);
    buffer_clear(&whole);
}

/* How a request may end, by class. A crash by chance is a death like any other: two of them while
 * alone, and the request is held for poison. */
static bool may_end(const struct sim *sim, const struct sim_request *request)
{
    switch (sim->class) {
    case SIM_CALM:
        return request->complete;
    case SIM_POISON:
        return request->complete || (request->poison && request->code == STATUS_POISON);
    case SIM_ROUGH:
        return request->complete || request->gone || request->code == STATUS_POISON ||
               request->code == STATUS_BUSY || request->code == STATUS_INTERNAL;
    default:
        return true;
    }
}

void sim_judge(struct sim *sim)
{
    struct ledger_counts counts;

    ledger_counts(sim->ledger, &counts);
    if (counts.requests != 0 || counts.reserved_bytes != 0 || counts.waiting != 0)
        sim_wrong(sim, "%zu requests, %zu waiting jobs, %llu bytes are left", counts.requests,
                  counts.waiting, (unsigned long long)counts.reserved_bytes);
    for (int i = 0; i < sim->n_requests; i++) {
        const struct sim_request *request = &sim->requests[i];
        if (request->ends != 1)
            sim_wrong(sim, "request %d has ended %d times", i, request->ends);
        if (!may_end(sim, request))
            sim_wrong(sim, "request %d of class %d ends with %s", i, (int)sim->class,
                      status_name(request->code));
        if (request->complete && request->poison)
            sim_wrong(sim, "request %d is poison and completes", i);
        judge_bytes(sim, i);
        sim_totals.complete += request->complete;
        sim_totals.gone += request->gone;
        if (!request->complete && !request->gone)
            sim_totals.ends[request->code]++;
    }
}
