/* warm.h - reads a model file through once, so that a cold disk never looks like a hang. */
#pragma once
#include "engine/base/status.h"

/* Brings the file into the page cache; on a terminal shows a bar, else a log line every two
 * seconds. A file that is cached already costs a few milliseconds. */
MUST_CHECK bool warm_read(const char *path, struct status *st);
