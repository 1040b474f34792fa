/* doctor: is everything here that the line needs? One line a check, and what to do. */
#include "engine/kernels/cpu.h"
#include "services/millrace/commands.h"
#include "services/millrace/fit.h"
#include <errno.h>
#include <getopt.h>
#include <glob.h>
#include <inttypes.h>
#include <libgen.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FILES_WANTED 1024

static const char usage[] =
    "usage: millrace doctor [--model FILE] [--media FILE] [--listen HOST:PORT]\n"
    "  Checks CPU, memory, limits, programs, media plugins, the port and, when given, the model\n"
    "  files; says what to do about what is missing. Exit status 1 when something is.\n";

struct doctor {
    int bad;
    const char *model, *media, *listen;
};

static void verdict(struct doctor *d, bool ok, const char *what, const char *format, ...)
    PRINTF_LIKE(4, 5);
static void verdict(struct doctor *d, bool ok, const char *what, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)printf("%-6s %-14s ", ok ? "ok" : "WRONG", what);
    (void)vprintf(format, args);
    (void)putchar('\n');
    va_end(args);
    d->bad += !ok;
}

static void check_cpu(struct doctor *d)
{
    uint32_t features = cpu_features();
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

#if defined(__x86_64__)
    verdict(d, features & CPU_AVX2, "cpu", "%ld cores;%s%s%s%s", cores,
            features & CPU_AVX2 ? " AVX2" : " no AVX2, FMA or F16C: it would be far too slow",
            features & CPU_AVX_VNNI ? " AVX-VNNI" : "", features & CPU_AVX512 ? " AVX-512" : "",
            features & CPU_VNNI ? " VNNI" : "");
#else
    verdict(d, features & CPU_NEON, "cpu", "%ld cores;%s%s", cores,
            features & CPU_NEON ? " NEON with dot products"
                                : " no NEON with dot products: it would be far too slow",
            features & CPU_I8MM ? ", I8MM" : "");
#endif
}

static void check_limits(struct doctor *d)
{
    struct rlimit files;
    struct rlimit memory;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        verdict(d, files.rlim_cur >= FILES_WANTED, "open files", "%ju allowed%s",
                (uintmax_t)files.rlim_cur,
                files.rlim_cur >= FILES_WANTED ? "" : "; 1024 are wanted: ulimit -n 1024");
    if (getrlimit(RLIMIT_AS, &memory) == 0)
        verdict(d, memory.rlim_cur == RLIM_INFINITY, "address space", "%s",
                memory.rlim_cur == RLIM_INFINITY
                    ? "unlimited"
                    : "limited: a model file cannot be mapped; ulimit -v unlimited");
}

static void check_programs(struct doctor *d)
{
    static const char *const names[] = {"gateway", "ingest", "encode", "infer", "format"};
    char self[512];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    self[n > 0 ? n : 0] = 0;
    const char *folder = dirname(self);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600];
        (void)snprintf(path, sizeof path, "%s/millrace-%s", folder, names[i]);
        if (access(path, X_OK) != 0) {
            verdict(d, false, "programs",
                    "%s is missing: build it (cmake --build --preset release)", path);
            return;
        }
    }
    verdict(d, true, "programs", "all five in %s", folder);
}

static bool plugin_there(const char *name)
{
    char pattern[128];
    glob_t found;

    (void)snprintf(pattern, sizeof pattern, "/usr/lib/*/gstreamer-1.0/libgst%s.so", name);
    bool there = glob(pattern, 0, NULL, &found) == 0;
    globfree(&found);
    return there;
}

static void check_plugins(struct doctor *d)
{
    static const struct {
        const char *plugin, *what, *package;
    } wanted[] = {
        {"app", "all media", "gstreamer1.0-plugins-base"},
        {"audioresample", "sound", "gstreamer1.0-plugins-base"},
        {"png", "PNG", "gstreamer1.0-plugins-good"},
        {"gdkpixbuf", "JPEG", "gstreamer1.0-plugins-good"},
        {"wavparse", "WAV", "gstreamer1.0-plugins-good"},
        {"flac", "FLAC", "gstreamer1.0-plugins-good"},
        {"webp", "WebP", "gstreamer1.0-plugins-bad"},
        {"opus", "Opus", "gstreamer1.0-plugins-base"},
        {"vorbis", "Vorbis", "gstreamer1.0-plugins-base"},
        {"isomp4", "MP4", "gstreamer1.0-plugins-good"},
        {"mpg123", "MP3", "gstreamer1.0-plugins-good"},
        {"ogg", "Ogg", "gstreamer1.0-plugins-base"},
        {"faad", "AAC", "gstreamer1.0-plugins-bad"},
        {"matroska", "WebM and MKV", "gstreamer1.0-plugins-good"},
        {"libav", "video", "gstreamer1.0-libav"},
    };
    size_t missing = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (plugin_there(wanted[i].plugin))
            continue;
        missing++;
        verdict(d, false, "media", "%s cannot be read: apt-get install %s", wanted[i].what,
                wanted[i].package);
    }
    if (missing == 0)
        verdict(d, true, "media", "PNG, JPEG, WebP, WAV, FLAC, MP3, Ogg, MP4 and WebM can be read");
}

static void check_port(struct doctor *d)
{
    char host[64];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICHOST};
    struct addrinfo *found = NULL;

    (void)snprintf(host, sizeof host, "%s", d->listen);
    char *colon = strrchr(host, ':');
    if (!colon) {
        verdict(d, false, "port", "'%s': HOST:PORT is wanted", d->listen);
        return;
    }
    *colon = 0;
    bool bracketed = host[0] == '[' && colon > host + 1 && colon[-1] == ']';
    if (bracketed)
        colon[-1] = 0;
    int failed = getaddrinfo(host + bracketed, colon + 1, &hints, &found);
    if (failed) {
        verdict(d, false, "port", "%s: %s", d->listen, gai_strerror(failed));
        return;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool ok = bind(fd, found->ai_addr, found->ai_addrlen) == 0;
    int sys = errno;
    (void)close(fd);
    freeaddrinfo(found);
    if (ok)
        verdict(d, true, "port", "%s is free", d->listen);
    else
        verdict(d, false, "port", "%s: %s%s", d->listen, strerror(sys),
                sys == EACCES ? "; ports below 1024 are for root: choose another with --listen"
                              : "; another line may run there, or choose --listen");
}

static void check_model(struct doctor *d)
{
    struct fit fit;
    struct status st = {0};

    if (!d->model) {
        (void)printf("%-6s %-14s none given; --model FILE checks one\n", "-", "model");
        return;
    }
    if (!fit_read(&fit, d->model, d->media ? d->media : "", 1024, "", &st)) {
        verdict(d, false, "model", "%s", st.text);
        return;
    }
    uint64_t context = fit_context(d->model, "f16", fit.available_bytes);
    if (context)
        verdict(d, true, "model", "%s of weights, %s free: a context of %" PRIu64 " tokens fits",
                fit_bytes(fit.file_bytes), fit_bytes(fit.available_bytes), context);
    else
        verdict(d, false, "model", "%s of weights do not fit into %s that are free",
                fit_bytes(fit.file_bytes), fit_bytes(fit.available_bytes));
}

int doctor_main(int argc, char **argv)
{
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"media", required_argument, NULL, 'd'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct doctor d = {.listen = "127.0.0.1:8080"};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return 0;
        }
        if (option == '?')
            return 2;
        if (option == 'm')
            d.model = optarg;
        if (option == 'd')
            d.media = optarg;
        if (option == 'l')
            d.listen = optarg;
    }
    if (optind < argc) {
        (void)fprintf(stderr, "doctor: '%s' is no option\n\n%s", argv[optind], usage);
        return 2;
    }
    check_cpu(&d);
    check_limits(&d);
    check_programs(&d);
    check_plugins(&d);
    check_port(&d);
    check_model(&d);
    if (d.bad)
        (void)printf("\n%d of these stand in the way\n", d.bad);
    else
        (void)printf("\nnothing stands in the way\n");
    return d.bad ? 1 : 0;
}
