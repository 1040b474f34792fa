/* damaged.h - a small model file that a test damages, for what is refused when it is opened. */
#pragma once
#include "engine/base/bytes.h"
#include <stdint.h>

extern struct buffer damaged; /* the file's bytes, to be changed in place */

/* Reads a file of at most 1 MiB in place of what there is; fails the test when it cannot. */
void damaged_read(const char *path);
void damaged_forget(void);
/* Where the text first lies; fails the test when it is not there. */
uint8_t *damaged_find(const char *text);
/* Writes the bytes to a new file, whose name is put in place of the Xs of `path`. */
void damaged_write(char *path);
