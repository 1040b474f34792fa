/* random_model.h - a decoder file of the 12B's shape with random weights, for measuring speed. */
#pragma once
#include "engine/base/status.h"
#include "engine/quant/quant.h"
#include <stddef.h>

/* Write a model of `layers` layers (a multiple of 6, as the pattern of full layers goes; the 12B
 * has 48) and the 12B's widths and vocabulary to `path`. Matrices of layers have type `layer`, the
 * embedding `embedding`: Q4_0, Q8_0 or Q6_K. Shows progress on a terminal. Fails when the disk
 * does. */
MUST_CHECK bool random_model_write(const char *path, size_t layers, enum dtype layer,
                                   enum dtype embedding, struct status *st);
