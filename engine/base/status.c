#include "engine/base/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[STATUS_CODES] = {
    [STATUS_OK] = "ok",
    [STATUS_INVALID] = "invalid",
    [STATUS_NOT_FOUND] = "not_found",
    [STATUS_UNSUPPORTED] = "unsupported",
    [STATUS_CORRUPT] = "corrupt",
    [STATUS_LIMIT] = "limit",
    [STATUS_BUSY] = "busy",
    [STATUS_DEADLINE] = "deadline",
    [STATUS_CANCELLED] = "cancelled",
    [STATUS_SYSTEM] = "system",
    [STATUS_INTERNAL] = "internal",
    [STATUS_UNAVAILABLE] = "unavailable",
    [STATUS_DENIED] = "denied",
    [STATUS_POISON] = "poison",
    [STATUS_TOO_LARGE] = "too_large",
};

void status_set(struct status *st, enum status_code code, const char *format, ...)
{
    va_list args;

    st->code = code;
    st->sys = 0;
    va_start(args, format);
    (void)vsnprintf(st->text, sizeof st->text, format, args);
    va_end(args);
}

void status_set_sys(struct status *st, int sys, const char *format, ...)
{
    char what[sizeof st->text];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    st->code = STATUS_SYSTEM;
    st->sys = sys;
    (void)snprintf(st->text, sizeof st->text, "%.150s: %.80s", what, strerror(sys));
}

void status_prepend(struct status *st, const char *format, ...)
{
    char inner[sizeof st->text];
    char outer[sizeof st->text];
    va_list args;

    memcpy(inner, st->text, sizeof inner);
    va_start(args, format);
    (void)vsnprintf(outer, sizeof outer, format, args);
    va_end(args);
    /* When both do not fit, the innermost is cut: the outer parts say where to look. */
    (void)snprintf(st->text, sizeof st->text, "%.100s: %.137s", outer, inner);
}

const char *status_name(enum status_code code)
{
    if ((int)code < 0 || code >= STATUS_CODES)
        return "unknown";
    return names[code];
}
