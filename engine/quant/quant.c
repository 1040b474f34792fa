#include "engine/quant/quant.h"
#include "engine/quant/types.h"
#include <string.h>

static const struct quant_row quant_i8 = {
    .dtype = DTYPE_I8, .name = "i8", .block_values = 1, .block_bytes = 1};
static const struct quant_row quant_i16 = {
    .dtype = DTYPE_I16, .name = "i16", .block_values = 1, .block_bytes = 2};
static const struct quant_row quant_i32 = {
    .dtype = DTYPE_I32, .name = "i32", .block_values = 1, .block_bytes = 4};

static const struct quant_row *const rows[] = {
    &quant_f32,    &quant_f16,   &quant_bf16, &quant_q8_0, &quant_q4_0, &quant_q4_1, &quant_q5_0,
    &quant_q5_1,   &quant_q2_k,  &quant_q3_k, &quant_q4_k, &quant_q5_k, &quant_q6_k, &quant_iq4_nl,
    &quant_iq4_xs, &quant_mxfp4, &quant_i8,   &quant_i16,  &quant_i32,
};

const struct quant_row *quant_find(uint32_t dtype)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((uint32_t)rows[i]->dtype == dtype)
            return rows[i];
    return NULL;
}

/* All numbers that ggml has given out and not taken back (spec weights.md section 6). */
static const char *const names[] = {
    [0] = "f32",     [1] = "f16",      [2] = "q4_0",   [3] = "q4_1",    [6] = "q5_0",
    [7] = "q5_1",    [8] = "q8_0",     [9] = "q8_1",   [10] = "q2_k",   [11] = "q3_k",
    [12] = "q4_k",   [13] = "q5_k",    [14] = "q6_k",  [15] = "q8_k",   [16] = "iq2_xxs",
    [17] = "iq2_xs", [18] = "iq3_xxs", [19] = "iq1_s", [20] = "iq4_nl", [21] = "iq3_s",
    [22] = "iq2_s",  [23] = "iq4_xs",  [24] = "i8",    [25] = "i16",    [26] = "i32",
    [27] = "i64",    [28] = "f64",     [29] = "iq1_m", [30] = "bf16",   [34] = "tq1_0",
    [35] = "tq2_0",  [39] = "mxfp4",   [40] = "nvfp4",
};

const char *quant_name(uint32_t dtype)
{
    if (dtype < sizeof names / sizeof *names && names[dtype])
        return names[dtype];
    return "unknown";
}
