/* manifest.h - a text file of SHA-256 hashes and names, as sha256sum writes it, and whether model
 * files agree with it. */
#pragma once
#include "engine/base/status.h"

struct weights; /* engine/weights/weights.h */

#define MANIFEST_BYTES_MAX ((size_t)1 << 20)

/* Read every file of `w` through once, with progress (warm.h), and compare its hash with the line
 * of its name, folders left out. Refuses, naming the file: another hash, no line, two lines that
 * differ; and a line that is none. Lines of other files are not looked at. */
MUST_CHECK bool manifest_check(const char *path, const struct weights *w, struct status *st);
