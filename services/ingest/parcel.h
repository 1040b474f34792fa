/* parcel.h - a struct, and a file beside it, over a socket pair of the keeper and a child. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* file: -1 for none; the kernel holds it for the other side from here on. flags: of sendmsg. */
bool parcel_send(int fd, const void *data, size_t size, int file, int flags);

/* One message of `size` bytes, and the file that came with it (-1: none, or more than one); the
 * caller closes it. 1: got one, 0: none yet, -1: no such message, and no file. flags: of recvmsg.
 */
int parcel_receive(int fd, void *data, size_t size, int *out_file, int flags);
