#include "gateway/listen.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_BACKLOG 128

static bool split_address(const char *listen, char *host, size_t host_size, const char **port,
                          struct status *st)
{
    const char *colon = strrchr(listen, ':');
    const char *from = listen;
    const char *to = colon;

    if (!colon || colon[1] == 0)
        return status_fail(st, STATUS_INVALID, "address '%s': not ADDRESS:PORT", listen);
    if (*from == '[' && to > from && to[-1] == ']') {
        from++;
        to--;
    }
    if ((size_t)(to - from) >= host_size)
        return status_fail(st, STATUS_INVALID, "address '%s': too long", listen);
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    *port = colon + 1;
    /* getaddrinfo would take what is left of a larger number. */
    if (strspn(*port, "0123456789") != strlen(*port) || strlen(*port) > 5 || atoi(*port) > 65535)
        return status_fail(st, STATUS_INVALID, "address '%s': no port from 0 to 65535", listen);
    return true;
}

static bool note_address(int fd, char *out, struct status *st)
{
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    char host[INET6_ADDRSTRLEN];
    char port[8];

    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        return status_fail_sys(st, errno, "getsockname");
    if (getnameinfo((struct sockaddr *)&at, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return status_fail(st, STATUS_SYSTEM, "getnameinfo");
    bool six = strchr(host, ':') != NULL;
    (void)snprintf(out, HTTP_ADDRESS_MAX, "%s%s%s:%s", six ? "[" : "", host, six ? "]" : "", port);
    return true;
}

int listen_open(const char *at, char address[HTTP_ADDRESS_MAX], struct status *st)
{
    struct addrinfo wish = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                            .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char host[HTTP_ADDRESS_MAX];
    const char *port = NULL;
    int yes = 1;

    if (!split_address(at, host, sizeof host, &port, st))
        return -1;
    int how = getaddrinfo(host, port, &wish, &found);
    if (how != 0) {
        (void)status_fail(st, STATUS_INVALID, "address '%s': %s", at,
                          how == EAI_NONAME ? "numbers are wanted, like 127.0.0.1:8080"
                                            : gai_strerror(how));
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
              bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0;
    int sys = errno;
    freeaddrinfo(found);
    ok = ok ? note_address(fd, address, st) : status_fail_sys(st, sys, "listen on '%s'", at);
    if (!ok && fd >= 0)
        (void)close(fd);
    return ok ? fd : -1;
}
