/* random_model.h - small decoders with random weights of any storage type, made by the test. */
#pragma once
#include "engine/quant/quant.h"
#include <stdbool.h>
#include <stdint.h>

#define RANDOM_MODEL_PATH 64
#define RANDOM_MODEL_VOCABULARY 512

struct random_model {
    enum dtype type;  /* of every matrix, the embedding included */
    bool experts;     /* beside the MLP: 2 of 6 */
    bool router_ties; /* all experts have the same probability */
    uint32_t seed;
};

/* Write the file in a place of its own and its path to out; the caller unlinks it. A
 * sliding layer (window 48) and a full one; width 128, or 256 where blocks have 256 values. */
void random_model_write(char out[RANDOM_MODEL_PATH], const struct random_model *shape);
