#include "engine/kernels/sets.h"
#include <arm_neon.h>

#define STREAMS 4
#define AHEAD_BYTES 2048    /* of what is prefetched: past the hardware's own reach */
#define CHAINS ((size_t)16) /* independent sums: covers the latency of a multiply-add */

#ifdef I8MM
#define PROBE_INT8 probe_int8_neon_i8mm
#define PRODUCTS 32 /* of an instruction */
#define MULTIPLY vmmlaq_s32
#else
#define PROBE_INT8 probe_int8_neon
#define PRODUCTS 16
#define MULTIPLY vdotq_s32

uint64_t probe_read_neon(const void *data, size_t size)
{
    const uint8_t *at = data;
    size_t part = size / STREAMS;
    uint64x2_t sum[STREAMS] = {0};

    for (size_t i = 0; i < part; i += 64) {
        for (size_t s = 0; s < STREAMS; s++) {
            const uint8_t *here = at + s * part + i;
            __builtin_prefetch(here + AHEAD_BYTES, 0, 3);
            for (size_t k = 0; k < 64; k += 16)
                sum[s] = vaddq_u64(sum[s], vreinterpretq_u64_u8(vld1q_u8(here + k)));
        }
    }
    return vaddvq_u64(vaddq_u64(vaddq_u64(sum[0], sum[1]), vaddq_u64(sum[2], sum[3])));
}

size_t probe_float32_neon(size_t products, float *out)
{
    float32x4_t sum[CHAINS] = {0};
    float32x4_t a = vdupq_n_f32(1.0f / (float)(products + 1));
    size_t done = 0;

    for (; done < products; done += CHAINS * 4) {
        for (size_t i = 0; i < CHAINS; i++) {
            float32x4_t s = vfmaq_f32(sum[i], a, a);
            __asm__ volatile("" : "+w"(s)); /* an element in the assembly would live in memory */
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = vaddq_f32(sum[0], sum[i]);
    *out = vaddvq_f32(sum[0]);
    return done;
}
#endif

size_t PROBE_INT8(size_t products, int32_t *out)
{
    int32x4_t sum[CHAINS] = {0};
    int8x16_t a = vdupq_n_s8((int8_t)(products & 127)), b = vdupq_n_s8(1);
    size_t done = 0;

    for (; done < products; done += CHAINS * PRODUCTS) {
        for (size_t i = 0; i < CHAINS; i++) {
            int32x4_t s = MULTIPLY(sum[i], a, b);
            __asm__ volatile("" : "+w"(s));
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = vaddq_s32(sum[0], sum[i]);
    *out = vaddvq_s32(sum[0]);
    return done;
}
