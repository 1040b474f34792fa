#include "services/stage/warm.h"
#include "engine/base/hash.h"
#include "engine/base/heap.h"
#include "services/stage/progress.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)16 << 20)

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
    struct progress progress;
    bool ok = true;

    progress_begin(&progress, "reading weights", path);
    for (size_t at = 0; ok && at < all; at += PIECE_BYTES) {
        size_t size = all - at < PIECE_BYTES ? all - at : PIECE_BYTES;
        if (hash || any_page_missing((uint8_t *)base + at, size, page_bytes, map))
            ok = read_piece(fd, at, size, into, hash, st);
        progress_show(&progress, at + size, all);
    }
    progress_end(&progress);
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
