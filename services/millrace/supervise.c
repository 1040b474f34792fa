#include "services/millrace/supervise.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "proto/link.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEATHS_MAX 3 /* so many within DEATHS_US open the circuit */
#define DEATHS_US 10000000
#define REST_US_MIN 5000000 /* pause of an open circuit; doubled each time */
#define REST_US_MAX 60000000
#define PAUSE_US 100000 /* before the second start in a row, doubled for the third */
#define END_US 2000000  /* between SIGTERM and SIGKILL at the end */
#define HELLO_US 500000 /* between two hellos while the gateway does not answer */

struct child {
    char name[STAGE_NAME_MAX];
    char seat[SEAT_MAX];
    char *argv[CHILD_ARGUMENTS_MAX];
    size_t argc;
    pid_t pid; /* 0: not running */
    uint64_t start;
    int64_t deaths_us[DEATHS_MAX]; /* the latest ones, newest first; 0: none */
    int64_t due_us;                /* of the next start */
    int64_t rest_us;
};

struct supervise {
    struct child children[CHILDREN_MAX];
    size_t n;
    struct link *link;
    bool welcome;
    int64_t hello_us;
    uint64_t start;
    int signals;     /* descriptor */
    sigset_t before; /* what children start with */
    bool stopping, given_up;
};

static uint64_t random_start(void)
{
    uint64_t start = 0;

    while (getrandom(&start, sizeof start, 0) != sizeof start)
        continue;
    return start;
}

/* ------------------------------------------------------------------ signals */

static const int taken[] = {SIGINT, SIGTERM, SIGCHLD, SIGHUP};
static pthread_t owner; /* reads them */

/* A library's threads that are older than main (OpenBLAS has some until the first fork) do not
 * block what main blocks. */
static void pass_on(int number)
{
    (void)pthread_kill(owner, number);
}

static void take_signals(struct supervise *s, sigset_t *set)
{
    struct sigaction action = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    struct sigaction is;

    owner = pthread_self();
    (void)sigemptyset(set);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (taken[i] != SIGHUP || (sigaction(SIGHUP, NULL, &is) == 0 && is.sa_handler != SIG_IGN))
            (void)sigaddset(set, taken[i]);
    (void)sigprocmask(SIG_BLOCK, set, &s->before);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (sigismember(set, taken[i]) == 1)
            (void)sigaction(taken[i], &action, NULL);
}

/* In a child before it becomes another program, while they are blocked. */
static void give_signals_back(const struct supervise *s)
{
    struct sigaction is;

    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (sigaction(taken[i], NULL, &is) == 0 && is.sa_handler == pass_on)
            (void)signal(taken[i], SIG_DFL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &s->before, NULL);
}

bool supervise_new(struct supervise **out, struct status *st)
{
    struct supervise *s = heap_new(1, sizeof *s);
    sigset_t set;

    take_signals(s, &set);
    s->start = random_start();
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0) {
        (void)status_fail_sys(st, errno, "signalfd");
        supervise_free(s);
        return false;
    }
    *out = s;
    return true;
}

bool supervise_connect(struct supervise *s, const char *bus, struct status *st)
{
    return link_open(&s->link, bus, st);
}

void supervise_add(struct supervise *s, const char *name, const char *seat, const char *const *argv)
{
    assert(s->n < CHILDREN_MAX);
    struct child *child = &s->children[s->n++];

    (void)snprintf(child->name, sizeof child->name, "%s", name);
    (void)snprintf(child->seat, sizeof child->seat, "%s", seat);
    for (; argv[child->argc]; child->argc++) {
        assert(child->argc + 5 < CHILD_ARGUMENTS_MAX);
        child->argv[child->argc] = heap_text(argv[child->argc], strlen(argv[child->argc]));
    }
    child->rest_us = REST_US_MIN;
}

/* ------------------------------------------------------------------ starting */

static _Noreturn void become(const struct supervise *s, const struct child *child, char **argv)
{
    give_signals_back(s);
    /* A supervisor that is killed takes its line with it: nobody else would restart or stop it. */
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    (void)execv(argv[0], argv);
    (void)fprintf(stderr, "millrace: %s: cannot start '%s': %s\n", child->name, argv[0],
                  strerror(errno));
    _exit(127);
}

static void start_child(const struct supervise *s, struct child *child)
{
    char start[24];
    char *argv[CHILD_ARGUMENTS_MAX];
    size_t n = child->argc;

    child->start = random_start();
    (void)snprintf(start, sizeof start, "%016" PRIx64, child->start);
    memcpy(argv, child->argv, n * sizeof *argv);
    if (child->seat[0]) {
        argv[n++] = "--seat";
        argv[n++] = child->seat;
        argv[n++] = "--start";
        argv[n++] = start;
    }
    argv[n] = NULL;
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        become(s, child, argv);
    child->pid = pid > 0 ? pid : 0;
    child->due_us = pid > 0 ? INT64_MAX : clock_now_us() + PAUSE_US;
}

static void start_due(struct supervise *s)
{
    int64_t now_us = clock_now_us();

    for (size_t i = 0; i < s->n && !s->stopping; i++)
        if (s->children[i].pid == 0 && s->children[i].due_us <= now_us)
            start_child(s, &s->children[i]);
}

/* ------------------------------------------------------------------ the bus */

static void send(struct supervise *s, const struct head *head)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    struct status st = {0};

    msg->head = *head;
    /* Lost when there is no gateway at the moment: then beats that stay out tell the same. */
    (void)!link_send_take(s->link, msg, &st);
    heap_free(msg);
}

static void say_hello(struct supervise *s)
{
    struct head head = {.kind = MSG_HELLO,
                        .wire_min = WIRE_VERSION,
                        .wire_max = WIRE_VERSION,
                        .stage = "supervisor",
                        .start = s->start};

    if (s->welcome || clock_now_us() < s->hello_us || !link_can_send(s->link))
        return;
    (void)snprintf(head.seat, sizeof head.seat, "localhost/supervisor/0");
    s->hello_us = clock_now_us() + HELLO_US;
    send(s, &head);
}

static void say_gone(struct supervise *s, const struct child *child)
{
    struct head head = {.kind = MSG_GONE, .start = child->start};

    if (!child->seat[0]) {
        s->welcome = false; /* the gateway itself: say hello to the next one */
        return;
    }
    (void)snprintf(head.seat, sizeof head.seat, "%s", child->seat);
    send(s, &head);
}

/* The gateway asks for the end of a worker that hangs. */
static void end_hung(struct supervise *s, const struct head *head)
{
    for (size_t i = 0; i < s->n; i++) {
        struct child *child = &s->children[i];
        if (child->pid == 0 || strcmp(child->seat, head->seat) != 0 || child->start != head->start)
            continue;
        (void)fprintf(stderr, "millrace: %s hangs and is ended\n", child->name);
        (void)kill(child->pid, SIGKILL);
    }
}

static void read_bus(struct supervise *s)
{
    struct msg *msg = heap_new(1, sizeof *msg);
    struct status st = {0};
    bool bad;

    while (link_receive(s->link, msg, &bad, &st)) {
        if (!bad && msg->head.kind == MSG_WELCOME)
            s->welcome = true;
        if (!bad && msg->head.kind == MSG_REFUSE)
            s->welcome = false;
        if (!bad && msg->head.kind == MSG_GONE)
            end_hung(s, &msg->head);
        msg_clear(msg);
    }
    heap_free(msg);
}

/* ------------------------------------------------------------------ deaths */

static void describe(const struct child *child, int how, char *out, size_t size)
{
    if (WIFSIGNALED(how))
        (void)snprintf(out, size, "%s was ended by signal %d (%s)", child->name, WTERMSIG(how),
                       strsignal(WTERMSIG(how)));
    else
        (void)snprintf(out, size, "%s ended with status %d", child->name, WEXITSTATUS(how));
}

static void plan_restart(struct child *child, const char *what)
{
    int64_t now_us = clock_now_us();

    memmove(child->deaths_us + 1, child->deaths_us, (DEATHS_MAX - 1) * sizeof *child->deaths_us);
    child->deaths_us[0] = now_us;
    size_t recent = 0;
    while (recent < DEATHS_MAX && child->deaths_us[recent] &&
           now_us - child->deaths_us[recent] < DEATHS_US)
        recent++;
    if (recent < DEATHS_MAX) {
        child->due_us = now_us + (recent > 1 ? PAUSE_US : 0);
        if (recent == 1)
            child->rest_us = REST_US_MIN;
        (void)fprintf(stderr, "millrace: %s; started again\n", what);
        return;
    }
    child->due_us = now_us + child->rest_us;
    (void)fprintf(stderr,
                  "millrace: %s, %d times in %d s: circuit open, next try in %" PRId64
                  " s; see its messages above\n",
                  what, DEATHS_MAX, DEATHS_US / 1000000, child->rest_us / 1000000);
    child->rest_us = child->rest_us * 2 < REST_US_MAX ? child->rest_us * 2 : REST_US_MAX;
}

static void reap(struct supervise *s, bool ready)
{
    int how;
    pid_t pid;

    while ((pid = waitpid(-1, &how, WNOHANG)) > 0) {
        for (size_t i = 0; i < s->n; i++) {
            struct child *child = &s->children[i];
            char what[128];
            if (child->pid != pid)
                continue;
            child->pid = 0;
            if (s->stopping)
                continue;
            say_gone(s, child);
            describe(child, how, what, sizeof what);
            if (!ready && WIFEXITED(how)) {
                (void)fprintf(stderr, "millrace: %s before the line was ready\n", what);
                s->given_up = true;
                continue;
            }
            plan_restart(child, what);
        }
    }
}

static void read_signals(struct supervise *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD)
            s->stopping = true;
}

enum supervise_turn supervise_run(struct supervise *s, int timeout_ms, bool ready)
{
    bool readable = false;

    read_signals(s); /* of the time before the first turn: then nothing is started */
    start_due(s);
    say_hello(s);
    (void)link_wait(s->link, &s->signals, 1, &readable, timeout_ms);
    read_signals(s);
    read_bus(s);
    reap(s, ready);
    if (s->stopping)
        return SUPERVISE_STOPPED;
    return s->given_up ? SUPERVISE_GIVEN_UP : SUPERVISE_GOING;
}

/* ------------------------------------------------------------------ the end */

static size_t running(const struct supervise *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++)
        n += s->children[i].pid > 0;
    return n;
}

static void signal_all(const struct supervise *s, int number)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->children[i].pid > 0)
            (void)kill(s->children[i].pid, number);
}

void supervise_free(struct supervise *s)
{
    static const struct timespec pause = {.tv_nsec = 10000000};

    if (!s)
        return;
    s->stopping = true;
    signal_all(s, SIGTERM);
    for (int64_t end_us = clock_now_us() + END_US; running(s) && clock_now_us() < end_us;) {
        reap(s, true);
        if (running(s))
            (void)nanosleep(&pause, NULL);
    }
    signal_all(s, SIGKILL);
    while (running(s)) {
        (void)nanosleep(&pause, NULL);
        reap(s, true);
    }
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->children[i].argc; k++)
            heap_free(s->children[i].argv[k]);
    link_close(s->link);
    if (s->signals >= 0)
        (void)close(s->signals);
    heap_free(s);
}
