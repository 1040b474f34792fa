#define _GNU_SOURCE /* memfd_create */
/* child.c - the life of a decoder child: limits, ready, one item, end. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "services/ingest/decode.h"
#include "services/ingest/parcel.h"
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* A picture of 64 million pixels is held up to three times, with alpha: 0.7 GiB, plus libraries. */
#define CHILD_MEMORY_BYTES ((rlim_t)2 << 30)
#define CHILD_CPU_S 20
#define CHILD_VIDEO_CPU_S 120 /* of two threads */
#define CHILD_FILES 32
#define CHILD_FILE_BYTES ((rlim_t)160 << 20) /* of the result's memory file */

/* The resource's number is an int to one C library and an enum to another. */
#define LIMIT(resource, value)                                                                     \
    limit(setrlimit((resource), &(const struct rlimit){(value), (value)}), #resource)

static void limit(int failed, const char *resource)
{
    if (failed)
        log_warn("no limit", "resource=%s", resource);
}

/* No limit on processes: GStreamer's threads would count, and those of everybody with our uid. */
static void lock_in(void)
{
#ifndef __SANITIZE_ADDRESS__ /* whose shadow memory is terabytes of addresses */
    LIMIT(RLIMIT_AS, CHILD_MEMORY_BYTES);
#endif
    LIMIT(RLIMIT_CPU, CHILD_VIDEO_CPU_S);
    LIMIT(RLIMIT_NOFILE, CHILD_FILES);
    LIMIT(RLIMIT_FSIZE, CHILD_FILE_BYTES);
    LIMIT(RLIMIT_CORE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* Ctrl-C in a terminal: the keeper decides */
}

#define WARM_PIECES 4
#define WARM_PIECE_BYTES ((size_t)8 << 20)
#define MMAP_THRESHOLD (32 << 20) /* the most that glibc allows */

/* Memory comes from one heap, whatever the thread, is not given back, and its first part is there
 * before the item comes: page faults were half of what a picture of two million pixels cost. */
static void warm_memory(void)
{
    void *pieces[WARM_PIECES];
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    for (size_t i = 0; i < WARM_PIECES; i++)
        pieces[i] = memset(heap_array(uint8_t, WARM_PIECE_BYTES), 1, WARM_PIECE_BYTES);
    for (size_t i = 0; i < WARM_PIECES; i++)
        heap_free(pieces[i]);
}

#define WARM_FRAMES_BYTES ((size_t)2 << 20) /* a picture of 280 soft tokens, and a clip of 30 s */

/* The memory file for the frames, its pages there before the item comes: they cost 1 ms. */
static int frames_open(struct status *st)
{
    static const uint8_t zeros[1 << 16];
    const int frames = memfd_create("frames", MFD_CLOEXEC);
    bool ok = frames >= 0;
    for (size_t at = 0; ok && at < WARM_FRAMES_BYTES; at += sizeof zeros)
        ok = pwrite(frames, zeros, sizeof zeros, (off_t)at) == (ssize_t)sizeof zeros;
    if (ok)
        return frames;
    (void)status_fail_sys(st, errno, "no memory file for the frames");
    if (frames >= 0)
        close(frames);
    return -1;
}

/* The file holds these bytes and no others. */
static bool frames_fill(int frames, const struct buffer *bytes, struct status *st)
{
    for (size_t at = 0; at < bytes->size;) {
        const ssize_t n = pwrite(frames, bytes->data + at, bytes->size - at, (off_t)at);
        if (n <= 0)
            return status_fail_sys(st, errno, "the frames' memory file cannot be written");
        at += (size_t)n;
    }
    if (ftruncate(frames, (off_t)bytes->size) != 0)
        return status_fail_sys(st, errno, "the frames' memory file cannot be cut");
    return true;
}

/* Decode the file into `frames`. */
static bool run(int frames, int file, const struct decode_request *request,
                struct decode_answer *out, struct status *st)
{
    struct stat about;
    struct decoded decoded;
    if (fstat(file, &about) != 0 || about.st_size <= 0)
        return status_fail(st, STATUS_INVALID, "the file is empty");
    const size_t size = (size_t)about.st_size;
    /* Private: decoding may write into its copy. */
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED)
        return status_fail_sys(st, errno, "the file cannot be mapped");
    if (!decode_medium(&decoded, data, size, request, st) ||
        !frames_fill(frames, &decoded.bytes, st))
        return false;
    out->height = (uint32_t)decoded.height;
    out->width = (uint32_t)decoded.width;
    out->frames = (uint32_t)decoded.frames;
    out->samples = (uint32_t)decoded.samples;
    out->frames_seen = (uint32_t)decoded.frames_seen;
    out->length_ms = (uint32_t)decoded.length_ms;
    memcpy(out->text, decoded.note, sizeof out->text);
    return true;
}

int decode_child(int fd)
{
    struct status st = {0};
    struct decode_request request;
    int file;
    lock_in();
    warm_memory();
    struct decode_answer ready = {.code = STATUS_OK};
    const int frames = frames_open(&st);
    if (frames < 0 || !decode_open(&st) || !decode_warm(&st)) {
        ready.code = (int32_t)st.code;
        memcpy(ready.text, st.text, sizeof ready.text);
    }
    if (!parcel_send(fd, &ready, sizeof ready, -1, 0) || ready.code != STATUS_OK ||
        parcel_receive(fd, &request, sizeof request, &file, 0) != 1 || file < 0)
        _exit(1);
    const int64_t began_us = clock_now_us();
    if (request.want != WANT_VIDEO)
        LIMIT(RLIMIT_CPU, CHILD_CPU_S);
    struct decode_answer done = {.code = STATUS_OK};
    const bool ok = run(frames, file, &request, &done, &st);
    if (!ok) {
        done.code = (int32_t)st.code;
        memcpy(done.text, st.text, sizeof done.text);
    }
    done.took_us = (uint32_t)(clock_now_us() - began_us);
    /* Nothing is taken down in order: the next item has another child. */
    _exit(parcel_send(fd, &done, sizeof done, ok ? frames : -1, 0) ? 0 : 1);
}
