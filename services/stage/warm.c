#include "services/stage/warm.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)16 << 20)
#define BAR_CELLS 40
#define BAR_US 100000
#define LINE_US 2000000
#define QUIET_US 1000000 /* shorter than this nobody needs to be told */

struct progress {
    int64_t begun_us, shown_us;
    bool terminal, shown;
};

static void show(struct progress *progress, const char *path, size_t done, size_t all)
{
    int64_t now_us = clock_now_us();
    char bar[BAR_CELLS + 1];

    if (now_us - progress->begun_us < QUIET_US ||
        now_us - progress->shown_us < (progress->terminal ? BAR_US : LINE_US))
        return;
    progress->shown_us = now_us;
    progress->shown = true;
    int percent = (int)(100.0 * (double)done / (double)all);
    if (!progress->terminal) {
        log_info("reading weights", "file=%s percent=%d", path, percent);
        return;
    }
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', (size_t)(percent * BAR_CELLS / 100));
    bar[BAR_CELLS] = 0;
    (void)fprintf(stderr, "\rreading weights [%s] %3d %%", bar, percent);
}

static bool any_page_missing(void *base, size_t size, size_t page_bytes, unsigned char *map)
{
    size_t n = (size + page_bytes - 1) / page_bytes;

    if (mincore(base, size, map) != 0)
        return true;
    for (size_t i = 0; i < n; i++)
        if ((map[i] & 1) == 0)
            return true;
    return false;
}

/* hash may be NULL. */
static bool read_piece(int fd, size_t at, size_t size, uint8_t *into, struct hash *hash,
                       struct status *st)
{
    while (size > 0) {
        ssize_t n = pread(fd, into, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return status_fail_sys(st, errno, "read at byte %zu", at);
        if (n == 0)
            return status_fail(st, STATUS_CORRUPT, "the file became shorter while it was read");
        if (hash)
            hash_add(hash, into, (size_t)n);
        at += (size_t)n;
        size -= (size_t)n;
    }
    return true;
}

/* What is in the page cache is not read again, unless its hash is wanted. */
static bool read_through(int fd, void *base, size_t all, const char *path, struct hash *hash,
                         struct status *st)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *into = heap_new(PIECE_BYTES, 1);
    unsigned char *map = heap_new(PIECE_BYTES / page_bytes + 1, 1);
    struct progress progress = {.begun_us = clock_now_us(), .terminal = isatty(STDERR_FILENO) == 1};
    bool ok = true;

    for (size_t at = 0; ok && at < all; at += PIECE_BYTES) {
        size_t size = all - at < PIECE_BYTES ? all - at : PIECE_BYTES;
        if (hash || any_page_missing((uint8_t *)base + at, size, page_bytes, map))
            ok = read_piece(fd, at, size, into, hash, st);
        show(&progress, path, at + size, all);
    }
    if (progress.terminal && progress.shown)
        (void)fputc('\n', stderr);
    heap_free(map);
    heap_free(into);
    return ok;
}

static bool map_and_read(int fd, const char *path, struct hash *hash, struct status *st)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return status_fail_sys(st, errno, "stat");
    if (info.st_size <= 0)
        return true;
    size_t size = (size_t)info.st_size;
    void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return status_fail_sys(st, errno, "map %zu bytes", size);
    bool ok = read_through(fd, base, size, path, hash, st);
    (void)munmap(base, size);
    return ok;
}

bool warm_read(const char *path, uint8_t *out_hash, struct status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return status_fail_sys(st, errno, "open '%s'", path);
    struct hash *hash = out_hash ? hash_new() : NULL;
    uint8_t found[HASH_BYTES];
    bool ok = map_and_read(fd, path, hash, st);
    (void)close(fd);
    if (hash)
        hash_end_take(hash, found);
    if (ok && out_hash)
        memcpy(out_hash, found, sizeof found);
    return ok || status_wrap(st, "'%s'", path);
}
