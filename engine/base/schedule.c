#include "engine/base/schedule.h"
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A thread whose slice is shorter than that of the running one comes before it as soon as it wakes,
 * if it has not had more than its share (EEVDF; sched(7), sched_setattr(2): sched_runtime). 0 is
 * the system's own slice, some milliseconds. */
#define SLICE_NS UINT64_C(100000)
#define BEHIND 10 /* niceness: a tenth of a core that another thread wants too */

static void wish(int niceness, uint64_t slice_ns)
{
    struct sched_attr wish = {.size = sizeof wish,
                              .sched_policy = SCHED_NORMAL,
                              .sched_nice = niceness,
                              .sched_runtime = slice_ns};

    (void)syscall(SYS_sched_setattr, 0, &wish, 0);
}

void schedule_at_once(void)
{
    wish(nice(0), SLICE_NS);
}

void schedule_behind(void)
{
    wish(nice(BEHIND), 0);
}
