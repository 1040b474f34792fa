/* client.h - HTTP from the command line to a gateway; the only file that speaks libcurl. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"

/* GET; the body is appended to out. Fails when nobody answers; any HTTP status is success. */
MUST_CHECK bool client_get(const char *url, struct buffer *out, long *out_http, struct status *st);

/* One line of an event stream (without its newline), or a piece of any other body. Returning false
 * ends the transfer. */
typedef bool client_line(void *context, struct span line);

/* POST a JSON body; a 200 answer goes to `line` line by line as it comes; the body of any other
 * answer is appended to error_body. Ctrl-C ends the process, and with it the request. */
MUST_CHECK bool client_post(const char *url, struct span json, client_line *line, void *context,
                            long *out_http, struct buffer *error_body, struct status *st);
