/* The ledger in virtual time: many seeded histories of everything that can go wrong.
 *
 *   sim-ledger_sim [HISTORIES [SEED]]     or MILLRACE_SIM_HISTORIES, MILLRACE_SIM_SEED
 *
 * History i has seed SEED + i, so what failed is run again alone, and each message is printed:
 * sim-ledger_sim 1 THAT_SEED. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "tests/sim/sim.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t setting(int argc, char **argv, int at, const char *name, uint64_t fallback)
{
    const char *text = argc > at ? argv[at] : getenv(name);

    return text ? strtoull(text, NULL, 10) : fallback;
}

int main(int argc, char **argv)
{
    uint64_t histories = setting(argc, argv, 1, "MILLRACE_SIM_HISTORIES", 2000);
    uint64_t seed = setting(argc, argv, 2, "MILLRACE_SIM_SEED", 1);
    struct sim *sim = heap_new(1, sizeof *sim);
    struct sim_process *processes = heap_array(struct sim_process, SIM_PROCESSES_MAX);
    int64_t begin = clock_now_us();
    uint64_t failed = 0;

    (void)printf("seed %" PRIu64 ", %" PRIu64 " histories\n", seed, histories);
    for (uint64_t i = 0; i < histories && failed < 5; i++) {
        sim->processes = processes;
        sim_run(sim, seed + i, histories == 1);
        failed += sim->failed;
    }
    heap_free(sim);
    heap_free(processes);
    (void)printf(
        "%" PRIu64 " steps, %" PRIu64 " answers complete, %" PRIu64 " clients gone, %" PRIu64
        " crashes, %" PRIu64 " sends lost, %" PRIu64 " restarts asked for, %.1f s\n",
        sim_totals.steps, sim_totals.complete, sim_totals.gone, sim_totals.crashes,
        sim_totals.sends_lost, sim_totals.restarts, (double)(clock_now_us() - begin) / 1e6);
    for (int code = 1; code < STATUS_CODES; code++)
        if (sim_totals.ends[code])
            (void)printf("%" PRIu64 " ended with %s\n", sim_totals.ends[code],
                         status_name((enum status_code)code));
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
