#define I8MM
#include "engine/kernels/probe_neon.c"
