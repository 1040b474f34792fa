/* golden.h - the golden bytes of the wire, tests/golden/wire. */
#pragma once
#include "engine/base/bytes.h"

/* Every file there, without ".hex"; "turns" is the only one that is no head. */
extern const char *const golden_names[];
extern const size_t golden_n;
/* The bytes of a file; a missing or odd one fails the test. The caller clears. */
struct buffer golden_read(const char *name);

/* The bytes of a literal, without its end. */
#define B(text) span_of(text, sizeof(text) - 1)

/* What random tests start from: MILLRACE_SEED, or a fixed number. It is printed. */
uint64_t golden_seed(void);
uint64_t golden_random(uint64_t *state); /* splitmix64 */

/* Bytes asked of malloc since the last call with reset, by anybody; where sanitizers count. */
bool golden_counts(void);
void golden_count_reset(void);
size_t golden_counted(void);
