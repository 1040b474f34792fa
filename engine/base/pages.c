#include "engine/base/pages.h"
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

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
    (void)madvise(all + before, size, MADV_HUGEPAGE); /* refused where there are none: no harm */
    return all + before;
}

void pages_free(void *pages, size_t size_bytes)
{
    if (pages)
        (void)munmap(pages, rounded(size_bytes));
}

uint64_t pages_available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kib = 0;

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    return kib << 10;
}
