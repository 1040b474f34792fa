/* Whose turn it is: tenants, classes, and who was refused for want of capacity. */
#include "tests/gateway/ledger_world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void test_no_capacity_means_later_and_elsewhere(void **state)
{
    (void)state;
    struct ledger_config config = world_config();
    struct world world;

    config.beat_interval_us = 60000000;
    world_line(&world, &config);
    struct msg *job = world_to_infer(&world, 1);
    world_no_capacity(&world, INFER, job);
    assert_null(world_sent(&world, INFER, MSG_JOB, 0));
    world_hello(&world, INFER_2, "infer", 1);
    world_pass(&world, world.now_us + 50000);
    assert_null(world_sent(&world, INFER, MSG_JOB, 0));
    world_free_msg(job);
    job = world_take(&world, INFER_2, MSG_JOB);
    int tries = 1;
    uint32_t peer = INFER_2;
    while (world_requests(&world) > 0) {
        world_no_capacity(&world, peer, job);
        tries++;
        if (world_requests(&world) == 0)
            break;
        world_pass(&world, world.now_us + 1000000);
        world_free_msg(job);
        peer = peer == INFER ? INFER_2 : INFER; /* the one that has just refused comes last */
        job = world_take(&world, peer, MSG_JOB);
        assert_true(tries < 40);
    }
    assert_int_equal(tries, 25);
    world_free_msg(job);
    world_close(&world);
}

/* Admit, then serve encode one at a time; the order in which requests came to it. */
static void serve(struct world *world, char *order, size_t n)
{
    struct msg *job = NULL;

    world_hello(world, ENCODE, "encode", 1);
    for (size_t i = 0; i < n; i++) {
        job = world_take(world, ENCODE, MSG_JOB);
        order[i] = (char)job->head.rid.bytes[15];
        world_result(world, ENCODE, job, world_prompt);
        world_free_msg(job);
        world_credit(world, ENCODE, 1);
    }
    order[n] = '\0';
}

static void admit_for(struct world *world, char name, uint64_t tenant, uint64_t work, bool batch)
{
    struct ledger_event event = world_request(world, (unsigned char)name);

    event.tenant = tenant;
    event.work = work;
    event.batch_class = batch;
    world_admit(world, event, world_text);
}

static void test_tenants_take_turns(void **state)
{
    (void)state;
    struct world world;
    char order[17];

    world_open(&world, NULL);
    /* Its workers are told whose job it is. */
    world_hello(&world, OTHER, "encode", 1);
    admit_for(&world, 'w', UINT64_MAX - 1, 1, false);
    struct msg *job = world_take(&world, OTHER, MSG_JOB);
    assert_true(job->head.tenant == UINT64_MAX - 1);
    world_free_msg(job);
    for (const char *name = "abcdef"; *name; name++) /* one tenant asks first and most */
        admit_for(&world, *name, 1, 1024, false);
    admit_for(&world, 'x', 2, 1024, false);
    admit_for(&world, 'y', 2, 1024, false);
    admit_for(&world, 'z', 3, 1024, false);
    serve(&world, order, 9);
    assert_string_equal(order, "axzbycdef");
    world_close(&world);
}

static void test_turns_are_measured_in_work(void **state)
{
    (void)state;
    struct world world;
    char order[17];

    world_open(&world, NULL);
    admit_for(&world, 'A', 1, 4096, false); /* large ones */
    admit_for(&world, 'B', 1, 4096, false);
    for (const char *name = "rstuvwxyz"; *name; name++)
        admit_for(&world, *name, 2, 1024, false);
    serve(&world, order, 11);
    assert_string_equal(order, "rstAuvwxByz");
    world_close(&world);
}

static void test_batch_waits_behind_interactive(void **state)
{
    (void)state;
    struct world world;
    char order[17];

    world_open(&world, NULL);
    admit_for(&world, 'b', 1, 10, true);
    admit_for(&world, 'c', 2, 10, true);
    admit_for(&world, 'i', 3, 1000000, false);
    admit_for(&world, 'j', 3, 1000000, false);
    serve(&world, order, 4);
    assert_string_equal(order, "ijbc");
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_capacity_means_later_and_elsewhere),
        cmocka_unit_test(test_tenants_take_turns),
        cmocka_unit_test(test_turns_are_measured_in_work),
        cmocka_unit_test(test_batch_waits_behind_interactive),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
