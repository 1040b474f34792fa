/* types.h - the rows of the table in quant.c, one per file of this folder. */
#pragma once
#include "engine/quant/quant.h"

extern const struct quant_row quant_f32;
extern const struct quant_row quant_f16;
extern const struct quant_row quant_bf16;
extern const struct quant_row quant_q8_0;
extern const struct quant_row quant_q4_0;
extern const struct quant_row quant_q6_k;
