/* Products with rounded activations, AVX2: types with blocks of 256 values. */
#include "engine/kernels/panels_avx2.h"

/* Bytes 0..3 of each lane become four pairs of equal int16. */
static inline void signed_pairs(__m256i out[4], __m256i bytes)
{
    for (int at = 0; at < 4; at++) {
        const __m256i pick =
            _mm256_add_epi8(_mm256_setr_epi8(-128, 0, -128, 0, -128, 4, -128, 4, -128, 8, -128, 8,
                                             -128, 12, -128, 12, -128, 0, -128, 0, -128, 4, -128, 4,
                                             -128, 8, -128, 8, -128, 12, -128, 12),
                            _mm256_set1_epi16((short)(at * 256)));
        out[at] = _mm256_srai_epi16(_mm256_shuffle_epi8(bytes, pick), 8);
    }
}

/* ---- q6_k, q3_k: groups of 16 with signed scales ---- */

/* Values 4j .. 4j+3 of each 16: lower bits from ql, upper ones from qh (spec weights.md 6). */
static inline void q6_k_quarter(__m256i *w, __m256i first, __m256i second, __m256i high)
{
    const __m256i low = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    w[0] = _mm256_or_si256(_mm256_and_si256(first, low),
                           _mm256_and_si256(_mm256_slli_epi16(high, 4), two));
    w[8] = _mm256_or_si256(_mm256_and_si256(second, low),
                           _mm256_and_si256(_mm256_slli_epi16(high, 2), two));
    w[16] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(first, 4), low),
                            _mm256_and_si256(high, two));
    w[24] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(second, 4), low),
                            _mm256_and_si256(_mm256_srli_epi16(high, 2), two));
}

/* The half floats that are the last of 16 bytes at `at` of eight rows. */
static inline __m256 load_scales_at_end(const uint8_t *const row[LANES], size_t at)
{
    __m256i v[4];
    load_transposed(v, row, at);
    return half_lanes(_mm256_srli_epi32(v[3], 16));
}

static void q6_k_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    (void)n_blocks; /* one */
    p->scale[0] = load_scales_at_end(row, 194);
    for (size_t part = 0; part < 4; part++) { /* 16 bytes of qh each */
        size_t half = part / 2, e = part % 2;
        __m256i first[4], second[4], high[4];
        load_transposed(first, row, 64 * half + 16 * e);
        load_transposed(second, row, 64 * half + 32 + 16 * e);
        load_transposed(high, row, 128 + 32 * half + 16 * e);
        for (size_t j = 0; j < 4; j++)
            q6_k_quarter(p->w + 32 * half + 4 * e + j, first[j], second[j], high[j]);
    }
    __m256i scales[4];
    load_transposed(scales, row, 192);
    for (size_t i = 0; i < 4; i++)
        signed_pairs(p->sub_scale + 4 * i, scales[i]);
}

/* n (16 or 32) values times their group's scale, a pair of equal int16. */
#ifdef DPBUSD
static ALWAYS_INLINE __m256i scaled_products(const __m256i *w, const int8_t *q, size_t n,
                                             __m256i scale)
{
    __m256i even = _mm256_setzero_si256(), odd = even; /* each waits for its last sum */
    for (size_t k = 0; k < n / 4; k += 2) {
        even = DPBUSD(even, w[k], four_acts(q + 4 * k));
        odd = DPBUSD(odd, w[k + 1], four_acts(q + 4 * k + 4));
    }
    return _mm256_mullo_epi32(_mm256_add_epi32(even, odd), _mm256_srai_epi32(scale, 16));
}
#else
/* Two products of a pair fit 16 bits: 63 * 127 * 4 = 32004. */
static ALWAYS_INLINE __m256i scaled_products(const __m256i *w, const int8_t *q, size_t n,
                                             __m256i scale)
{
    __m256i whole = _mm256_setzero_si256();
    for (size_t k = 0; k < n / 4; k += 2) {
        __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w[k], four_acts(q + 4 * k)),
                                         _mm256_maddubs_epi16(w[k + 1], four_acts(q + 4 * k + 4)));
        whole = _mm256_add_epi32(whole, _mm256_madd_epi16(pairs, scale));
    }
    return whole;
}
#endif

/* 16 times a sum of 16 activations fits 16 bits; it takes the offset of 32 away again (of q3_k: 2
 * times, 4). */
static ALWAYS_INLINE void groups_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                      size_t r, size_t n, size_t strip, int half_offset)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    __m256i whole[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 16; g++) {
        const __m256i *w = p->w + 4 * g;
        const __m256i scale = p->sub_scale[g];
        for (size_t i = 0; i < n; i++) {
            const int8_t *q = x->q + (first + i) * STRIP + 16 * g;
            int32_t offset = x->sum[16 * (first + i) + g];
            __m256i taken = _mm256_set1_epi16((short)(half_offset * offset));
            __m256i product = scaled_products(w, q, 16, scale);
            product = _mm256_sub_epi32(product, _mm256_madd_epi16(taken, scale));
            whole[i] = _mm256_add_epi32(whole[i], product);
        }
    }
    for (size_t i = 0; i < n; i++)
        sum[i] = add_block(sum[i], p->scale[0], x->scale[first + i], whole[i]);
}

static ALWAYS_INLINE void q6_k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    (void)n_blocks; /* one */
    groups_rows(sum, p, x, r, n, strip, 16);
}
STEPS(q6_k)

/* Bit `group` of byte l of h becomes `worth` in value 32 group + l; worth is a power of two. */
static inline void bits_above(__m256i *w, __m256i h[8], int worth)
{
    const __m256i one = _mm256_set1_epi8(1), times = _mm256_set1_epi16((short)worth);
    for (size_t j = 0; j < 8; j++)
        for (size_t group = 0; group < 8; group++) {
            __m256i bit = _mm256_and_si256(h[j], one);
            h[j] = _mm256_srli_epi16(h[j], 1);
            w[8 * group + j] = _mm256_or_si256(w[8 * group + j], _mm256_mullo_epi16(bit, times));
        }
}

/* 64 bytes at `at`: bits 2k and 2k+1 of byte 32 half + l are those of value 128 half + 32 k + l. */
static inline void two_bits_unpack(__m256i *w, const uint8_t *const row[LANES], size_t at)
{
    const __m256i two = _mm256_set1_epi8(3);
    for (size_t part = 0; part < 4; part++) { /* 16 bytes each */
        __m256i v[4], *to = w + 32 * (part / 2) + 4 * (part % 2);
        load_transposed(v, row, at + 16 * part);
        for (size_t j = 0; j < 4; j++)
            for (int k = 0; k < 4; k++) {
                __m256i moved = _mm256_srl_epi16(v[j], _mm_cvtsi32_si128(2 * k));
                to[8 * k + (int)j] = _mm256_and_si256(moved, two);
            }
    }
}

/* The upper two bits of the scales of groups g and g + 4, ... stand in one byte. */
static inline void q3_k_scales_unpack(struct panel *p, const uint8_t *const row[LANES])
{
    const __m256i low = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    __m256i v[4], scale[4];
    load_transposed(v, row, 94); /* the last two bytes of q, t[12], d */
    p->scale[0] = half_lanes(_mm256_srli_epi32(v[3], 16));
    for (size_t i = 0; i < 3; i++) /* t[4i .. 4i+3] */
        v[i] = _mm256_or_si256(_mm256_srli_epi32(v[i], 16), _mm256_slli_epi32(v[i + 1], 16));
    scale[0] = _mm256_and_si256(_mm256_slli_epi16(v[2], 4), two);
    scale[1] = _mm256_and_si256(_mm256_slli_epi16(v[2], 2), two);
    scale[2] = _mm256_and_si256(v[2], two);
    scale[3] = _mm256_and_si256(_mm256_srli_epi16(v[2], 2), two);
    for (size_t i = 0; i < 4; i++) {
        __m256i lower = i < 2 ? v[i] : _mm256_srli_epi16(v[i - 2], 4);
        scale[i] = _mm256_or_si256(scale[i], _mm256_and_si256(lower, low));
        signed_pairs(p->sub_scale + 4 * i, _mm256_sub_epi8(scale[i], _mm256_set1_epi8(32)));
    }
}

static void q3_k_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    __m256i h[8];
    (void)n_blocks; /* one */
    q3_k_scales_unpack(p, row);
    two_bits_unpack(p->w, row, 32);
    load_transposed(h, row, 0);
    load_transposed(h + 4, row, 16);
    bits_above(p->w, h, 4);
}

static ALWAYS_INLINE void q3_k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    (void)n_blocks; /* one */
    groups_rows(sum, p, x, r, n, strip, 2);
}
STEPS(q3_k)

/* ---- q4_k, q5_k, q2_k: groups with a scale and a min ---- */

/* Bytes 0..3 of each lane, below 128, become four pairs of equal int16. */
static inline void byte_pairs(__m256i out[4], __m256i bytes)
{
    for (int i = 0; i < 4; i++) {
        __m256i one = _mm256_srl_epi32(bytes, _mm_cvtsi32_si128(8 * i));
        one = _mm256_and_si256(one, _mm256_set1_epi32(0xff));
        out[i] = _mm256_or_si256(one, _mm256_slli_epi32(one, 16));
    }
}

/* The first 16 bytes of a block: two half floats, then six-bit scales and mins. Those of groups
 * 4..7 have their lower four bits in the last four bytes, the upper two above those of 0..3. */
static inline void k_scales_unpack(struct panel *p, const uint8_t *const row[LANES])
{
    const __m256i six = _mm256_set1_epi8(63), four = _mm256_set1_epi8(15);
    const __m256i two = _mm256_set1_epi8(0x30);
    __m256i v[4];
    load_transposed(v, row, 0);
    p->scale[0] = half_lanes(v[0]);
    p->base[0] = half_lanes(_mm256_srli_epi32(v[0], 16));
    byte_pairs(p->sub_scale, _mm256_and_si256(v[1], six));
    byte_pairs(p->sub_scale + 4,
               _mm256_or_si256(_mm256_and_si256(v[3], four),
                               _mm256_and_si256(_mm256_srli_epi16(v[1], 2), two)));
    byte_pairs(p->sub_base, _mm256_and_si256(v[2], six));
    byte_pairs(p->sub_base + 4, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v[3], 4), four),
                                                _mm256_and_si256(_mm256_srli_epi16(v[2], 2), two)));
}

/* 128 bytes at `at`: of each 32, low nibbles are an even group and high ones the next. */
static inline void k_nibbles_unpack(struct panel *p, const uint8_t *const row[LANES], size_t at)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t part = 0; part < 8; part++) { /* 16 bytes each */
        __m256i v[4], *w = p->w + 16 * (part / 2) + 4 * (part % 2);
        load_transposed(v, row, at + 16 * part);
        for (size_t j = 0; j < 4; j++) {
            w[j] = _mm256_and_si256(v[j], low);
            w[j + 8] = _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low);
        }
    }
}

static void q4_k_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    (void)n_blocks; /* one */
    k_scales_unpack(p, row);
    k_nibbles_unpack(p, row, 16);
}

static void q5_k_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    __m256i h[8];
    (void)n_blocks; /* one */
    k_scales_unpack(p, row);
    k_nibbles_unpack(p, row, 48);
    load_transposed(h, row, 16);
    load_transposed(h + 4, row, 32);
    bits_above(p->w, h, 16);
}

/* 32 values times one scale, or 16 and 16 times two. */
#ifdef DPBUSD
static ALWAYS_INLINE __m256i group_products(const __m256i *w, const int8_t *q, const __m256i *scale,
                                            size_t scales)
{
    if (scales == 1)
        return scaled_products(w, q, 32, scale[0]);
    return _mm256_add_epi32(scaled_products(w, q, 16, scale[0]),
                            scaled_products(w + 4, q + 16, 16, scale[1]));
}
#else
/* Four products of a pair fit 16 bits: 31 * 127 * 8 = 31496. */
static inline __m256i four_products(const __m256i *w, const int8_t *q)
{
    __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], four_acts(q)),
                                 _mm256_maddubs_epi16(w[1], four_acts(q + 4)));
    __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], four_acts(q + 8)),
                                 _mm256_maddubs_epi16(w[3], four_acts(q + 12)));
    return _mm256_add_epi16(a, b);
}

static ALWAYS_INLINE __m256i group_products(const __m256i *w, const int8_t *q, const __m256i *scale,
                                            size_t scales)
{
    return _mm256_add_epi32(_mm256_madd_epi16(four_products(w, q), scale[0]),
                            _mm256_madd_epi16(four_products(w + 4, q + 16), scale[scales - 1]));
}
#endif

/* scales: of a group of 32. A sum of 16 activations fits 16 bits; the two sums of a group stand
 * side by side against its min, which is a pair. */
static ALWAYS_INLINE void mins_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t scales)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    __m256i whole[4], mins[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = mins[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 8; g++) {
        const __m256i min = p->sub_base[g];
        for (size_t i = 0; i < n; i++) {
            size_t at = first + i;
            const int32_t *both = x->sum + 16 * at + 2 * g;
            __m256i sums = _mm256_set1_epi32((both[0] & 0xffff) | both[1] * 65536);
            __m256i products = group_products(p->w + 8 * g, x->q + 256 * at + 32 * g,
                                              p->sub_scale + g * scales, scales);
            whole[i] = _mm256_add_epi32(whole[i], products);
            mins[i] = _mm256_add_epi32(mins[i], _mm256_madd_epi16(sums, min));
        }
    }
    for (size_t i = 0; i < n; i++) {
        float act_scale = x->scale[first + i];
        __m256 factor = _mm256_mul_ps(p->base[0], _mm256_set1_ps(act_scale));
        sum[i] = add_block(sum[i], p->scale[0], act_scale, whole[i]);
        sum[i] = _mm256_sub_ps(sum[i], _mm256_mul_ps(factor, _mm256_cvtepi32_ps(mins[i])));
    }
}

static ALWAYS_INLINE void q4_k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    (void)n_blocks; /* one */
    mins_rows(sum, p, x, r, n, strip, 1);
}
STEPS(q4_k)
#define q5_k_rows q4_k_rows
STEPS(q5_k)

static void q2_k_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    const __m256i low = _mm256_set1_epi8(15), byte = _mm256_set1_epi32(0xff);
    const __m256i next = _mm256_set1_epi32(0xff0000);
    __m256i v[4];
    (void)n_blocks; /* one */
    load_transposed(v, row, 68);
    p->scale[0] = half_lanes(v[3]);
    p->base[0] = half_lanes(_mm256_srli_epi32(v[3], 16));
    load_transposed(v, row, 0);
    for (size_t i = 0; i < 4; i++) {
        __m256i mins = _mm256_and_si256(_mm256_srli_epi16(v[i], 4), low);
        byte_pairs(p->sub_scale + 4 * i, _mm256_and_si256(v[i], low));
        p->sub_base[2 * i] = _mm256_or_si256(_mm256_and_si256(mins, byte),
                                             _mm256_and_si256(_mm256_slli_epi32(mins, 8), next));
        p->sub_base[2 * i + 1] =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(mins, 16), byte),
                            _mm256_and_si256(_mm256_srli_epi32(mins, 8), next));
    }
    two_bits_unpack(p->w, row, 16);
}

static ALWAYS_INLINE void q2_k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    (void)n_blocks; /* one */
    mins_rows(sum, p, x, r, n, strip, 2);
}
STEPS(q2_k)

/* ---- iq4_xs: levels, as iq4_nl has them, in groups of 32 with signed scales ---- */

static void iq4_xs_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
    __m256i v[4];
    (void)n_blocks; /* one */
    load_transposed(v, row, 0);
    __m256i lower = v[1], upper = _mm256_srli_epi32(v[0], 16);
    p->scale[0] = half_lanes(v[0]);
    for (size_t g = 0; g < 8; g++) {
        __m256i scale = _mm256_and_si256(lower, _mm256_set1_epi32(15));
        scale = _mm256_or_si256(
            scale, _mm256_slli_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(3)), 4));
        scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
        p->sub_scale[g] = _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xffff)),
                                          _mm256_slli_epi32(scale, 16));
        lower = _mm256_srli_epi32(lower, 4);
        upper = _mm256_srli_epi32(upper, 2);
        load_transposed(v, row, 8 + 16 * g);
        for (size_t j = 0; j < 4; j++) {
            __m256i high = _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low);
            p->w[8 * g + j] = stored_bytes(_mm256_shuffle_epi8(table, _mm256_and_si256(v[j], low)));
            p->w[8 * g + 4 + j] = stored_bytes(_mm256_shuffle_epi8(table, high));
        }
    }
}

#ifdef DPBUSD
static ALWAYS_INLINE void iq4_xs_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                      size_t r, size_t n, size_t strip, size_t n_blocks)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    (void)n_blocks;                     /* one */
    __m256i whole[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 8; g++) {
        for (size_t i = 0; i < n; i++) {
            const int32_t *both = x->sum + 16 * (first + i) + 2 * g;
            __m256i offset = _mm256_set1_epi32(SIGN_OFFSET * (both[0] + both[1]));
            __m256i products = scaled_products(p->w + 8 * g, x->q + (first + i) * STRIP + 32 * g,
                                               32, p->sub_scale[g]);
            offset = _mm256_mullo_epi32(offset, _mm256_srai_epi32(p->sub_scale[g], 16));
            whole[i] = _mm256_add_epi32(whole[i], _mm256_sub_epi32(products, offset));
        }
    }
    for (size_t i = 0; i < n; i++)
        sum[i] = add_block(sum[i], p->scale[0], x->scale[first + i], whole[i]);
}
#else
/* |w| times sign(w) x, as q8_0: a pair of them at most, 32258, fits 16 bits. */
static ALWAYS_INLINE void iq4_xs_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                      size_t r, size_t n, size_t strip, size_t n_blocks)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    (void)n_blocks;                     /* one */
    __m256i whole[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 64; g++) {
        __m256i w = p->w[g], size = _mm256_abs_epi8(w), scale = p->sub_scale[g / 8];
        for (size_t i = 0; i < n; i++) {
            const int8_t *q = x->q + (first + i) * STRIP + 4 * g;
            __m256i products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four_acts(q), w));
            whole[i] = _mm256_add_epi32(whole[i], _mm256_madd_epi16(products, scale));
        }
    }
    for (size_t i = 0; i < n; i++)
        sum[i] = add_block(sum[i], p->scale[0], x->scale[first + i], whole[i]);
}
#endif
STEPS(iq4_xs)
