/* address.h - which addresses a bus may have (link.h says which). */
#pragma once
#include "engine/base/status.h"

/* Makes the directory of an ipc socket when it is missing. False: what is wrong with it. */
MUST_CHECK bool address_check(const char *address, struct status *st);
/* Nobody listens there. ZeroMQ removes a socket file that is in its way, also one that somebody
 * listens at, so a bus asks first. */
MUST_CHECK bool address_check_unused(const char *address, struct status *st);
