#include "services/ingest/parcel.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

bool parcel_send(int fd, const void *data, size_t size, int file, int flags)
{
    union control control = {0};
    struct iovec part = {(void *)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (file >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &file, sizeof file);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | flags) == (ssize_t)size;
}

int parcel_receive(int fd, void *data, size_t size, int *out_file, int flags)
{
    union control control = {0};
    struct iovec part = {data, size};
    /* CMSG_SPACE has room for two files, of which nobody would know. */
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = CMSG_LEN(sizeof(int))};
    *out_file = -1;
    const ssize_t n = recvmsg(fd, &message, flags | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (rights && rights->cmsg_type == SCM_RIGHTS && rights->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(out_file, CMSG_DATA(rights), sizeof *out_file);
    if (n == (ssize_t)size && !(message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)))
        return 1;
    if (*out_file >= 0)
        close(*out_file);
    *out_file = -1;
    return -1;
}
