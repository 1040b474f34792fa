#define _GNU_SOURCE /* memfd_create */
/* children.c - posix_spawn, socket pairs, memory files, and a watch. */
#include "services/ingest/children.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/log.h"
#include "engine/media/media.h"
#include "services/ingest/parcel.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILD_FD 3
#define START_MS 20000      /* for a child to be ready; a cold disk is slow */
#define BROKEN_AFTER 3      /* children in a row that did not get ready */
#define REAP_MS 100         /* until children that were let go are looked for again */
#define RETRY_MS 1000       /* between starts while broken */
#define CALM_MS 300         /* from an item to the start of the child that replaces its own */
#define SIDE_MAX (1U << 20) /* px, of an answer */

/* Ending: killed, but the kernel still takes it apart (10 ms and more); nobody waits for that. */
enum child_state { CHILD_NONE, CHILD_STARTING, CHILD_READY, CHILD_BUSY, CHILD_ENDING };

struct child {
    enum child_state state;
    pid_t pid;
    int fd;
    int64_t until_us; /* then it is killed; 0: it may wait */
    uint64_t ticket;
    struct decode_request request;
};

struct children {
    char *program;
    size_t spares;
    int64_t wall_ms;
    struct child items[CHILDREN_MAX];
    size_t failed_starts;
    int64_t start_again_us;
    int64_t calm_us; /* until then one that is ready is enough */
    struct status broken;
};

static bool spawn(struct children *c, struct child *child, struct status *st)
{
    int pair[2];
    char number[16];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return status_fail_sys(st, errno, "socketpair for a decoder");
    snprintf(number, sizeof number, "%d", CHILD_FD);
    char *const argv[] = {c->program, "--decode", number, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    /* If the socket has that number already, adddup2 drops its close-on-exec flag. */
    posix_spawn_file_actions_adddup2(&actions, pair[1], CHILD_FD);
    pid_t pid;
    const int error = posix_spawn(&pid, c->program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pair[1]);
    if (error != 0) {
        close(pair[0]);
        return status_fail_sys(st, error, "start decoder '%s'", c->program);
    }
    *child = (struct child){.state = CHILD_STARTING,
                            .pid = pid,
                            .fd = pair[0],
                            .until_us = clock_now_us() + START_MS * 1000LL};
    return true;
}

#define LAST_WORDS_MS 20 /* between a closed socket and the end of its process */

/* End it if need be; `how` (may be NULL) tells how it ended, if it was by itself. */
static void reap(struct child *child, char *how, size_t size)
{
    int status = 0;
    bool over = false;
    if (child->fd >= 0)
        close(child->fd);
    for (int i = 0; how && i < LAST_WORDS_MS && !over; i++) {
        const struct timespec ms = {.tv_nsec = 1000000};
        over = waitpid(child->pid, &status, WNOHANG) == child->pid;
        if (!over)
            nanosleep(&ms, NULL);
    }
    if (!over) {
        kill(child->pid, SIGKILL); /* not reaped yet, so the number is still its own */
        while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    if (how && WIFSIGNALED(status))
        snprintf(how, size, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (how)
        snprintf(how, size, "exit status %d", WEXITSTATUS(status));
    *child = (struct child){0};
}

/* Kill it and let it go; poll reaps it. */
static void let_end(struct child *child)
{
    close(child->fd);
    kill(child->pid, SIGKILL);
    *child = (struct child){.state = CHILD_ENDING, .pid = child->pid, .fd = -1};
}

static size_t count(const struct children *c, enum child_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        n += c->items[i].state == state;
    return n;
}

/* Keep so many spares; those that start count. A start costs as much as some pictures: the item
 * that was handed over, and what follows it, go first while there is another spare. */
static bool refill(struct children *c, struct status *st)
{
    const int64_t now_us = clock_now_us();
    if (now_us < c->calm_us && count(c, CHILD_READY) > 0)
        return true;
    for (size_t i = 0; i < CHILDREN_MAX; i++) {
        if (count(c, CHILD_STARTING) + count(c, CHILD_READY) >= c->spares ||
            now_us < c->start_again_us)
            return true;
        if (c->items[i].state == CHILD_NONE && !spawn(c, &c->items[i], st)) {
            c->start_again_us = now_us + RETRY_MS * 1000LL;
            c->broken = *st;
            return false;
        }
    }
    return true;
}

bool children_new(struct children **out, const char *program, size_t spares, int64_t wall_ms,
                  struct status *st)
{
    assert(spares > 0 && spares <= CHILDREN_MAX / 2);
    struct children *c = heap_new(1, sizeof *c);
    c->program = heap_text(program, strlen(program));
    c->spares = spares;
    c->wall_ms = wall_ms;
    if (!refill(c, st)) {
        children_free(c);
        return false;
    }
    *out = c;
    return true;
}

void children_free(struct children *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (c->items[i].state != CHILD_NONE)
            reap(&c->items[i], NULL, 0);
    heap_free(c->program);
    heap_free(c);
}

static const struct child *find_ready(const struct children *c)
{
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (c->items[i].state == CHILD_READY)
            return &c->items[i];
    return NULL;
}

bool children_ready(const struct children *c)
{
    return find_ready(c) != NULL;
}

const struct status *children_broken(const struct children *c)
{
    return c->broken.code != STATUS_OK ? &c->broken : NULL;
}

static bool write_all(int file, struct span bytes)
{
    for (size_t at = 0; at < bytes.size;) {
        const ssize_t n = write(file, bytes.data + at, bytes.size - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static int64_t wall_ms(const struct children *c, const struct decode_request *request)
{
    return request->want == WANT_VIDEO ? VIDEO_WALL * c->wall_ms : c->wall_ms;
}

bool children_give(struct children *c, uint64_t ticket, const struct decode_request *request,
                   struct span bytes, struct status *st)
{
    const struct child *ready = find_ready(c);
    assert(ready);
    struct child *child = &c->items[ready - c->items];
    const int file = memfd_create("medium", MFD_CLOEXEC);
    if (file < 0)
        return status_fail_sys(st, errno, "memory file for a medium");
    if (!write_all(file, bytes)) {
        close(file);
        return status_fail(st, STATUS_SYSTEM, "memory file of %zu bytes cannot be written",
                           bytes.size);
    }
    /* A child that died while it waited does not take it; poll will find it dead and say so. */
    (void)parcel_send(child->fd, request, sizeof *request, file, MSG_DONTWAIT);
    close(file);
    child->state = CHILD_BUSY;
    child->ticket = ticket;
    child->request = *request;
    const int64_t now_us = clock_now_us();
    child->until_us = now_us + wall_ms(c, request) * 1000;
    c->calm_us = now_us + CALM_MS * 1000LL;
    return true;
}

void children_cancel(struct children *c, uint64_t ticket)
{
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (c->items[i].state == CHILD_BUSY && c->items[i].ticket == ticket)
            let_end(&c->items[i]);
}

/* The size of a result, 0 when it is not what was asked for. */
static size_t result_size(const struct decode_request *request, const struct decode_answer *answer)
{
    const size_t h = answer->height, w = answer->width, tile = request->tile_px;
    const size_t frames = answer->frames, samples = answer->samples;
    if (request->want == WANT_SOUND)
        return h == 0 && w == 0 && frames == 0 &&
                       samples <= (size_t)DECODE_SECONDS_MAX * MEDIA_AUDIO_RATE_HZ
                   ? samples * sizeof(float)
                   : 0;
    if (h == 0 || w == 0 || h >= SIDE_MAX || w >= SIDE_MAX || h % tile != 0 || w % tile != 0 ||
        (h / tile) * (w / tile) > request->budget)
        return 0;
    if (request->want == WANT_PICTURE)
        return frames == 0 && samples == 0 ? h * w * 3 : 0;
    if (frames == 0 || frames > request->frames_max || answer->frames_seen < frames ||
        answer->frames_seen > DECODE_VIDEO_PACKETS_MAX ||
        answer->length_ms > DECODE_VIDEO_SECONDS_MAX * 1000 ||
        samples > (size_t)request->sound_s * MEDIA_AUDIO_RATE_HZ)
        return 0;
    return frames * (h * w * 3 + sizeof(int32_t)) + samples * sizeof(float);
}

/* The child has seen hostile bytes: nothing it says is believed. */
static bool read_result(struct children_end *end, const struct decode_request *request,
                        const struct decode_answer *answer, int file, struct status *st)
{
    const size_t size = result_size(request, answer);
    struct stat about;
    if (size == 0 || file < 0 || fstat(file, &about) != 0 || (size_t)about.st_size != size)
        return status_fail(st, STATUS_INTERNAL, "the decoder's answer (%u x %u) is not believed",
                           answer->width, answer->height);
    buffer_reserve(&end->bytes, size);
    for (size_t at = 0; at < size;) {
        const ssize_t n = pread(file, end->bytes.data + at, size - at, (off_t)at);
        if (n <= 0)
            return status_fail(st, STATUS_INTERNAL, "the decoder's result cannot be read");
        at += (size_t)n;
    }
    end->bytes.size = size;
    end->height = answer->height;
    end->width = answer->width;
    end->frames = answer->frames;
    end->samples = answer->samples;
    end->frames_seen = answer->frames_seen;
    end->length_ms = answer->length_ms;
    return true;
}

static void take_answer(struct children_end *end, const struct child *child,
                        const struct decode_answer *answer, int file)
{
    char *text = end->note;
    end->took_us = answer->took_us;
    memcpy(text, answer->text, sizeof end->note);
    text[sizeof end->note - 1] = 0;
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    if (answer->code == STATUS_OK) {
        end->ok = read_result(end, &child->request, answer, file, &end->st);
        return;
    }
    const bool known = answer->code > STATUS_OK && answer->code < STATUS_CODES;
    (void)status_fail(&end->st, known ? (enum status_code)answer->code : STATUS_INTERNAL, "%s",
                      text);
}

static void start_failed(struct children *c, const char *why)
{
    log_error("decoder does not start", "why=%s", log_quoted(why).text);
    if (++c->failed_starts < BROKEN_AFTER)
        return;
    (void)status_fail(&c->broken, STATUS_UNAVAILABLE, "decoders do not start: %s", why);
    c->start_again_us = clock_now_us() + RETRY_MS * 1000LL;
}

/* A child that starts or waits: is it ready, or gone? */
static void look_at_spare(struct children *c, struct child *child)
{
    struct decode_answer answer;
    int file;
    char how[80];
    const int got = parcel_receive(child->fd, &answer, sizeof answer, &file, MSG_DONTWAIT);
    if (file >= 0)
        close(file);
    if (got == 1 && child->state == CHILD_STARTING && answer.code == STATUS_OK) {
        child->state = CHILD_READY;
        child->until_us = 0;
        c->failed_starts = 0;
        c->broken = (struct status){0};
        return;
    }
    const bool late = child->until_us != 0 && clock_now_us() >= child->until_us;
    if (got == 0 && !late)
        return;
    const bool said = got == 1 && answer.code != STATUS_OK;
    answer.text[sizeof answer.text - 1] = 0;
    reap(child, how, sizeof how);
    start_failed(c, said ? answer.text : how);
}

static bool look_at_busy(struct children *c, struct child *child, struct children_end *end)
{
    struct decode_answer answer;
    int file;
    char how[80];
    const int got = parcel_receive(child->fd, &answer, sizeof answer, &file, MSG_DONTWAIT);
    const bool late = got == 0 && clock_now_us() >= child->until_us;
    if (got == 0 && !late)
        return false;
    *end = (struct children_end){.ticket = child->ticket};
    if (got == 1)
        take_answer(end, child, &answer, file);
    if (file >= 0)
        close(file);
    end->died = got != 1;
    const struct decode_request request = child->request; /* which goes with the child */
    if (got < 0)
        reap(child, how, sizeof how);
    else
        let_end(child);
    if (late)
        (void)status_fail(&end->st, STATUS_LIMIT, "decoding took more than %.0f seconds",
                          (double)wall_ms(c, &request) / 1000);
    else if (got != 1)
        (void)status_fail(&end->st, STATUS_INVALID, "the decoder ended on it (%s)", how);
    if (end->died)
        log_warn("decoder killed or dead", "why=%s", log_quoted(end->st.text).text);
    return true;
}

bool children_poll(struct children *c, struct children_end *end)
{
    struct status st = {0};
    for (size_t i = 0; i < CHILDREN_MAX; i++) {
        struct child *child = &c->items[i];
        if (child->state == CHILD_BUSY && look_at_busy(c, child, end))
            return true; /* replacements can wait until it is delivered */
        if (child->state == CHILD_STARTING || child->state == CHILD_READY)
            look_at_spare(c, child);
        if (child->state == CHILD_ENDING && waitpid(child->pid, NULL, WNOHANG) == child->pid)
            *child = (struct child){0};
    }
    if (!refill(c, &st))
        log_error("decoder does not start", "why=%s", log_quoted(st.text).text);
    return false;
}

size_t children_descriptors(const struct children *c, int *fds, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < CHILDREN_MAX && n < max; i++)
        if (c->items[i].state != CHILD_NONE && c->items[i].state != CHILD_ENDING)
            fds[n++] = c->items[i].fd;
    return n;
}

int children_wait_ms(const struct children *c)
{
    const int64_t now_us = clock_now_us();
    int64_t first_us = c->start_again_us > now_us ? c->start_again_us : INT64_MAX;
    if (c->calm_us > now_us && c->calm_us < first_us)
        first_us = c->calm_us;
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (c->items[i].state != CHILD_NONE && c->items[i].until_us != 0 &&
            c->items[i].until_us < first_us)
            first_us = c->items[i].until_us;
    if (count(c, CHILD_ENDING) > 0 && first_us > now_us + REAP_MS * 1000LL)
        first_us = now_us + REAP_MS * 1000LL;
    if (first_us == INT64_MAX)
        return -1;
    return first_us <= now_us ? 0 : (int)((first_us - now_us) / 1000 + 1);
}
