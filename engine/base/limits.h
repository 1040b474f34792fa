/* limits.h - what the operating system lets this process have. */
#pragma once

/* As many open files as the hard limit says: a process is usually allowed 1024 until it asks for
 * more. Where that fails, the old limit stays. */
void limits_allow_files(void);
