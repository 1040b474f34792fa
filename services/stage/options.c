#include "services/stage/options.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const struct stage_option_row common[] = {
    {"bus", "ADDRESS", "where the gateway listens: ipc:///DIRECTORY/NAME or tcp://127.0.0.1:PORT"},
    {"seat", "HOST/STAGE/INDEX", "the place this process fills; stays when it is started again"},
    {"start", "HEX16", "number of this start, given by a supervisor; the process ends with it"},
    {NULL, NULL, NULL},
};

/* Reads "--name value" or "--name=value" at argv[*at] and moves on. *value is NULL when there is
 * none. False when something else is there. */
static bool read_option(const struct stage_options *options, int *at, struct span *name,
                        const char **value)
{
    const char *word = options->argv[*at];

    if (strncmp(word, "--", 2) != 0)
        return false;
    const char *equals = strchr(word, '=');
    *name = span_of(word + 2, equals ? (size_t)(equals - word) - 2 : strlen(word) - 2);
    *value = NULL;
    *at += 1;
    if (equals)
        *value = equals + 1;
    else if (*at < options->argc && !span_is(*name, "help"))
        *value = options->argv[(*at)++];
    return true;
}

const char *stage_option(const struct stage_options *options, const char *name,
                         const char *fallback)
{
    const char *found = fallback;
    const char *value;
    struct span word;

    for (int i = 1; i < options->argc;) {
        if (!read_option(options, &i, &word, &value))
            i++;
        else if (span_is(word, name) && value)
            found = value; /* the last one counts */
    }
    return found;
}

bool stage_number(const struct stage_options *options, const char *name, const char *fallback,
                  uint64_t min, uint64_t max, uint64_t *out, struct status *st)
{
    const char *text = stage_option(options, name, fallback);

    return span_number(span_text(text), min, max, out) ||
           status_fail(st, STATUS_INVALID,
                       "--%s '%s': a number from %" PRIu64 " to %" PRIu64 " is wanted", name, text,
                       min, max);
}

static bool has_row(const struct stage_option_row *rows, struct span name)
{
    for (; rows && rows->name; rows++)
        if (span_is(name, rows->name))
            return true;
    return false;
}

static void print_rows(const struct stage_option_row *rows)
{
    for (; rows && rows->name; rows++) {
        int n = printf("  --%s %s", rows->name, rows->value);
        (void)printf("%*s%s\n", n < 30 ? 30 - n : 1, "", rows->what);
    }
}

static void print_help(const struct stage *stage)
{
    char bus[LINK_ADDRESS_MAX];

    link_default_address(bus);
    (void)printf("millrace-%s: the %s stage of a line.\n", stage->name, stage->name);
    if (stage->about)
        (void)printf("%s\n", stage->about);
    (void)printf(
        "\nIt connects to a gateway, says hello, and does the jobs it is given until it is "
        "told to stop.\n\nOptions:\n");
    print_rows(stage->options);
    print_rows(common);
    (void)printf("\nWithout --bus it connects to %s\n"
                 "MILLRACE_LOG=debug, info, warn or error chooses what is logged.\n",
                 bus);
}

static bool read_seat(struct stage_settings *out, const char *stage, const char *seat,
                      struct status *st)
{
    char host[64] = "localhost";

    if (!seat) {
        (void)gethostname(host, sizeof host - 1);
        (void)snprintf(out->seat, sizeof out->seat, "%s/%.*s/0", host, STAGE_NAME_MAX, stage);
        return true;
    }
    if (strlen(seat) >= sizeof out->seat || seat[0] == 0)
        return status_fail(st, STATUS_INVALID, "--seat: 1 to %zu characters", sizeof out->seat - 1);
    for (const char *c = seat; *c; c++)
        if (*c <= ' ' || *c > '~')
            return status_fail(st, STATUS_INVALID, "--seat: letters, digits and signs only");
    (void)snprintf(out->seat, sizeof out->seat, "%s", seat);
    return true;
}

static bool read_start(struct stage_settings *out, const char *start, struct status *st)
{
    if (!start) {
        if (getrandom(&out->start, sizeof out->start, 0) != (ssize_t)sizeof out->start)
            return status_fail(st, STATUS_SYSTEM, "no random number for --start");
        return true;
    }
    if (strlen(start) != 16 || strspn(start, "0123456789abcdefABCDEF") != 16)
        return status_fail(st, STATUS_INVALID, "--start '%.40s': not 16 hexadecimal digits", start);
    out->start = strtoull(start, NULL, 16);
    out->supervised = true;
    return true;
}

bool stage_settings_read(struct stage_settings *out, const struct stage *stage,
                         const struct stage_options *options, struct status *st)
{
    struct stage_settings settings = {.help = false};
    const char *value;
    struct span name;

    for (int i = 1; i < options->argc;) {
        const char *word = options->argv[i];
        if (!read_option(options, &i, &name, &value))
            return status_fail(st, STATUS_INVALID, "'%.80s' is not an option", word);
        if (span_is(name, "help")) {
            print_help(stage);
            out->help = true;
            return true;
        }
        if (!has_row(common, name) && !has_row(stage->options, name))
            return status_fail(st, STATUS_INVALID, "unknown option '%.80s'; --help lists them",
                               word);
        if (!value)
            return status_fail(st, STATUS_INVALID, "'%.80s' needs a value", word);
    }
    const char *bus = stage_option(options, "bus", NULL);
    if (!bus)
        link_default_address(settings.bus);
    else if (strlen(bus) < sizeof settings.bus)
        (void)snprintf(settings.bus, sizeof settings.bus, "%s", bus);
    else
        return status_fail(st, STATUS_LIMIT, "--bus: longer than %d bytes", LINK_ADDRESS_MAX - 1);
    if (!read_seat(&settings, stage->name, stage_option(options, "seat", NULL), st) ||
        !read_start(&settings, stage_option(options, "start", NULL), st))
        return false;
    *out = settings;
    return true;
}
