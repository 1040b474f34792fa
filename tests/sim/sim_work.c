/* What the fake workers make of a job; and what no worker makes. */
#include "engine/base/heap.h"
#include "tests/sim/sim.h"
#include <stdio.h>
#include <string.h>

struct msg *sim_message(enum msg_kind kind, const struct sim *sim, const struct sim_job *job)
{
    struct msg *msg = heap_new(1, sizeof *msg);

    msg->head.kind = kind;
    if (job) {
        msg->head.rid = sim->requests[job->request].rid;
        msg->head.epoch = job->epoch;
    }
    return msg;
}

static void add_text(struct msg *msg, const char *name, const char *text)
{
    size_t n = strlen(text);

    msg_add_take(msg, name, BLOB_U8, &n, 1, blob_copy(text, n));
}

static void add_numbers(struct msg *msg, const char *name, const int32_t *numbers, size_t n)
{
    msg_add_take(msg, name, BLOB_I32, &n, 1, blob_copy(numbers, n * sizeof *numbers));
}

/* Whether this is what ends whatever works on it. */
bool sim_is_poison(const struct sim *sim, const struct sim_process *process,
                   const struct sim_job *job, bool ends)
{
    const struct sim_request *request = &sim->requests[job->request];

    if (!request->poison || request->poison_stage != process->stage)
        return false;
    return process->stage < SIM_INFER || ends || job->n_tokens > request->poison_index;
}

static void give_result(struct sim *sim, int number, struct sim_job *job, struct msg *msg)
{
    bool last = msg->head.last;

    msg->head.seq = job->seq++;
    sim->processes[number].work++;
    sim_post(sim, number, msg);
    if (last)
        sim_end_job(sim, number, job);
}

void sim_work_whole(struct sim *sim, int number, struct sim_job *job)
{
    const struct sim_request *request = &sim->requests[job->request];
    struct msg *msg = sim_message(MSG_RESULT, sim, job);
    char text[32];

    msg->head.last = true;
    if (sim->processes[number].stage == SIM_INGEST) {
        for (int k = 0; k < request->n_media; k++) {
            (void)snprintf(text, sizeof text, "frame %d.%d", job->request, k);
            add_text(msg, request->audio[k] ? "audio.pcm" : "image.rgb", text);
        }
    } else {
        (void)snprintf(text, sizeof text, "ids %d", job->request);
        add_text(msg, "ids", text);
        if (request->n_media > 0)
            add_text(msg, "soft", "soft");
        (void)snprintf(text, sizeof text, "start %d", job->request);
        add_text(msg, "start", text);
    }
    give_result(sim, number, job, msg);
}

void sim_work_infer(struct sim *sim, int number, struct sim_job *job)
{
    struct sim_process *process = &sim->processes[number];
    uint32_t end = sim_n_tokens(sim, job->request, process->numerics);
    uint32_t n = 1 + (uint32_t)sim_random(sim, 3);
    uint32_t first = job->n_tokens;
    uint8_t final[] = {0x81, 0xa1, 'e', (uint8_t)('A' + job->request)};

    for (uint32_t i = first; i < end && i < first + n; i++)
        job->tokens[job->n_tokens++] = sim_token(sim, job->request, process->numerics, i);
    bool last = job->n_tokens >= end && (sim_random(sim, 2) == 0 || first == job->n_tokens);
    if (sim_is_poison(sim, process, job, last)) {
        sim_crash(sim, number);
        return;
    }
    if (job->n_tokens == first && !last)
        return;
    struct msg *msg = sim_message(MSG_RESULT, sim, job);
    msg->head.index = first;
    msg->head.last = last;
    if (job->n_tokens > first)
        add_numbers(msg, "tokens", job->tokens + first, job->n_tokens - first);
    if (last) {
        msg->frame = blob_copy(final, sizeof final);
        msg->head.fields = span_of(blob_data(msg->frame), sizeof final);
    }
    give_result(sim, number, job, msg);
}

void sim_work_format(struct sim *sim, int number, struct sim_job *job)
{
    const struct sim_request *request = &sim->requests[job->request];
    struct buffer bytes = {0};
    uint32_t upto = job->n_tokens;

    if (upto > job->upto && !job->ended && sim_random(sim, 3) == 0)
        upto = job->upto + 1;
    if (upto == job->upto && !job->ended)
        return;
    for (uint32_t i = job->upto; i < upto; i++)
        sim_piece(request, job->tokens, i, &bytes);
    if (job->ended)
        sim_ending(request, job->tokens, job->n_tokens, &bytes);
    job->upto = upto;
    if (bytes.size == 0 && sim_random(sim, 2) == 0) {
        buffer_clear(&bytes);
        return; /* nothing to say yet */
    }
    struct msg *msg = sim_message(MSG_RESULT, sim, job);
    msg->head.upto = upto;
    msg->head.last = job->ended;
    msg_add_take(msg, "bytes", BLOB_U8, &bytes.size, 1, blob_copy(bytes.data, bytes.size));
    buffer_clear(&bytes);
    give_result(sim, number, job, msg);
}

/* Something that no stage says. */
void sim_talk_nonsense(struct sim *sim, int number, struct sim_job *job)
{
    struct msg *msg = sim_message(MSG_RESULT, sim, job);
    int32_t numbers[] = {5, -5, 5};
    enum sim_stage stage = sim->processes[number].stage;

    msg->head.seq = job->seq;
    switch (sim_random(sim, 10)) {
    case 0:
        msg->head.seq++;
        break;
    case 1:
        add_numbers(msg, "tokens", numbers, 3);
        break;
    case 2: /* right in form, wrong in place */
        msg->head.index = job->n_tokens + 1;
        add_numbers(msg, stage == SIM_INFER ? "tokens" : "spans", numbers, 1);
        break;
    case 3:
        add_text(msg, "tokens", "text");
        break;
    case 4:
        msg->head.last = stage < SIM_INFER; /* infer may end where it likes */
        break;
    case 5:
        msg->head.upto = UINT32_MAX;
        msg->head.last = stage == SIM_FORMAT;
        break;
    case 6:
        msg->head.epoch += (uint32_t)sim_random(sim, 3);
        msg->head.seq = 99;
        break;
    case 7:
        msg->head.rid = (struct rid){{1, 2, 3}};
        break;
    case 8:
        for (int i = 0; i < BLOBS_MAX; i++)
            add_text(msg, stage == SIM_INFER ? "bytes" : "tokens", "x");
        break;
    default: /* bytes of no token */
        msg->head.upto = 0;
        add_text(msg, stage == SIM_FORMAT ? "bytes" : "nonsense", "x");
    }
    sim_post(sim, number, msg);
}
