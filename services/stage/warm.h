/* warm.h - reads a model file through once, so that a cold disk never looks like a hang. */
#pragma once
#include "engine/base/status.h"
#include <stdint.h>

/* Brings the file into the page cache; on a terminal shows a bar, else a log line every two
 * seconds. A file that is cached already costs a few milliseconds, unless its SHA-256 is wanted
 * too: out_hash [HASH_BYTES] (engine/base/hash.h), or NULL. */
MUST_CHECK bool warm_read(const char *path, uint8_t *out_hash, struct status *st);
