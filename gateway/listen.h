/* listen.h - an address in words → a socket that listens there. */
#pragma once
#include "gateway/http.h"

/* at: "127.0.0.1:8080", "[::1]:8080"; port 0 takes a free one. Returns a socket that does not block
 * and is the caller's, and in `address` where it listens; -1 when it cannot. */
MUST_CHECK int listen_open(const char *at, char address[HTTP_ADDRESS_MAX], struct status *st);
