/* probe.h - what this CPU can do at best, one thread each: the limits that kernels are compared
 * with. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct probe {
    const char *name;
    uint32_t needs; /* enum cpu_feature */
    /* Read all of data, size a multiple of PROBE_READ_BYTES, in several streams; a checksum. */
    uint64_t (*read)(const void *data, size_t size);
    /* Do at least `products` multiply-adds in registers; returns how many, *out gets a sum. */
    size_t (*int8)(size_t products, int32_t *out);
    size_t (*float32)(size_t products, float *out);
};
#define PROBE_READ_BYTES 4096

/* The best one for this CPU. Static. */
const struct probe *probe_find(void);
