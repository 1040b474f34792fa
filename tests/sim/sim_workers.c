/* The fake workers: each checks what it is sent, does a stage's work in no time at all but virtual,
 * and, while it is not calm, dies, hangs, fails, drains, forgets or talks nonsense. */
#include "engine/base/heap.h"
#include "tests/sim/sim.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define BEAT_US 200000

const char *const sim_stage_names[SIM_STAGES] = {"ingest", "encode", "infer", "format"};

/* --- life and death --- */

static void say_hello(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];
    struct msg *msg = sim_message(MSG_HELLO, sim, NULL);

    msg->head.wire_min = msg->head.wire_max = WIRE_VERSION;
    msg->head.start = process->start;
    msg->head.slots = process->slots;
    msg->head.model = process->stage == SIM_INGEST ? 0 : 99;
    msg->head.numerics[0] = process->stage == SIM_INFER ? process->numerics : '\0';
    (void)snprintf(msg->head.stage, sizeof msg->head.stage, "%s", sim_stage_names[process->stage]);
    (void)snprintf(msg->head.seat, sizeof msg->head.seat, "h/%d", process->seat);
    sim_post(sim, number, msg);
}

void sim_start(struct sim *sim, int seat)
{
    if (sim->seats[seat].process >= 0 || sim->n_processes == SIM_PROCESSES_MAX)
        return;
    int number = sim->n_processes++;
    struct sim_process *process = &sim->processes[number];
    bool slow = sim->class >= SIM_ROUGH && sim_random(sim, 10) == 0;

    *process = (struct sim_process){.alive = true,
                                    .seat = seat,
                                    .stage = sim->seats[seat].stage,
                                    .numerics = sim->seats[seat].numerics,
                                    .mad = sim->seats[seat].mad,
                                    .start = sim_hash(sim->seed, 5000 + (uint64_t)number),
                                    .peer = UINT32_MAX,
                                    .slots = 1 + (uint32_t)sim_random(sim, SIM_SLOTS_MAX)};
    process->turn_us = slow ? 100000 : 1000 + (int64_t)sim_random(sim, 8000);
    sim->seats[seat].process = number;
    say_hello(sim, number);
    sim_at(sim, sim->now_us + BEAT_US, SIM_BEAT, number, NULL);
}

static void leave(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];
    int64_t back_us = 50000 + (int64_t)sim_random(sim, 400000);

    process->alive = false;
    sim->seats[process->seat].process = -1;
    sim_at(sim, sim->now_us + back_us, SIM_START, process->seat, NULL);
}

void sim_crash(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];

    if (!process->alive)
        return;
    sim_totals.crashes++;
    leave(sim, number);
    if (sim_chance(sim, 30)) /* nobody tells: its next hello will, or its silence */
        return;
    struct msg *gone = sim_message(MSG_GONE, sim, NULL);
    gone->head.start = process->start;
    (void)snprintf(gone->head.seat, sizeof gone->head.seat, "h/%d", process->seat);
    sim_at(sim, sim->now_us + 1000 + (int64_t)sim_random(sim, 40000), SIM_GONE, number, gone);
}

static uint32_t count_jobs(const struct sim_process *process)
{
    uint32_t n = 0;

    for (int i = 0; i < SIM_SLOTS_MAX; i++)
        n += process->jobs[i].used;
    return n;
}

void sim_beat(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];

    if (!process->alive)
        return;
    sim_at(sim, sim->now_us + BEAT_US, SIM_BEAT, number, NULL);
    if (process->silent)
        return;
    if (process->draining && count_jobs(process) == 0) {
        sim_post(sim, number, sim_message(MSG_BYE, sim, NULL));
        leave(sim, number);
        return;
    }
    if (!process->welcome) {
        say_hello(sim, number);
        return;
    }
    struct msg *msg = sim_message(MSG_BEAT, sim, NULL);
    /* A stage with a job moves its counter, also where nothing comes of it yet. */
    if (!process->hung && count_jobs(process) > 0)
        process->work++;
    msg->head.work = process->work;
    msg->head.held = count_jobs(process);
    sim_post(sim, number, msg);
}

/* --- jobs --- */

void sim_end_job(struct sim *sim, int number, struct sim_job *job)
{
    struct sim_process *process = &sim->processes[number];

    job->used = false;
    process->work++;
    if (process->draining)
        return;
    struct msg *msg = sim_message(MSG_CREDIT, sim, NULL);
    msg->head.n = 1;
    sim_post(sim, number, msg);
}

/* Some failure; true when the job has ended by it. */
static bool fail_job(struct sim *sim, int number, struct sim_job *job)
{
    if (!sim_chance(sim, 3))
        return false;
    struct msg *msg = sim_message(MSG_FAILED, sim, job);
    msg->head.code = (enum status_code)(1 + sim_random(sim, STATUS_CODES - 1));
    msg->head.fault = (enum fault)sim_random(sim, 3);
    if (msg->head.fault == FAULT_REQUEST && sim->class != SIM_MAD)
        msg->head.fault = FAULT_CAPACITY;
    (void)snprintf(msg->head.text, sizeof msg->head.text, "by chance");
    sim_post(sim, number, msg);
    sim_end_job(sim, number, job);
    return true;
}

static void check_blob(struct sim *sim, const struct msg *msg, size_t at, const char *name,
                       const char *text)
{
    if (at >= msg->head.n_blobs || strcmp(msg->head.blobs[at].name, name) != 0 ||
        blob_size(msg->blobs[at]) != strlen(text) ||
        memcmp(blob_data(msg->blobs[at]), text, strlen(text)) != 0)
        sim_wrong(sim, "blob %zu of a job is not '%s' with '%s'", at, name, text);
}

static void check_job_blobs(struct sim *sim, const struct sim_process *process, int number,
                            const struct msg *msg)
{
    const struct sim_request *request = &sim->requests[number];
    size_t n = 0;
    char text[32];

    if (process->stage == SIM_INGEST || process->stage == SIM_ENCODE) {
        bool raw = process->stage == SIM_INGEST;
        if (!raw) {
            (void)snprintf(text, sizeof text, "turns %d", number);
            check_blob(sim, msg, n++, "turns", text);
        }
        for (int k = 0; k < request->n_media; k++) {
            const char *name =
                request->audio[k] ? (raw ? "audio" : "audio.pcm") : (raw ? "image" : "image.rgb");
            (void)snprintf(text, sizeof text, "%s %d.%d", raw ? "medium" : "frame", number, k);
            check_blob(sim, msg, n++, name, text);
        }
    } else {
        (void)snprintf(text, sizeof text, process->stage == SIM_INFER ? "ids %d" : "start %d",
                       number);
        check_blob(sim, msg, n++, process->stage == SIM_INFER ? "ids" : "start", text);
        if (process->stage == SIM_INFER && request->n_media > 0)
            check_blob(sim, msg, n++, "soft", "soft");
        if (n < msg->head.n_blobs && strcmp(msg->head.blobs[n].name, "tokens") == 0)
            n++;
    }
    if (n != msg->head.n_blobs)
        sim_wrong(sim, "a job has %zu blobs too many", msg->head.n_blobs - n);
}

/* The tokens of a job or a piece: added to what the job has; foreign ones are seen here. */
static void take_tokens(struct sim *sim, const struct sim_process *process, struct sim_job *job,
                        const struct msg *msg)
{
    int at = msg_find(msg, "tokens", 0);

    if (at < 0)
        return;
    size_t n = blob_size(msg->blobs[at]) / sizeof(int32_t);
    if (n == 0 || job->n_tokens + n > SIM_TOKENS_MAX) {
        sim_wrong(sim, "request %d: %zu tokens in a message", job->request, n);
        return;
    }
    memcpy(job->tokens + job->n_tokens, blob_data(msg->blobs[at]), n * sizeof(int32_t));
    job->n_tokens += (uint32_t)n;
    for (uint32_t i = 0; i < job->n_tokens && !sim->resume_any; i++) {
        int32_t a = sim_token(sim, job->request, 'a', i);
        int32_t b = sim_token(sim, job->request, 'b', i);
        bool infer = process->stage == SIM_INFER;
        if (infer ? job->tokens[i] != (process->numerics == 'a' ? a : b)
                  : job->tokens[i] != a && job->tokens[i] != b)
            sim_wrong(sim, "request %d: foreign token at %u", job->request, i);
    }
}

static void on_job(struct sim *sim, int number, const struct msg *msg)
{
    struct sim_process *process = &sim->processes[number];
    int request = sim_request_of(sim, msg->head.rid);
    struct sim_job *job = NULL;

    for (int i = 0; i < SIM_SLOTS_MAX; i++) {
        struct sim_job *at = &process->jobs[i];
        if (at->used && at->request == request && at->epoch < msg->head.epoch)
            sim_end_job(sim, number, at); /* the cancel was lost */
        else if (at->used && at->request == request)
            sim_wrong(sim, "request %d is sent to a worker that holds it", request);
        if (!at->used && !job)
            job = at;
    }
    if (!process->welcome) { /* sent before it began anew */
        struct msg *failed = sim_message(MSG_FAILED, sim, NULL);
        failed->head.rid = msg->head.rid;
        failed->head.epoch = msg->head.epoch;
        failed->head.code = STATUS_BUSY;
        failed->head.fault = FAULT_CAPACITY;
        sim_post(sim, number, failed);
        return;
    }
    if (!job || count_jobs(process) >= process->slots) {
        sim_wrong(sim, "a job without credit");
        return;
    }
    if (!span_equal(msg->head.fields, span_of(sim->requests[request].parameters, 4)) ||
        msg->head.ms_left <= 0)
        sim_wrong(sim, "request %d: parameters or time are not its", request);
    *job = (struct sim_job){
        .used = true, .request = request, .epoch = msg->head.epoch, .skip = msg->head.skip};
    check_job_blobs(sim, process, request, msg);
    take_tokens(sim, process, job, msg);
    if (job->skip > job->n_tokens)
        sim_wrong(sim, "request %d: skips more tokens than there are", request);
    job->upto = job->skip;
    job->ready_us = sim->now_us + process->turn_us + (int64_t)sim_random(sim, 4) * process->turn_us;
    process->work++;
}

static struct sim_job *find_job(const struct sim *sim, struct sim_process *process,
                                const struct head *head)
{
    for (int i = 0; i < SIM_SLOTS_MAX; i++) {
        struct sim_job *job = &process->jobs[i];
        if (job->used && job->epoch == head->epoch &&
            rid_equal(sim->requests[job->request].rid, head->rid))
            return job;
    }
    return NULL;
}

static void on_more(struct sim *sim, struct sim_process *process, const struct msg *msg)
{
    struct sim_job *job = find_job(sim, process, &msg->head);
    const struct head *head = &msg->head;
    uint8_t final[] = {0x81, 0xa1, 'e', 0};

    if (!job)
        return;
    final[3] = (uint8_t)('A' + job->request);
    if (process->stage != SIM_FORMAT || head->seq != job->more_seq++ ||
        head->index != job->n_tokens || job->ended)
        sim_wrong(sim, "request %d: a piece out of order", job->request);
    take_tokens(sim, process, job, msg);
    job->ended = head->last;
    if (head->last && !span_equal(head->fields, span_of(final, sizeof final)))
        sim_wrong(sim, "request %d: not infer's fields at the end", job->request);
    if (!head->last && head->n_blobs == 0)
        sim_wrong(sim, "request %d: an empty piece", job->request);
    process->work++;
}

static void turn_later(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];

    if (process->turning || process->hung || count_jobs(process) == 0)
        return;
    process->turning = true;
    sim_at(sim, sim->now_us + process->turn_us, SIM_TURN, number, NULL);
}

void sim_receive(struct sim *sim, int number, struct msg *msg)
{
    struct sim_process *process = &sim->processes[number];
    struct sim_job *job = NULL;

    if (!process->alive || process->silent) /* who beats, receives */
        return;
    switch (msg->head.kind) {
    case MSG_WELCOME:
        if (!process->welcome) {
            struct msg *credit = sim_message(MSG_CREDIT, sim, NULL);
            credit->head.n = process->slots;
            sim_post(sim, number, credit);
        }
        process->welcome = true;
        break;
    case MSG_REFUSE:
        if (msg->head.code != STATUS_UNAVAILABLE)
            sim_wrong(sim, "refused: %s", msg->head.text);
        process->welcome = false;
        memset(process->jobs, 0, sizeof process->jobs);
        break;
    case MSG_JOB:
        on_job(sim, number, msg);
        break;
    case MSG_MORE_INPUT:
        on_more(sim, process, msg);
        break;
    case MSG_CANCEL:
        job = find_job(sim, process, &msg->head);
        if (job)
            sim_end_job(sim, number, job);
        break;
    default:
        sim_wrong(sim, "a worker is sent '%s'", msg_kind_name(msg->head.kind));
    }
    /* Format works through its input at once. */
    for (int i = 0; i < SIM_SLOTS_MAX && process->stage == SIM_FORMAT; i++)
        if (process->jobs[i].used &&
            sim_is_poison(sim, process, &process->jobs[i], process->jobs[i].ended)) {
            sim_crash(sim, number);
            return;
        }
    turn_later(sim, number);
}

/* What goes wrong with the process as a whole; true when it works no more this turn. */
static bool misbehave(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];

    if (sim->class < SIM_ROUGH || !sim_chance(sim, 6))
        return false;
    switch (sim_random(sim, 6)) {
    case 0:
        process->hung = !process->draining;
        process->silent = process->hung && sim_random(sim, 2) == 0;
        return process->hung;
    case 1:
        if (!process->draining)
            sim_post(sim, number, sim_message(MSG_DRAIN, sim, NULL));
        process->draining = true;
        return false;
    case 2: /* it forgets what it held, and begins anew */
        memset(process->jobs, 0, sizeof process->jobs);
        process->welcome = process->draining = false;
        say_hello(sim, number);
        return true;
    default:
        sim_crash(sim, number);
        return true;
    }
}

void sim_turn(struct sim *sim, int number)
{
    struct sim_process *process = &sim->processes[number];

    process->turning = false;
    if (!process->alive || process->hung || misbehave(sim, number))
        return;
    for (int i = 0; i < SIM_SLOTS_MAX && process->alive; i++) {
        struct sim_job *job = &process->jobs[i];
        if (!job->used || job->ready_us > sim->now_us || fail_job(sim, number, job))
            continue;
        if (process->mad && sim_random(sim, 4) == 0)
            sim_talk_nonsense(sim, number, job);
        else if (process->stage == SIM_INFER)
            sim_work_infer(sim, number, job);
        else if (process->stage == SIM_FORMAT)
            sim_work_format(sim, number, job);
        else if (sim_is_poison(sim, process, job, false))
            sim_crash(sim, number);
        else
            sim_work_whole(sim, number, job);
    }
    if (process->alive)
        turn_later(sim, number);
}
