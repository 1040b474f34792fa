/* Resampling of pictures, NEON: sums in float32, which a doubtful one in some thousand leaves to
 * resize_byte, as resize_avx2.c does; so the bytes are those of resize_c.c. */
#include "engine/kernels/math_neon.h"
#include "engine/kernels/sets.h"

#define CHANNELS RESIZE_CHANNELS
#define BLOCK ((size_t)16) /* samples made at once */
#define STEPS 65536        /* sums are rounded as whole numbers of 1/65536 of a level */

/* As in resize_avx2.c: how close to half a level a float32 sum is not trusted any more, in steps.
 */
static int32_t doubt_of(size_t n)
{
    const double levels = 3.1e-5 * (double)(n + 8);
    return (int32_t)((levels < 0.5 ? levels : 0.5) * STEPS) + 4;
}

/* Sums of 16 samples as bytes; unsure: not zero where one is closer to half a level than `doubt`.
 * False: none is, and `unsure` is not written. */
static inline bool to_bytes(uint8_t out[BLOCK], uint8_t unsure[BLOCK], const float32x4_t sum[4],
                            int32_t doubt)
{
    const float32x4_t half = vdupq_n_f32(STEPS / 2.0F);
    const int32x4_t certain = vdupq_n_s32(2 * doubt + 1);
    uint16x4_t level[4], near[4];
    for (size_t k = 0; k < 4; k++) {
        const int32x4_t steps = vcvtnq_s32_f32(vfmaq_n_f32(half, sum[k], STEPS));
        const int32x4_t fraction =
            vandq_s32(vaddq_s32(steps, vdupq_n_s32(doubt)), vdupq_n_s32(STEPS - 1));
        level[k] = vqmovun_s32(vshrq_n_s32(steps, 16));
        near[k] = vmovn_u32(vcgtq_s32(certain, fraction));
    }
    vst1q_u8(out, vcombine_u8(vqmovn_u16(vcombine_u16(level[0], level[1])),
                              vqmovn_u16(vcombine_u16(level[2], level[3]))));
    const uint8x16_t all = vcombine_u8(vmovn_u16(vcombine_u16(near[0], near[1])),
                                       vmovn_u16(vcombine_u16(near[2], near[3])));
    if (vmaxvq_u8(all) == 0)
        return false;
    vst1q_u8(unsure, all);
    return true;
}

/* Rows as columns of floats: scratch [row_bytes][RESIZE_ROWS]; absent rows repeat the last. */
static void spread(float *restrict scratch, const uint8_t *in, size_t row_bytes, size_t rows)
{
    for (size_t r = 0; r < RESIZE_ROWS; r++) {
        const uint8_t *row = in + (r < rows ? r : rows - 1) * row_bytes;
        for (size_t i = 0; i < row_bytes; i++)
            scratch[i * RESIZE_ROWS + r] = (float)row[i];
    }
}

void resize_across_neon(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                        const struct resize_taps *taps, float *scratch)
{
    spread(scratch, in, width * CHANNELS, rows);
    for (size_t x = 0; x < taps->out; x++) {
        const float *weight = taps->rounded + x * taps->stride;
        const float *from = scratch + taps->first[x] * CHANNELS * RESIZE_ROWS;
        float32x4_t sum[8]; /* [channel][row], then two of no use */
        uint8_t bytes[2 * BLOCK], unsure[2 * BLOCK] = {0};
        for (size_t k = 0; k < 8; k++)
            sum[k] = vdupq_n_f32(0.0F);
        for (size_t j = 0; j < taps->n[x]; j++, from += CHANNELS * RESIZE_ROWS)
            for (size_t k = 0; k < CHANNELS * RESIZE_ROWS / 4; k++)
                sum[k] = vfmaq_n_f32(sum[k], vld1q_f32(from + 4 * k), weight[j]);
        to_bytes(bytes, unsure, sum, doubt_of(taps->n[x]));
        to_bytes(bytes + BLOCK, unsure + BLOCK, sum + 4, doubt_of(taps->n[x]));
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < CHANNELS; c++) {
                const size_t lane = c * RESIZE_ROWS + r;
                const uint8_t *exact = in + (r * width + taps->first[x]) * CHANNELS + c;
                out[r * stride + x * CHANNELS + c] =
                    unsure[lane] ? resize_byte(taps, x, exact, CHANNELS) : bytes[lane];
            }
    }
}

void resize_down_neon(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                      const struct resize_taps *taps, size_t y)
{
    const size_t n = taps->n[y];
    const float *weight = taps->rounded + y * taps->stride;
    const int32_t doubt = doubt_of(n);
    in += taps->first[y] * stride;
    for (size_t at = 0; at < row_bytes; at += BLOCK) {
        const size_t left = row_bytes - at < BLOCK ? row_bytes - at : BLOCK;
        const uint8_t *from = in + at;
        uint8_t bytes[BLOCK], unsure[BLOCK];
        float32x4_t sum[4];
        for (size_t k = 0; k < 4; k++)
            sum[k] = vdupq_n_f32(0.0F);
        for (size_t j = 0; j < n; j++, from += stride) {
            const uint8x16_t v = vld1q_u8(from);
            const uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_high_u8(v);
            sum[0] = vfmaq_n_f32(sum[0], vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), weight[j]);
            sum[1] = vfmaq_n_f32(sum[1], vcvtq_f32_u32(vmovl_high_u16(low)), weight[j]);
            sum[2] = vfmaq_n_f32(sum[2], vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), weight[j]);
            sum[3] = vfmaq_n_f32(sum[3], vcvtq_f32_u32(vmovl_high_u16(high)), weight[j]);
        }
        if (to_bytes(bytes, unsure, sum, doubt))
            for (size_t i = 0; i < left; i++)
                if (unsure[i])
                    bytes[i] = resize_byte(taps, y, in + at + i, stride);
        memcpy(out + at, bytes, left);
    }
}
