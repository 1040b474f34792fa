#include "proto/address.h"
#include "proto/link.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

void link_default_address(char out[LINK_ADDRESS_MAX])
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    /* A longer one does not fit a socket address anyhow. */
    if (runtime && runtime[0] == '/' && strlen(runtime) < 80)
        (void)snprintf(out, LINK_ADDRESS_MAX, "ipc://%s/millrace/bus", runtime);
    else
        (void)snprintf(out, LINK_ADDRESS_MAX, "ipc:///tmp/millrace-%u/bus", (unsigned)geteuid());
}

/* The directory of an ipc socket keeps others away from it, so it must be ours alone. */
static bool check_directory(const char *path, struct status *st)
{
    struct sockaddr_un room;
    struct stat info;
    char directory[sizeof room.sun_path];
    const char *slash = strrchr(path, '/');

    if (!slash || path[0] != '/' || slash == path || slash[1] == 0)
        return status_fail(st, STATUS_INVALID, "ipc:// needs an absolute path in a directory");
    if (strlen(path) >= sizeof directory)
        return status_fail(st, STATUS_LIMIT, "the path has %zu bytes, allowed are %zu",
                           strlen(path), sizeof directory - 1);
    (void)snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
    if (mkdir(directory, 0700) != 0 && errno != EEXIST)
        return status_fail_sys(st, errno, "make directory '%s'", directory);
    if (lstat(directory, &info) != 0)
        return status_fail_sys(st, errno, "directory '%s'", directory);
    if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0)
        return status_fail(st, STATUS_DENIED,
                           "'%s' must be a directory of this user with mode 0700", directory);
    return true;
}

static bool check_tcp(const char *rest, struct status *st)
{
    const char *colon = strrchr(rest, ':');
    char host[64];
    struct in_addr address;
    char *end;

    if (!colon || colon == rest || (size_t)(colon - rest) >= sizeof host)
        return status_fail(st, STATUS_INVALID, "tcp:// needs address:port");
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - rest), rest);
    long port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port < 1 || port > 65535)
        return status_fail(st, STATUS_INVALID, "the port is no number from 1 to 65535");
    if (inet_pton(AF_INET, host, &address) != 1 || ntohl(address.s_addr) >> 24 != 127)
        return status_fail(st, STATUS_DENIED,
                           "beyond this host messages would travel unencrypted, which is refused; "
                           "use ipc:// or tcp://127.0.0.1:port");
    return true;
}

bool address_check(const char *address, struct status *st)
{
    if (strlen(address) >= LINK_ADDRESS_MAX)
        return status_fail(st, STATUS_LIMIT, "longer than %d bytes", LINK_ADDRESS_MAX - 1);
    if (strncmp(address, "ipc://", 6) == 0)
        return check_directory(address + 6, st);
    if (strncmp(address, "tcp://", 6) == 0)
        return check_tcp(address + 6, st);
    return status_fail(st, STATUS_UNSUPPORTED, "neither ipc:// nor tcp://");
}

bool address_check_unused(const char *address, struct status *st)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    if (strncmp(address, "ipc://", 6) != 0)
        return true;
    (void)snprintf(name.sun_path, sizeof name.sun_path, "%s", address + 6);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return status_fail_sys(st, errno, "socket");
    bool used = connect(fd, (const struct sockaddr *)&name, sizeof name) == 0;
    (void)close(fd);
    if (used)
        return status_fail(st, STATUS_BUSY, "another process listens there");
    return true;
}
