/* json_scan.h - reads JSON from its text, one piece after the other, in bounded memory.
 *
 * (Not json_: those names are the library's that other parts link.) Stricter than Python: no NaN or
 * Infinity, no lone surrogates. Errors are STATUS_INVALID and say at which byte; nesting beyond
 * JSON_SCAN_DEPTH_MAX is STATUS_LIMIT. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define JSON_SCAN_DEPTH_MAX 64
#define JSON_SCAN_DIGITS_MAX 4300 /* of one number; where Python stops */

/* A place in a text that outlives it and is UTF-8 (utf8_valid_prefix). */
struct json_scan {
    struct span text;
    size_t at;
    size_t depth;
};

/* The byte that the next value starts with, behind white space; -1: the text ends. */
int json_scan_peek(struct json_scan *json);
/* Fails: "byte N: why". */
MUST_CHECK bool json_scan_refuse(const struct json_scan *json, const char *why, struct status *st);

/* A string; its decoded bytes, never more than it is spelled with, are appended to `out`. */
MUST_CHECK bool json_scan_string(struct json_scan *json, struct buffer *out, struct status *st);
/* A number as it is written: a view into the text. */
MUST_CHECK bool json_scan_number(struct json_scan *json, struct span *out, struct status *st);
/* true, false or null. */
MUST_CHECK bool json_scan_word(struct json_scan *json, const char *word, struct status *st);
/* Go over any value. */
MUST_CHECK bool json_scan_skip(struct json_scan *json, struct status *st);
/* Only white space may follow. */
MUST_CHECK bool json_scan_end(struct json_scan *json, struct status *st);

/* A walk through an array or object; starts zeroed. */
struct json_walk {
    bool begun;
    bool ended; /* all was read */
};
/* True while another element, or member of an object, stands there: it is read next. opener: '[' or
 * '{'. After false walk->ended tells the end from a failure. */
MUST_CHECK bool json_scan_next(struct json_scan *json, int opener, struct json_walk *walk,
                               struct status *st);
/* A member's name, which is appended to `out`, and its colon. */
MUST_CHECK bool json_scan_key(struct json_scan *json, struct buffer *out, struct status *st);
/* Both of an object. The name takes the place of what `name` held. */
MUST_CHECK bool json_scan_member(struct json_scan *json, struct json_walk *walk,
                                 struct buffer *name, struct status *st);
