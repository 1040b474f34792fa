#include "engine/kernels/kernels.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/sets.h"
#include <assert.h>

/* clang-format off */
#define ROW(dtype, needs, act_block, run) {dtype, needs, act_block, run, #run}

static const struct matmul_row rows[] = {
    ROW(DTYPE_Q8_0, 0, 32, matmul_q8_0_c),
    ROW(DTYPE_Q4_0, 0, 32, matmul_q4_0_c),
    ROW(DTYPE_Q6_K, 0, 256, matmul_q6_k_c),
};

/* What a storage type gets that has no row: slow, and right at once. */
static const struct matmul_row any_type = ROW(DTYPE_F32, 0, 0, matmul_float_c);

/* Best first. */
static const struct kernel_set sets[] = {
    {
        .name = "c", .needs = 0, .round_row = round_row_c, .rmsnorm = rmsnorm_c,
        .add_scale = add_scale_c, .gelu_mul = gelu_mul_c, .softcap = softcap_c, .rope = rope_c,
        .attend = attend_c,
    },
};
/* clang-format on */

const struct matmul_row *matmul_find(enum dtype dtype, bool rounded)
{
    uint32_t features = cpu_features();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].dtype == dtype && (rows[i].act_block != 0) == rounded &&
            (rows[i].needs & ~features) == 0)
            return &rows[i];
    return rounded ? NULL : &any_type;
}

const struct kernel_set *kernels_find(void)
{
    uint32_t features = cpu_features();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if ((sets[i].needs & ~features) == 0)
            return &sets[i];
    assert(false); /* the last row needs nothing */
    return NULL;
}
