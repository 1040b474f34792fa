#include "tests/gateway/ledger_world.h"
#include "engine/base/heap.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct ledger_config world_config(void)
{
    struct ledger_config config = ledger_config_default();
    struct status st = {0};
    const char *const chat[] = {"ingest", "encode", "infer", "format"};
    const char *const plain[] = {"upper", "lower"};

    config.requests_max = 16;
    config.memory_max_bytes = 1U << 20;
    assert_true(ledger_config_pipeline(&config, "chat", chat, 4, &st));
    assert_true(ledger_config_pipeline(&config, "plain", plain, 2, &st));
    return config;
}

void world_open(struct world *world, const struct ledger_config *config)
{
    *world = (struct world){.config = config ? *config : world_config(), .now_us = 1000000};
    world->ledger = ledger_new(&world->config);
}

void world_close(struct world *world)
{
    ledger_free(world->ledger);
    ledger_actions_clear(&world->out);
}

static void step(struct world *world, const struct ledger_event *event)
{
    struct status st = {0};

    ledger_step(world->ledger, event, world->now_us, &world->out);
    if (!ledger_check(world->ledger, &st))
        fail_msg("%s", st.text);
}

void world_step(struct world *world, const struct ledger_event *event)
{
    ledger_actions_reset(&world->out);
    step(world, event);
}

void world_pass(struct world *world, int64_t until_us)
{
    ledger_actions_reset(&world->out);
    while (world->now_us < until_us) {
        int64_t next = ledger_next_us(world->ledger);
        world->now_us = next < until_us ? next : until_us;
        step(world, &(struct ledger_event){.kind = EVENT_TICK});
        assert_true(ledger_next_us(world->ledger) > world->now_us);
    }
}

struct rid world_rid(unsigned number)
{
    struct rid rid = {{0}};

    rid.bytes[0] = (uint8_t)(number >> 8);
    rid.bytes[15] = (uint8_t)number;
    return rid;
}

static void send(struct world *world, struct ledger_event event, const struct head *head,
                 const struct piece *pieces)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    int32_t numbers[64];

    msg->head = *head;
    for (; pieces->name; pieces++) {
        size_t n = pieces->text ? strlen(pieces->text) : (size_t)pieces->n;
        for (int i = 0; i < pieces->n; i++)
            numbers[i] = pieces->first + i;
        struct blob *blob =
            pieces->text ? blob_copy(pieces->text, n) : blob_copy(numbers, n * sizeof numbers[0]);
        msg_add_take(msg, pieces->name, pieces->text ? BLOB_U8 : BLOB_I32, &n, 1, blob);
    }
    event.head = &msg->head;
    event.blobs = msg->blobs;
    world_step(world, &event);
    world_free_msg(msg);
}

struct ledger_event world_request(struct world *world, unsigned number)
{
    return (struct ledger_event){.kind = EVENT_REQUEST,
                                 .rid = world_rid(number),
                                 .deadline_us = world->now_us + 60000000,
                                 .reserve_bytes = 1000,
                                 .work = 100,
                                 .input_hash = 7000 + number};
}

void world_admit(struct world *world, struct ledger_event event, const struct piece *pieces)
{
    struct head head = {.fields = span_text("\x80")};

    send(world, event, &head, pieces);
}

struct head world_hello_head(uint32_t peer, const char *stage, uint32_t slots)
{
    struct head head = {.kind = MSG_HELLO,
                        .wire_min = WIRE_VERSION,
                        .wire_max = WIRE_VERSION,
                        .start = 50000 + peer,
                        .slots = slots};

    (void)snprintf(head.stage, sizeof head.stage, "%s", stage);
    (void)snprintf(head.seat, sizeof head.seat, "h/%s/%u", stage, peer);
    (void)snprintf(head.numerics, sizeof head.numerics, "exact");
    return head;
}

void world_hello(struct world *world, uint32_t peer, const char *stage, uint32_t slots)
{
    struct head head = world_hello_head(peer, stage, slots);

    world_message(world, peer, &head, NO_PIECES);
    assert_non_null(world_sent(world, peer, MSG_WELCOME, 0));
    world_credit(world, peer, slots);
}

void world_message(struct world *world, uint32_t peer, const struct head *head,
                   const struct piece *pieces)
{
    send(world, (struct ledger_event){.kind = EVENT_MESSAGE, .worker = peer}, head, pieces);
}

void world_result(struct world *world, uint32_t peer, const struct msg *job,
                  const struct piece *pieces)
{
    struct head head = {
        .kind = MSG_RESULT, .rid = job->head.rid, .epoch = job->head.epoch, .last = true};

    world_message(world, peer, &head, pieces);
}

void world_tokens(struct world *world, uint32_t peer, const struct msg *job, uint32_t seq,
                  uint32_t index, int n, bool last)
{
    struct head head = {.kind = MSG_RESULT,
                        .rid = job->head.rid,
                        .epoch = job->head.epoch,
                        .seq = seq,
                        .index = index,
                        .last = last,
                        .fields = last ? span_text("\x80") : (struct span){0}};
    struct piece pieces[] = {{.name = "tokens", .first = 100 + (int)index, .n = n}, {0}};

    world_message(world, peer, &head, n > 0 ? pieces : NO_PIECES);
}

void world_bytes(struct world *world, uint32_t peer, const struct msg *job, uint32_t seq,
                 uint32_t upto, const char *text, bool last)
{
    struct head head = {.kind = MSG_RESULT,
                        .rid = job->head.rid,
                        .epoch = job->head.epoch,
                        .seq = seq,
                        .upto = upto,
                        .last = last};
    struct piece pieces[] = {{.name = "bytes", .text = text}, {0}};

    world_message(world, peer, &head, pieces);
}

void world_no_capacity(struct world *world, uint32_t peer, const struct msg *job)
{
    struct head head = {.kind = MSG_FAILED,
                        .rid = job->head.rid,
                        .epoch = job->head.epoch,
                        .code = STATUS_BUSY,
                        .fault = FAULT_CAPACITY,
                        .text = "no room for its keys"};

    world_message(world, peer, &head, NO_PIECES);
    world_credit(world, peer, 1);
}

void world_credit(struct world *world, uint32_t peer, uint32_t n)
{
    struct head head = {.kind = MSG_CREDIT, .n = n};

    world_message(world, peer, &head, NO_PIECES);
}

void world_beat(struct world *world, uint32_t peer, uint64_t work, uint32_t held)
{
    struct head head = {.kind = MSG_BEAT, .work = work, .held = held};

    world_message(world, peer, &head, NO_PIECES);
}

void world_gone(struct world *world, uint32_t peer)
{
    world_step(world, &(struct ledger_event){.kind = EVENT_WORKER_GONE, .worker = peer});
}

const struct ledger_action *world_action(const struct world *world, enum ledger_action_kind kind,
                                         size_t nth)
{
    for (size_t i = 0; i < world->out.n; i++)
        if (world->out.items[i].kind == kind && nth-- == 0)
            return &world->out.items[i];
    return NULL;
}

static struct ledger_action *find_sent(const struct world *world, uint32_t peer, enum msg_kind kind,
                                       size_t nth)
{
    for (size_t i = 0; i < world->out.n; i++) {
        struct ledger_action *action = &world->out.items[i];
        if (action->kind == ACTION_SEND && action->worker == peer && action->msg &&
            action->msg->head.kind == kind && nth-- == 0)
            return action;
    }
    return NULL;
}

struct msg *world_sent(const struct world *world, uint32_t peer, enum msg_kind kind, size_t nth)
{
    struct ledger_action *action = find_sent(world, peer, kind, nth);

    return action ? action->msg : NULL;
}

struct msg *world_take(struct world *world, uint32_t peer, enum msg_kind kind)
{
    struct ledger_action *action = find_sent(world, peer, kind, 0);

    assert_non_null(action);
    if (!action)
        return NULL;
    struct msg *msg = action->msg;
    action->msg = NULL;
    return msg;
}

void world_free_msg(struct msg *msg)
{
    msg_clear(msg);
    heap_free(msg);
}

const char *world_names(const struct msg *msg)
{
    static char names[BLOBS_MAX * (BLOB_NAME_MAX + 1)];
    size_t length = 0;

    names[0] = '\0';
    for (size_t i = 0; i < msg->head.n_blobs; i++)
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i > 0 ? " " : "",
                                   msg->head.blobs[i].name);
    return names;
}

/* --- the line --- */

const struct piece world_text[] = {{.name = "turns", .text = "T"}, {0}};
const struct piece world_prompt[] = {{.name = "ids", .first = 1, .n = 3},
                                     {.name = "cuts", .first = 1, .n = 1},
                                     {.name = "start", .text = "0"},
                                     {0}};

void world_line(struct world *world, const struct ledger_config *config)
{
    world_open(world, config);
    world_hello(world, INGEST, "ingest", 4);
    world_hello(world, ENCODE, "encode", 4);
    world_hello(world, INFER, "infer", 8);
    world_hello(world, FORMAT, "format", 8);
}

struct msg *world_to_infer(struct world *world, unsigned number)
{
    world_admit(world, world_request(world, number), world_text);
    struct msg *job = world_take(world, ENCODE, MSG_JOB);
    world_result(world, ENCODE, job, world_prompt);
    world_free_msg(job);
    job = world_take(world, INFER, MSG_JOB);
    world_credit(world, ENCODE, 1);
    return job;
}

struct msg *world_to_format(struct world *world, unsigned number, int n)
{
    struct msg *infer = world_to_infer(world, number);

    world_tokens(world, INFER, infer, 0, 0, n, false);
    world_free_msg(infer);
    return world_take(world, FORMAT, MSG_JOB);
}

void world_assert_end(const struct world *world, unsigned number, enum status_code code)
{
    const struct ledger_action *end = world_action(world, ACTION_END, 0);

    assert_non_null(end);
    assert_int_equal(end->code, code);
    assert_true(rid_equal(end->rid, world_rid(number)));
    assert_null(world_action(world, ACTION_END, 1));
}

void world_assert_bytes(const struct world *world, const char *text, bool last)
{
    const struct ledger_action *action = world_action(world, ACTION_BYTES, 0);

    assert_non_null(action);
    assert_int_equal(blob_size(action->bytes), strlen(text));
    assert_memory_equal(blob_data(action->bytes), text, strlen(text));
    assert_int_equal(action->last, last);
    assert_null(world_action(world, ACTION_BYTES, 1));
}

size_t world_requests(const struct world *world)
{
    struct ledger_counts counts;

    ledger_counts(world->ledger, &counts);
    return counts.requests;
}
