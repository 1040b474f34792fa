/* Products with rounded activations, AVX2: types with blocks of 32 values. */
#include "engine/kernels/panels_avx2.h"

/* ---- q4_0 ---- */

/* 16 bytes of nibbles at `at`. */
static inline void nibbles_unpack(__m256i w[8], const uint8_t *const row[LANES], size_t at)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i v[4];
    load_transposed(v, row, at);
    for (size_t j = 0; j < 4; j++) {
        w[j] = _mm256_and_si256(v[j], low);
        w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low);
    }
}

static void q4_0_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 18 * b);
        nibbles_unpack(p->w + 8 * b, row, 18 * b + 2);
    }
}

/* What the products of a block are added to, four of each lane at a time; then as whole numbers.
 * All 16 products of a pair fit 16 bits with weights of four bits: 15 * 127 * 16 = 30480; with five
 * bits half of them do: 31 * 127 * 8 = 31496. */
#ifdef DPBUSD
static inline __m256i few_bits_add(__m256i sum, __m256i w, __m256i acts)
{
    return DPBUSD(sum, w, acts);
}

static inline __m256i few_bits_whole(__m256i sum)
{
    return sum;
}
#else
static inline __m256i few_bits_add(__m256i sum, __m256i w, __m256i acts)
{
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, acts));
}

static inline __m256i few_bits_whole(__m256i sum)
{
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}
#endif

/* q4_0, q4_1, q5_0, q5_1; those without an offset have a base. */
struct few_bits {
    int offset;
    bool has_fifths;
};

static ALWAYS_INLINE void few_bits_rows(__m256 *sum, const struct panel *p,
                                        const struct act_rows *x, size_t r, size_t n, size_t strip,
                                        size_t n_blocks, struct few_bits type)
{
    bool has_base = type.offset == 0;
    size_t first = strip * x->rows + r; /* row of a strip */
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i products[4], later[4];
        const __m256i *w = p->w + 8 * b;
        const int8_t *q = x->q + first * STRIP + 32 * b;
        for (size_t i = 0; i < n; i++)
            products[i] = later[i] = _mm256_setzero_si256();
        for (size_t g = 0; g < 8; g++)
            for (size_t i = 0; i < n; i++) {
                __m256i *to = type.has_fifths && g >= 4 ? &later[i] : &products[i];
                *to = few_bits_add(*to, w[g], four_acts(q + i * STRIP + 4 * g));
            }
        for (size_t i = 0; i < n; i++) {
            size_t at = 8 * (first + i) + b;
            __m256i whole = few_bits_whole(products[i]);
            if (type.has_fifths)
                whole = _mm256_add_epi32(whole, few_bits_whole(later[i]));
            if (!has_base)
                whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(type.offset * x->sum[at]));
            sum[i] = add_block(sum[i], p->scale[b], x->scale[at], whole);
            if (has_base)
                sum[i] = add_block(sum[i], p->base[b], x->scale[at], _mm256_set1_epi32(x->sum[at]));
        }
    }
}

static ALWAYS_INLINE void q4_0_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    few_bits_rows(sum, p, x, r, n, strip, n_blocks, (struct few_bits){.offset = 8});
}
STEPS(q4_0)

/* ---- q4_1, q5_0, q5_1: also a base, a fifth bit, or both ---- */

static void q4_1_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 20 * b);
        p->base[b] = load_scales(row, 20 * b + 2);
        nibbles_unpack(p->w + 8 * b, row, 20 * b + 4);
    }
}

static ALWAYS_INLINE void q4_1_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    few_bits_rows(sum, p, x, r, n, strip, n_blocks, (struct few_bits){0});
}
STEPS(q4_1)

/* Bits 4v .. 4v+3 of a lane are the fifth ones of its bytes in w[v]: a product spreads them. */
static inline void fifths_unpack(__m256i w[8], const uint8_t *const row[LANES], size_t at)
{
    const __m256i spread = _mm256_set1_epi32(0x02040810), fifth = _mm256_set1_epi8(16);
    uint32_t bits[LANES];
    for (size_t i = 0; i < LANES; i++)
        memcpy(&bits[i], row[i] + at, sizeof bits[i]);
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)bits);
    for (size_t v = 0; v < 8; v++) {
        __m256i four = _mm256_and_si256(h, _mm256_set1_epi32(15));
        four = _mm256_and_si256(_mm256_mullo_epi32(four, spread), fifth);
        w[v] = _mm256_or_si256(w[v], four);
        h = _mm256_srli_epi32(h, 4);
    }
}

static void q5_0_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 22 * b);
        nibbles_unpack(p->w + 8 * b, row, 22 * b + 6);
        fifths_unpack(p->w + 8 * b, row, 22 * b + 2);
    }
}

static ALWAYS_INLINE void q5_0_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    few_bits_rows(sum, p, x, r, n, strip, n_blocks,
                  (struct few_bits){.offset = 16, .has_fifths = true});
}
STEPS(q5_0)

static void q5_1_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 24 * b);
        p->base[b] = load_scales(row, 24 * b + 2);
        nibbles_unpack(p->w + 8 * b, row, 24 * b + 8);
        fifths_unpack(p->w + 8 * b, row, 24 * b + 4);
    }
}

static ALWAYS_INLINE void q5_1_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    few_bits_rows(sum, p, x, r, n, strip, n_blocks, (struct few_bits){.has_fifths = true});
}
STEPS(q5_1)

/* ---- q8_0 ---- */

static void q8_0_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 34 * b);
        load_transposed(p->w + 8 * b, row, 34 * b + 2);
        load_transposed(p->w + 8 * b + 4, row, 34 * b + 18);
        for (size_t j = 0; j < 8; j++)
            p->w[8 * b + j] = stored_bytes(p->w[8 * b + j]);
    }
}

#ifdef DPBUSD
static ALWAYS_INLINE void q8_0_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    few_bits_rows(sum, p, x, r, n, strip, n_blocks, (struct few_bits){.offset = SIGN_OFFSET});
}
#else
/* |w| times sign(w) x: at most 128 * 127 * 2 in 16 bits, so each pair goes to 32 bits at once. */
static ALWAYS_INLINE void q8_0_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    const __m256i ones = _mm256_set1_epi16(1);
    size_t first = strip * x->rows + r; /* row of a strip */
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i whole[4];
        const __m256i *w = p->w + 8 * b;
        const int8_t *q = x->q + first * STRIP + 32 * b;
        for (size_t i = 0; i < n; i++)
            whole[i] = _mm256_setzero_si256();
        for (size_t g = 0; g < 8; g++) {
            __m256i size = _mm256_abs_epi8(w[g]);
            for (size_t i = 0; i < n; i++) {
                __m256i a = _mm256_sign_epi8(four_acts(q + i * STRIP + 4 * g), w[g]);
                whole[i] = _mm256_add_epi32(whole[i],
                                            _mm256_madd_epi16(_mm256_maddubs_epi16(size, a), ones));
            }
        }
        for (size_t i = 0; i < n; i++) {
            size_t at = 8 * (first + i) + b;
            sum[i] = add_block(sum[i], p->scale[b], x->scale[at], whole[i]);
        }
    }
}
#endif
STEPS(q8_0)

/* ---- iq4_nl, mxfp4: multiplied as q8_0 ---- */

/* The levels are written down again here: quant/parts.h has inline code, which must not be
 * compiled with these flags. */

/* 16 bytes of nibbles at `at` become 32 of the sixteen levels, within +-127. */
static inline void levels_unpack(__m256i w[8], const uint8_t *const row[LANES], size_t at,
                                 const int8_t levels[16])
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)levels));
    nibbles_unpack(w, row, at);
    for (size_t j = 0; j < 8; j++)
        w[j] = stored_bytes(_mm256_shuffle_epi8(table, w[j]));
}

static void iq4_nl_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    static const int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 18 * b);
        levels_unpack(p->w + 8 * b, row, 18 * b + 2, levels);
    }
}

#define iq4_nl_rows q8_0_rows
STEPS(iq4_nl)

static void mxfp4_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    static const int8_t levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    for (size_t b = 0; b < n_blocks; b++) {
        uint32_t bits[LANES]; /* 2^(e - 128) as a float32, subnormal below 2 */
        for (size_t i = 0; i < LANES; i++) {
            uint32_t e = row[i][17 * b];
            bits[i] = e >= 2 ? (e - 1) << 23 : 0x00200000u << e;
        }
        p->scale[b] = _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(const void *)bits));
        levels_unpack(p->w + 8 * b, row, 17 * b + 1, levels);
    }
}
#define mxfp4_rows q8_0_rows
STEPS(mxfp4)
