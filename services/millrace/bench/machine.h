/* machine.h - what this machine can do at best: the limits that speed is compared with. */
#pragma once
#include <stddef.h>

struct machine; /* opaque: threads and memory of its own */

struct machine *machine_new(size_t threads);
void machine_free(struct machine *m); /* NULL does nothing */

/* What all threads did together in the last moment, measured anew with each call: neighbours share
 * the machine, so a limit holds for what is timed right beside it. Each takes 10 to 60 ms. */
double machine_bytes_per_s(struct machine *m);          /* read from memory in several streams */
double machine_int8_products_per_s(struct machine *m);  /* 8-bit multiply-adds of the widest kind
                                                           this CPU has, in registers */
double machine_float_products_per_s(struct machine *m); /* float32 multiply-adds, likewise */

/* The CPU's name. Static. */
const char *machine_cpu(void);
