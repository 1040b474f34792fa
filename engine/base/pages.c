#include "engine/base/pages.h"
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

static size_t rounded(size_t size)
{
    return (size + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

void *pages_new(size_t size_bytes)
{
    size_t size = rounded(size_bytes), spare = size + HUGE_BYTES;
    uint8_t *all = mmap(NULL, spare, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (all == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_BYTES - (uintptr_t)all % HUGE_BYTES) % HUGE_BYTES;
    if (before)
        (void)munmap(all, before);
    (void)munmap(all + before + size, spare - before - size);
    /* The rest takes small pages, and so no more memory than it has bytes. Refused where there are
     * none: no harm. */
    (void)madvise(all + before, size_bytes / HUGE_BYTES * HUGE_BYTES, MADV_HUGEPAGE);
    return all + before;
}

void pages_free(void *pages, size_t size_bytes)
{
    if (pages)
        (void)munmap(pages, rounded(size_bytes));
}

void pages_give_back(void *at, size_t size_bytes)
{
    uintptr_t small = (uintptr_t)sysconf(_SC_PAGESIZE);
    size_t before = (size_t)(-(uintptr_t)at % small); /* what the neighbours share stays */

    if (size_bytes > before && (size_bytes - before) / small > 0)
        (void)madvise((uint8_t *)at + before, (size_bytes - before) / small * small, MADV_DONTNEED);
}

/* The number behind `key` in a file of lines, or alone in it with key ""; *out stays when there is
 * none ("max"). */
static void read_number(const char *path, const char *key, uint64_t *out)
{
    FILE *file = fopen(path, "re");
    char line[256];
    size_t n = strlen(key);
    bool found = false;

    while (file && !found && fgets(line, sizeof line, file))
        found = strncmp(line, key, n) == 0 && sscanf(line + n, "%" SCNu64, out) == 1;
    if (file)
        (void)fclose(file);
}

uint64_t pages_group_bytes(const char *root, const char *group)
{
    char path[768], here[512];
    uint64_t least = UINT64_MAX;

    (void)snprintf(here, sizeof here, "%s", group);
    for (char *end = here + strlen(here); end; end = strrchr(here, '/')) {
        uint64_t most = UINT64_MAX, held = 0, cached = 0;
        *end = 0;
        (void)snprintf(path, sizeof path, "%s%s/memory.max", root, here);
        read_number(path, "", &most);
        (void)snprintf(path, sizeof path, "%s%s/memory.current", root, here);
        read_number(path, "", &held);
        (void)snprintf(path, sizeof path, "%s%s/memory.stat", root, here);
        read_number(path, "file ", &cached); /* goes when the memory is wanted */
        held -= cached < held ? cached : held;
        if (most != UINT64_MAX && (most > held ? most - held : 0) < least)
            least = most > held ? most - held : 0;
    }
    return least;
}

/* The path of our group in the one hierarchy of version 2, or "". */
static void own_group(char *out, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[512];

    out[0] = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        (void)snprintf(out, size, "%s", line + 3);
    }
    if (file)
        (void)fclose(file);
}

uint64_t pages_available_bytes(void)
{
    char group[512];
    uint64_t kib = 0;

    own_group(group, sizeof group);
    read_number("/proc/meminfo", "MemAvailable:", &kib);
    uint64_t left = pages_group_bytes("/sys/fs/cgroup", group);
    return left < kib << 10 ? left : kib << 10;
}
