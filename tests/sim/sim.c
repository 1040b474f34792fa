/* One history: the queue of what happens, the network between ledger and workers. */
#include "tests/sim/sim.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LATENCY_US_MAX 400
#define END_US 200000000 /* everything is over by then */

struct sim_totals sim_totals;

uint64_t sim_hash(uint64_t a, uint64_t b)
{
    uint64_t x = a + 0x9e3779b97f4a7c15U * (b + 1);

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

uint64_t sim_random(struct sim *sim, uint64_t below)
{
    sim->random++;
    return sim_hash(sim->seed, sim->random) % below;
}

bool sim_chance(struct sim *sim, unsigned percent)
{
    return sim->now_us < sim->calm_us && sim_random(sim, 100) < percent;
}

void sim_wrong(struct sim *sim, const char *format, ...)
{
    va_list values;

    if (!sim->failed)
        (void)printf("seed %" PRIu64 ", %.3f ms: ", sim->seed, (double)sim->now_us / 1000);
    else
        (void)printf("  and: ");
    va_start(values, format);
    (void)vprintf(format, values);
    va_end(values);
    (void)printf("\n");
    sim->failed = true;
}

static void trace(const struct sim *sim, const char *way, uint32_t peer, const struct head *head)
{
    int number = peer < LEDGER_PEERS_MAX ? sim->by_peer[peer] : -1;

    if (sim->traced)
        (void)printf("%10.3f %s %-7s %s p%d n%u r%d e%u s%u i%u u%u%s held=%u work=%u %s\n",
                     (double)sim->now_us / 1000, way, msg_kind_name(head->kind),
                     number < 0 ? "?" : sim_stage_names[sim->processes[number].stage], number, peer,
                     head->rid.bytes[15], head->epoch, head->seq, head->index, head->upto,
                     head->last ? " last" : "", head->held, (unsigned)head->work, head->text);
}

/* --- the queue --- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void sim_at(struct sim *sim, int64_t at_us, enum sim_kind kind, int number, struct msg *msg)
{
    struct sim_event event = {
        .at_us = at_us, .order = sim->order++, .kind = kind, .number = number, .msg = msg};
    size_t at = sim->n_events++;

    assert(at_us >= sim->now_us);
    if (at == sim->events_capacity) {
        sim->events_capacity = at ? 2 * at : 256;
        sim->events = heap_resize(sim->events, sim->events_capacity, sizeof *sim->events);
    }
    for (; at > 0 && before(&event, &sim->events[(at - 1) / 2]); at = (at - 1) / 2)
        sim->events[at] = sim->events[(at - 1) / 2];
    sim->events[at] = event;
}

static struct sim_event take_event(struct sim *sim)
{
    struct sim_event first = sim->events[0];
    struct sim_event last = sim->events[--sim->n_events];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < sim->n_events && before(&sim->events[child + 1], &sim->events[child]))
            child++;
        if (child >= sim->n_events || !before(&sim->events[child], &last))
            break;
        sim->events[at] = sim->events[child];
        at = child;
    }
    if (sim->n_events > 0)
        sim->events[at] = last;
    return first;
}

static void free_msg(struct msg *msg)
{
    msg_clear(msg);
    heap_free(msg);
}

/* --- the network --- */

static int64_t later(struct sim *sim, int64_t *last_us)
{
    int64_t at = sim->now_us + 1 + (int64_t)sim_random(sim, LATENCY_US_MAX);

    if (at <= *last_us) /* a connection keeps its order */
        at = *last_us;
    *last_us = at;
    return at;
}

/* Takes the message when it goes out. False when the loop would see that it cannot. */
static bool deliver(struct sim *sim, uint32_t peer, struct msg **msg)
{
    int number = peer < LEDGER_PEERS_MAX ? sim->by_peer[peer] : -1;

    if (peer == sim->supervisor)
        return true;
    if (number < 0 || !sim->processes[number].alive)
        return sim_random(sim, 2) == 0;
    if (sim_chance(sim, sim->class >= SIM_ROUGH ? 1 : 0)) {
        sim_totals.sends_lost++;
        return false;
    }
    sim_at(sim, later(sim, &sim->processes[number].last_in_us), SIM_TO_PROCESS, number, *msg);
    *msg = NULL;
    return true;
}

/* To the gateway; the sender's number is found when it arrives. */
void sim_post(struct sim *sim, int process, struct msg *msg)
{
    sim_at(sim, later(sim, &sim->processes[process].last_out_us), SIM_TO_GATEWAY, process, msg);
}

static void arrive(struct sim *sim, int number, const struct msg *msg)
{
    struct sim_process *process = &sim->processes[number];

    if (process->peer == UINT32_MAX) {
        while (sim->by_peer[sim->next_peer] >= 0)
            sim->next_peer = (sim->next_peer + 1) % 64;
        process->peer = sim->next_peer;
        sim->by_peer[process->peer] = number;
    }
    trace(sim, "->", process->peer, &msg->head);
    sim_step(sim, &(struct ledger_event){.kind = EVENT_MESSAGE,
                                         .worker = process->peer,
                                         .head = &msg->head,
                                         .blobs = msg->blobs});
}

static void forget(struct sim *sim, uint32_t peer)
{
    if (peer >= LEDGER_PEERS_MAX || sim->by_peer[peer] < 0)
        return;
    sim->processes[sim->by_peer[peer]].peer = UINT32_MAX;
    sim->by_peer[peer] = -1;
}

/* The ledger holds a process for hung: the supervisor kills it. */
static void restart(struct sim *sim, const struct head *head)
{
    sim_totals.restarts++;
    for (int i = 0; i < sim->n_processes; i++)
        if (sim->processes[i].alive && sim->processes[i].start == head->start)
            sim_at(sim, sim->now_us + 1000, SIM_CRASH, i, NULL);
}

static void act(struct sim *sim, struct ledger_actions *actions)
{
    for (size_t i = 0; i < actions->n; i++) {
        struct ledger_action *action = &actions->items[i];
        switch (action->kind) {
        case ACTION_SEND:
            trace(sim, "<-", action->worker, &action->msg->head);
            if (!deliver(sim, action->worker, &action->msg))
                sim_step(sim, &(struct ledger_event){.kind = EVENT_SEND_FAILED,
                                                     .worker = action->worker,
                                                     .rid = action->msg->head.rid,
                                                     .head = &action->msg->head});
            break;
        case ACTION_BYTES:
            sim_client_bytes(sim, action);
            break;
        case ACTION_END:
            sim_client_end(sim, action);
            break;
        case ACTION_FORGET:
            forget(sim, action->worker);
            break;
        case ACTION_RESTART:
            restart(sim, &action->msg->head);
            break;
        case ACTION_PAUSE:
            break;
        }
    }
}

/* A step, its invariants, its actions; which may lead to further steps at once, as in the loop. */
void sim_step(struct sim *sim, const struct ledger_event *event)
{
    struct ledger_actions out = {0};
    struct status st = {0};

    ledger_step(sim->ledger, event, sim->now_us, &out);
    sim->steps++;
    if (!ledger_check(sim->ledger, &st))
        sim_wrong(sim, "%s", st.text);
    if (ledger_next_us(sim->ledger) <= sim->now_us && event->kind == EVENT_TICK)
        sim_wrong(sim, "the ledger wants to be woken again at once");
    act(sim, &out);
    ledger_actions_clear(&out);
}

/* --- a history --- */

static void happen(struct sim *sim, struct sim_event *event)
{
    switch (event->kind) {
    case SIM_TO_PROCESS:
        sim_receive(sim, event->number, event->msg);
        break;
    case SIM_TO_GATEWAY:
        arrive(sim, event->number, event->msg);
        break;
    case SIM_TURN:
        sim_turn(sim, event->number);
        break;
    case SIM_BEAT:
        sim_beat(sim, event->number);
        break;
    case SIM_START:
        sim_start(sim, event->number);
        break;
    case SIM_CRASH:
        sim_crash(sim, event->number);
        break;
    case SIM_GONE:
        sim_step(sim, &(struct ledger_event){.kind = EVENT_MESSAGE,
                                             .worker = sim->supervisor,
                                             .head = &event->msg->head,
                                             .blobs = event->msg->blobs});
        break;
    case SIM_REQUEST:
        sim_ask(sim, event->number);
        break;
    case SIM_CLIENT_GONE:
        if (sim->requests[event->number].ends == 0) {
            sim->requests[event->number].gone = true;
            sim->requests[event->number].ends++;
            sim_step(sim, &(struct ledger_event){.kind = EVENT_CLIENT_GONE,
                                                 .rid = sim->requests[event->number].rid});
        }
        break;
    case SIM_CLIENT_READS:
        sim_client_reads(sim, event->number);
        break;
    }
    if (event->msg)
        free_msg(event->msg);
}

static void make_seats(struct sim *sim)
{
    for (int stage = 0; stage < SIM_STAGES; stage++) {
        int n = 1 + (int)sim_random(sim, 3);
        for (int i = 0; i < n; i++) {
            int seat = sim->n_seats++;
            sim->seats[seat].stage = (enum sim_stage)stage;
            sim->seats[seat].process = -1;
            sim->seats[seat].numerics =
                sim->class == SIM_MAD && sim_random(sim, 3) == 0 ? 'b' : 'a';
            sim->seats[seat].mad = sim->class == SIM_MAD && sim_random(sim, 12) == 0;
            sim_at(sim, (int64_t)sim_random(sim, 20000), SIM_START, seat, NULL);
        }
    }
}

static void open_ledger(struct sim *sim)
{
    struct ledger_config config = ledger_config_default();
    struct status st = {0};

    config.requests_max = SIM_REQUESTS_MAX - 2;
    config.memory_max_bytes = 20000;
    config.unsent_max_bytes = 20;
    config.pause_max_us = 3000000;
    config.resume_wait_us = 2000000;
    sim->resume_any = sim->class == SIM_MAD && sim_random(sim, 4) == 0;
    config.resume_any = sim->resume_any;
    if (!ledger_config_pipeline(&config, "chat", sim_stage_names, SIM_STAGES, &st))
        sim_wrong(sim, "%s", st.text);
    sim->ledger = ledger_new(&config);
}

static void run_until(struct sim *sim, int64_t end_us)
{
    while (!sim->failed) {
        int64_t next = ledger_next_us(sim->ledger);
        struct ledger_counts counts;

        ledger_counts(sim->ledger, &counts);
        bool asked = true;
        for (int i = 0; i < sim->n_requests; i++)
            asked = asked && (sim->requests[i].accepted || sim->requests[i].ends > 0);
        if (asked && counts.requests == 0)
            return;
        if (sim->n_events > 0 && sim->events[0].at_us <= next) {
            struct sim_event event = take_event(sim);
            sim->now_us = event.at_us;
            happen(sim, &event);
        } else if (next < end_us) {
            sim->now_us = next;
            sim_step(sim, &(struct ledger_event){.kind = EVENT_TICK});
        } else {
            sim_wrong(sim, "%zu requests never end", counts.requests);
        }
        if (sim->now_us > end_us)
            sim_wrong(sim, "%zu requests never end", counts.requests);
    }
}

void sim_run(struct sim *sim, uint64_t seed, bool traced)
{
    struct sim_process *processes = sim->processes;

    *sim = (struct sim){
        .seed = seed, .traced = traced, .supervisor = LEDGER_PEERS_MAX - 1, .processes = processes};
    sim->class = (enum sim_class)sim_random(sim, SIM_CLASSES);
    if (sim->class >= SIM_ROUGH)
        sim->calm_us = 100000 + (int64_t)sim_random(sim, 3000000);
    if (sim->class == SIM_MAD && sim_random(sim, 2) == 0)
        sim->calm_us = END_US;
    for (size_t i = 0; i < LEDGER_PEERS_MAX; i++)
        sim->by_peer[i] = -1;
    open_ledger(sim);
    make_seats(sim);
    sim_make_requests(sim);
    run_until(sim, END_US);
    sim_judge(sim);
    sim_totals.steps += sim->steps;
    while (sim->n_events > 0) {
        struct sim_event event = take_event(sim);
        if (event.msg)
            free_msg(event.msg);
    }
    heap_free(sim->events);
    ledger_free(sim->ledger);
}
