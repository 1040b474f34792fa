/* machine.h - what this machine can do at best: the limits that speed is compared with. */
#pragma once
#include <stddef.h>

struct machine {
    double bandwidth_bytes_per_s; /* all threads read memory in several streams */
    double
        int8_products_per_s; /* 8-bit multiply-adds of the widest kind this CPU has, in registers */
    double float_products_per_s; /* float32 multiply-adds, likewise */
};

/* Takes about half a second. */
void machine_measure(struct machine *out, size_t threads);
/* The CPU's name. Static. */
const char *machine_cpu(void);
