/* clock.h - monotonic time. */
#pragma once
#include <stdint.h>

/* Microseconds of CLOCK_MONOTONIC. */
int64_t clock_now_us(void);
