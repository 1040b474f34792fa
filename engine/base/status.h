/* status.h - how a call says that it failed, and why. */
#pragma once
#include <stdbool.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

/* The numbers travel on the wire: append, never renumber. */
enum status_code {
    STATUS_OK = 0,
    STATUS_INVALID = 1,      /* the request or the argument is wrong */
    STATUS_NOT_FOUND = 2,    /* a file, model or name is not there */
    STATUS_UNSUPPORTED = 3,  /* well formed, but not something we do */
    STATUS_CORRUPT = 4,      /* a file or message contradicts itself */
    STATUS_LIMIT = 5,        /* a named limit was passed */
    STATUS_BUSY = 6,         /* no room now; try again later */
    STATUS_DEADLINE = 7,     /* the time allowed is over */
    STATUS_CANCELLED = 8,    /* nobody waits for the answer any more */
    STATUS_SYSTEM = 9,       /* the operating system refused; see `sys` */
    STATUS_INTERNAL = 10,    /* our fault */
    STATUS_UNAVAILABLE = 11, /* no process can do this at the moment */
    STATUS_DENIED = 12,      /* not allowed for this caller */
    STATUS_POISON = 13,      /* refused: it ended a process twice while alone in it */
    STATUS_TOO_LARGE = 14,   /* a body or a medium is larger than allowed */
    STATUS_CODES
};

struct status {
    enum status_code code;
    int sys;        /* errno of the failing call, 0 when none */
    char text[240]; /* outermost first: "weights 'a.gguf': header: shorter than 4 bytes" */
};

/* Record a failure. All three are false, so that `return status_fail(...)` reads well; they are
 * macros so that compilers and analyzers see it. */
#define status_fail(st, code, ...) (status_set((st), (code), __VA_ARGS__), false)

/* As status_fail with STATUS_SYSTEM; the text of `sys` (an errno) is appended. */
#define status_fail_sys(st, sys, ...) (status_set_sys((st), (sys), __VA_ARGS__), false)

/* Put "format: " before the text that is there. */
#define status_wrap(st, ...) (status_prepend((st), __VA_ARGS__), false)

void status_set(struct status *st, enum status_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);
void status_set_sys(struct status *st, int sys, const char *format, ...) PRINTF_LIKE(3, 4);
void status_prepend(struct status *st, const char *format, ...) PRINTF_LIKE(2, 3);

/* "invalid", "not_found", ...; "unknown" for a number that is none of ours. Static. */
const char *status_name(enum status_code code);
