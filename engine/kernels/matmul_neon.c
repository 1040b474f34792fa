/* Products with rounded activations, NEON with dot products: how the storage types are unpacked. */
#include "engine/kernels/panels_neon.h"
#include "engine/quant/parts.h"

/* ---- blocks of 32 values */

static inline int8x16_t as_signed(uint8x16_t v)
{
    return vreinterpretq_s8_u8(v);
}

static inline float half_at(const uint8_t *at)
{
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/* Low nibbles are values 0 .. 15, high ones 16 .. 31. */
static inline void nibbles_at(uint8x16_t out[2], const uint8_t *at)
{
    uint8x16_t v = vld1q_u8(at);
    out[0] = vandq_u8(v, vdupq_n_u8(15));
    out[1] = vshrq_n_u8(v, 4);
}

static void q8_0_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 34) {
        p->scale[b][lane] = half_at(block);
        put(p, lane, 32 * b, as_signed(vld1q_u8(block + 2)));
        put(p, lane, 32 * b + 16, as_signed(vld1q_u8(block + 18)));
    }
}
MATMUL(q8_0, multiply_blocks)

/* Values less an offset. */
static inline void put_less(struct panel *p, size_t lane, size_t at, const uint8x16_t v[2],
                            uint8_t offset)
{
    put(p, lane, at, as_signed(vsubq_u8(v[0], vdupq_n_u8(offset))));
    put(p, lane, at + 16, as_signed(vsubq_u8(v[1], vdupq_n_u8(offset))));
}

static void q4_0_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 18) {
        uint8x16_t v[2];
        p->scale[b][lane] = half_at(block);
        nibbles_at(v, block + 2);
        put_less(p, lane, 32 * b, v, 8);
    }
}
MATMUL(q4_0, multiply_blocks)

static void q4_1_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 20) {
        uint8x16_t v[2];
        p->scale[b][lane] = half_at(block);
        p->base[b][lane] = half_at(block + 2);
        nibbles_at(v, block + 4);
        put_less(p, lane, 32 * b, v, 0);
    }
}
MATMUL(q4_1, multiply_blocks_base)

/* Bit j of the four bytes at `at` is the fifth one of value j. */
static inline void add_fifths(uint8x16_t v[2], const uint8_t *at)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (size_t k = 0; k < 2; k++) {
        uint8x16_t h = vcombine_u8(vdup_n_u8(at[2 * k]), vdup_n_u8(at[2 * k + 1]));
        h = vandq_u8(vtstq_u8(h, vld1q_u8(bits)), vdupq_n_u8(16));
        v[k] = vorrq_u8(v[k], h);
    }
}

static void q5_0_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 22) {
        uint8x16_t v[2];
        p->scale[b][lane] = half_at(block);
        nibbles_at(v, block + 6);
        add_fifths(v, block + 2);
        put_less(p, lane, 32 * b, v, 16);
    }
}
MATMUL(q5_0, multiply_blocks)

static void q5_1_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 24) {
        uint8x16_t v[2];
        p->scale[b][lane] = half_at(block);
        p->base[b][lane] = half_at(block + 2);
        nibbles_at(v, block + 8);
        add_fifths(v, block + 4);
        put_less(p, lane, 32 * b, v, 0);
    }
}
MATMUL(q5_1, multiply_blocks_base)

/* 16 bytes of nibbles, each one of sixteen levels. */
static inline void put_levels(struct panel *p, size_t lane, size_t at, const uint8_t *from,
                              const int8_t *levels)
{
    uint8x16_t v[2];
    nibbles_at(v, from);
    put(p, lane, at, vqtbl1q_s8(vld1q_s8(levels), v[0]));
    put(p, lane, at + 16, vqtbl1q_s8(vld1q_s8(levels), v[1]));
}

static void iq4_nl_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 18) {
        p->scale[b][lane] = half_at(block);
        put_levels(p, lane, 32 * b, block + 2, part_iq4_levels);
    }
}
MATMUL(iq4_nl, multiply_blocks)

static void mxfp4_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, block += 17) {
        p->scale[b][lane] = part_half_power(block[0]);
        put_levels(p, lane, 32 * b, block + 1, part_mxfp4_levels);
    }
}
MATMUL(mxfp4, multiply_blocks)

/* ---- blocks of 256 values; n_blocks is one */

/* The two bits from bit `shift` on of each byte. */
static inline uint8x16_t two_bits(uint8x16_t v, size_t shift)
{
    return vandq_u8(vshlq_u8(v, vdupq_n_s8((int8_t) - (int)shift)), vdupq_n_u8(3));
}

/* Bit `from` of each byte, where it is worth `worth`. */
static inline uint8x16_t bit_worth(uint8x16_t v, size_t from, uint8_t worth)
{
    return vandq_u8(vtstq_u8(v, vdupq_n_u8((uint8_t)(1U << from))), vdupq_n_u8(worth));
}

static void q6_k_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    p->scale[0][lane] = half_at(block + 208);
    for (size_t g = 0; g < 16; g++)
        p->sub_scale[g][lane] = (int8_t)block[192 + g];
    for (size_t part = 0; part < 4; part++) { /* 16 bytes of upper bits each */
        size_t half = part / 2, e = part % 2;
        uint8x16_t high = vld1q_u8(block + 128 + 16 * part);
        for (size_t k = 0; k < 4; k++) {
            uint8x16_t v[2];
            nibbles_at(v, block + 64 * half + 32 * (k % 2) + 16 * e);
            uint8x16_t all = vorrq_u8(v[k / 2], vshlq_n_u8(two_bits(high, 2 * k), 4));
            put(p, lane, 128 * half + 32 * k + 16 * e, as_signed(vsubq_u8(all, vdupq_n_u8(32))));
        }
    }
}
MATMUL(q6_k, multiply_16)

static void q3_k_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    p->scale[0][lane] = half_at(block + 108);
    for (size_t g = 0; g < 16; g++) {
        uint8x16_t third = bit_worth(vld1q_u8(block + 16 * (g % 2)), g / 2, 4);
        uint8x16_t v = vld1q_u8(block + 32 + 32 * (g / 8) + 16 * (g % 2));
        v = vorrq_u8(two_bits(v, g % 8 / 2 * 2), third);
        put(p, lane, 16 * g, as_signed(vsubq_u8(v, vdupq_n_u8(4))));
        p->sub_scale[g][lane] = part_q3_k_scale(block + 96, g);
    }
}
MATMUL(q3_k, multiply_16)

static void q2_k_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    p->scale[0][lane] = half_at(block + 80);
    p->base[0][lane] = -half_at(block + 82);
    for (size_t g = 0; g < 16; g++) {
        uint8x16_t v = vld1q_u8(block + 16 + 32 * (g / 8) + 16 * (g % 2));
        put(p, lane, 16 * g, as_signed(two_bits(v, g % 8 / 2 * 2)));
        p->sub_scale[g][lane] = block[g] & 15;
        p->sub_base[g][lane] = block[g] >> 4;
    }
}
MATMUL(q2_k, multiply_16_base)

/* fifths [32]: bit g of byte l belongs to value l of group g; or NULL. */
static inline void k_unpack(struct panel *p, size_t lane, const uint8_t *block,
                            const uint8_t *fifths, const uint8_t *nibbles)
{
    p->scale[0][lane] = half_at(block);
    p->base[0][lane] = -half_at(block + 2);
    for (size_t g = 0; g < 8; g++) {
        int scale, min;
        part_scale_min(&scale, &min, block + 4, g);
        p->sub_scale[g][lane] = scale;
        p->sub_base[2 * g][lane] = p->sub_base[2 * g + 1][lane] = min;
        for (size_t e = 0; e < 2; e++) {
            uint8x16_t v[2];
            nibbles_at(v, nibbles + 32 * (g / 2) + 16 * e);
            uint8x16_t all = v[g % 2];
            if (fifths)
                all = vorrq_u8(all, bit_worth(vld1q_u8(fifths + 16 * e), g, 16));
            put(p, lane, 32 * g + 16 * e, as_signed(all));
        }
    }
}

static void q4_k_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    k_unpack(p, lane, block, NULL, block + 16);
}
MATMUL(q4_k, multiply_32_base)

static void q5_k_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    k_unpack(p, lane, block, block + 16, block + 48);
}
MATMUL(q5_k, multiply_32_base)

static void iq4_xs_unpack(struct panel *p, size_t lane, const uint8_t *block, size_t n_blocks)
{
    (void)n_blocks;
    p->scale[0][lane] = half_at(block);
    for (size_t g = 0; g < 8; g++) {
        p->sub_scale[g][lane] = part_iq4_xs_scale(block, g);
        put_levels(p, lane, 32 * g, block + 8 + 16 * g, part_iq4_levels);
    }
}
MATMUL(iq4_xs, multiply_32)
