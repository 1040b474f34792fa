/* schedule.h - whose turn it is when there are fewer cores than threads. */
#pragma once

/* The calling thread, and those it starts from now on, want little of a core but want it at once:
 * they move messages. Systems that know no such wish (Linux before 6.12) go on as before. */
void schedule_at_once(void);

/* The calling thread, and those it starts from now on, compute for seconds on every core: they give
 * way to others, and run on where nobody wants the core. */
void schedule_behind(void);
