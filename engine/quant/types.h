/* types.h - the rows of the table in quant.c, one per file of this folder. */
#pragma once
#include "engine/quant/quant.h"

extern const struct quant_row quant_f32;
extern const struct quant_row quant_f16;
extern const struct quant_row quant_bf16;
extern const struct quant_row quant_q8_0;
extern const struct quant_row quant_q4_0;
extern const struct quant_row quant_q6_k;
extern const struct quant_row quant_q4_1;
extern const struct quant_row quant_q5_0;
extern const struct quant_row quant_q5_1;
extern const struct quant_row quant_q2_k;
extern const struct quant_row quant_q3_k;
extern const struct quant_row quant_q4_k;
extern const struct quant_row quant_q5_k;
extern const struct quant_row quant_iq4_nl;
extern const struct quant_row quant_iq4_xs;
extern const struct quant_row quant_mxfp4;
