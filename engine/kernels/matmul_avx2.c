/* Products with rounded activations, AVX2: the same whole numbers and the same order as matmul_c.c.
 *
 * Eight rows of weights are computed side by side, one in each 32-bit lane. Their blocks are first
 * laid out as panels: bytes 4g .. 4g+3 of row i stand in lane i of vector g. A panel is then
 * multiplied with 4 broadcast activations at a time, for all activation rows before the next one
 * is made; so no sum runs across lanes, and one row gives the same bits as many. */
#include "engine/kernels/math_avx2.h"
#include "engine/kernels/sets.h"
#include <string.h>

#define LANES ((size_t)8)
#define LINE ((size_t)64) /* bytes of the cache */
#define STRIP ACT_STRIP   /* values of a panel: 8 blocks of 32, or one of 256 */
#define ACT_ROWS 16       /* activation rows that share a panel */

struct panel {
    __m256i w[STRIP / 4];
    __m256 scale[STRIP / 32];      /* of block b, row in lane; a block of 256: [0], of mins: [1] */
    __m256i sub_scale[STRIP / 16]; /* as a pair of equal int16; q6_k: of 16 values each; q4_k, q5_k:
                                      of 32 values each, then eight mins */
};

/* How a storage type is unpacked and multiplied. */
struct steps {
    /* blocks [strip / 32 or 1] of eight rows, which begin at row[i] */
    void (*unpack)(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks);
    /* add the strip's products with n activation rows, 1 <= n <= 4 */
    void (*multiply)(__m256 *sum, const struct panel *p, const struct act_rows *x, size_t r,
                     size_t n, size_t strip, size_t n_blocks);
};

/* 16 bytes at `at` of eight rows: of row i in the lower half of a[i], of row i + 4 in the upper. */
static inline void load_rows(__m256i a[4], const uint8_t *const row[LANES], size_t at)
{
    for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(row[i] + at));
        __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(row[i + 4] + at));
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
}

/* The same, transposed: dword j of row i in lane i of v[j]. */
static inline void load_transposed(__m256i v[4], const uint8_t *const row[LANES], size_t at)
{
    __m256i a[4];
    load_rows(a, row, at);
    __m256i t0 = _mm256_unpacklo_epi32(a[0], a[1]), t1 = _mm256_unpackhi_epi32(a[0], a[1]);
    __m256i t2 = _mm256_unpacklo_epi32(a[2], a[3]), t3 = _mm256_unpackhi_epi32(a[2], a[3]);
    v[0] = _mm256_unpacklo_epi64(t0, t2);
    v[1] = _mm256_unpackhi_epi64(t0, t2);
    v[2] = _mm256_unpacklo_epi64(t1, t3);
    v[3] = _mm256_unpackhi_epi64(t1, t3);
}

/* Low 16 bits of eight lanes, as half floats. */
static inline __m256 half_lanes(__m256i dwords)
{
    __m256i words = _mm256_and_si256(dwords, _mm256_set1_epi32(0xffff));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

/* The half floats at `at` of eight rows; 14 bytes more of each row are read and not used. */
static inline __m256 load_scales(const uint8_t *const row[LANES], size_t at)
{
    __m256i a[4];
    load_rows(a, row, at);
    __m256i t0 = _mm256_unpacklo_epi32(a[0], a[1]), t1 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i dwords = _mm256_unpacklo_epi64(t0, t1); /* of row i in lane i */
    return half_lanes(dwords);
}

static inline __m256i four_acts(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* sum += (scale of weights * scale of activations) * whole, not fused. */
static inline __m256 add_block(__m256 sum, __m256 scale, float act_scale, __m256i whole)
{
    __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(act_scale));
    return _mm256_add_ps(sum, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(whole)));
}

/* ---- q4_0 ---- */

static void q4_0_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i v[4];
        p->scale[b] = load_scales(row, 18 * b);
        load_transposed(v, row, 18 * b + 2);
        for (size_t j = 0; j < 4; j++) {
            p->w[8 * b + j] = _mm256_and_si256(v[j], low);
            p->w[8 * b + j + 4] = _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low);
        }
    }
}

/* A nibble is at most 15 and an activation 127, so eight products of a pair fit 16 bits: 30480. */
static ALWAYS_INLINE void q4_0_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    const __m256i ones = _mm256_set1_epi16(1);
    size_t first = strip * x->rows + r; /* row of a strip */
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i pairs[4];
        const __m256i *w = p->w + 8 * b;
        const int8_t *q = x->q + first * STRIP + 32 * b;
        for (size_t i = 0; i < n; i++)
            pairs[i] = _mm256_maddubs_epi16(w[0], four_acts(q + i * STRIP));
        for (size_t g = 1; g < 8; g++)
            for (size_t i = 0; i < n; i++)
                pairs[i] = _mm256_add_epi16(
                    pairs[i], _mm256_maddubs_epi16(w[g], four_acts(q + i * STRIP + 4 * g)));
        for (size_t i = 0; i < n; i++) {
            size_t at = 8 * (first + i) + b;
            __m256i whole = _mm256_sub_epi32(_mm256_madd_epi16(pairs[i], ones),
                                             _mm256_slli_epi32(_mm256_set1_epi32(x->sum[at]), 3));
            sum[i] = add_block(sum[i], p->scale[b], x->scale[at], whole);
        }
    }
}

/* ---- q8_0 ---- */

static void q8_0_unpack(struct panel *p, const uint8_t *const row[LANES], size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        p->scale[b] = load_scales(row, 34 * b);
        load_transposed(p->w + 8 * b, row, 34 * b + 2);
        load_transposed(p->w + 8 * b + 4, row, 34 * b + 18);
    }
}

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

/* ---- iq4_nl, mxfp4: multiplied as q8_0 ---- */

/* The levels are written down again here: quant/parts.h has inline code, which must not be
 * compiled with these flags. */

/* 16 bytes of nibbles at `at` become 32 of the sixteen levels, within +-127. */
static inline void levels_unpack(__m256i w[8], const uint8_t *const row[LANES], size_t at,
                                 const int8_t levels[16])
{
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)levels));
    __m256i v[4];
    load_transposed(v, row, at);
    for (size_t j = 0; j < 4; j++) {
        w[j] = _mm256_shuffle_epi8(table, _mm256_and_si256(v[j], low));
        w[j + 4] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low));
    }
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

/* ---- q6_k ---- */

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
    for (size_t g = 0; g < 16; g++) { /* byte g % 4 of a dword becomes two equal int16 */
        int at = (int)(g % 4);
        const __m256i pick =
            _mm256_add_epi8(_mm256_setr_epi8(-128, 0, -128, 0, -128, 4, -128, 4, -128, 8, -128, 8,
                                             -128, 12, -128, 12, -128, 0, -128, 0, -128, 4, -128, 4,
                                             -128, 8, -128, 8, -128, 12, -128, 12),
                            _mm256_set1_epi16((short)(at * 256)));
        p->sub_scale[g] = _mm256_srai_epi16(_mm256_shuffle_epi8(scales[g / 4], pick), 8);
    }
}

/* Two products of a pair fit 16 bits (63 * 127 * 4 = 32004); so does 16 times a sum of 16
 * activations, which takes the offset of 32 away again. */
static ALWAYS_INLINE void q6_k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                    size_t r, size_t n, size_t strip, size_t n_blocks)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    (void)n_blocks;                     /* one */
    __m256i whole[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 16; g++) {
        const __m256i *w = p->w + 4 * g;
        const __m256i scale = p->sub_scale[g];
        for (size_t i = 0; i < n; i++) {
            const int8_t *q = x->q + (first + i) * STRIP + 16 * g;
            __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], four_acts(q)),
                                         _mm256_maddubs_epi16(w[1], four_acts(q + 4)));
            __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], four_acts(q + 8)),
                                         _mm256_maddubs_epi16(w[3], four_acts(q + 12)));
            int32_t offset = x->sum[16 * (first + i) + g];
            __m256i taken = _mm256_set1_epi16((short)(16 * offset));
            __m256i product =
                _mm256_add_epi32(_mm256_madd_epi16(a, scale), _mm256_madd_epi16(b, scale));
            product = _mm256_sub_epi32(product, _mm256_madd_epi16(taken, scale));
            whole[i] = _mm256_add_epi32(whole[i], product);
        }
    }
    for (size_t i = 0; i < n; i++)
        sum[i] = add_block(sum[i], p->scale[0], x->scale[first + i], whole[i]);
}

/* ---- q4_k, q5_k ---- */

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
    p->scale[1] = half_lanes(_mm256_srli_epi32(v[0], 16));
    byte_pairs(p->sub_scale, _mm256_and_si256(v[1], six));
    byte_pairs(p->sub_scale + 4,
               _mm256_or_si256(_mm256_and_si256(v[3], four),
                               _mm256_and_si256(_mm256_srli_epi16(v[1], 2), two)));
    byte_pairs(p->sub_scale + 8, _mm256_and_si256(v[2], six));
    byte_pairs(p->sub_scale + 12,
               _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v[3], 4), four),
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
    const __m256i one = _mm256_set1_epi8(1);
    __m256i h[8];
    (void)n_blocks; /* one */
    k_scales_unpack(p, row);
    k_nibbles_unpack(p, row, 48);
    load_transposed(h, row, 16);
    load_transposed(h + 4, row, 32);
    for (size_t j = 0; j < 8; j++)
        for (size_t group = 0; group < 8; group++) { /* bit `group` of a byte */
            __m256i fifth = _mm256_and_si256(h[j], one);
            h[j] = _mm256_srli_epi16(h[j], 1);
            p->w[8 * group + j] = _mm256_or_si256(p->w[8 * group + j], _mm256_slli_epi16(fifth, 4));
        }
}

static inline __m256i four_products(const __m256i *w, const int8_t *q)
{
    __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], four_acts(q)),
                                 _mm256_maddubs_epi16(w[1], four_acts(q + 4)));
    __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], four_acts(q + 8)),
                                 _mm256_maddubs_epi16(w[3], four_acts(q + 12)));
    return _mm256_add_epi16(a, b);
}

/* Four products of a pair fit 16 bits (31 * 127 * 8 = 31496), and so does a sum of 16 activations;
 * the two sums of a group stand side by side against its min, which is a pair. */
static ALWAYS_INLINE void k_rows(__m256 *sum, const struct panel *p, const struct act_rows *x,
                                 size_t r, size_t n, size_t strip, size_t n_blocks)
{
    size_t first = strip * x->rows + r; /* row of a strip */
    (void)n_blocks;                     /* one */
    __m256i whole[4], mins[4];
    for (size_t i = 0; i < n; i++)
        whole[i] = mins[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < 8; g++) {
        const __m256i *w = p->w + 8 * g;
        const __m256i scale = p->sub_scale[g], min = p->sub_scale[8 + g];
        for (size_t i = 0; i < n; i++) {
            size_t at = first + i;
            const int8_t *q = x->q + 256 * at + 32 * g;
            const int32_t *both = x->sum + 16 * at + 2 * g;
            __m256i sums = _mm256_set1_epi32((both[0] & 0xffff) | both[1] * 65536);
            whole[i] = _mm256_add_epi32(whole[i], _mm256_madd_epi16(four_products(w, q), scale));
            whole[i] =
                _mm256_add_epi32(whole[i], _mm256_madd_epi16(four_products(w + 4, q + 16), scale));
            mins[i] = _mm256_add_epi32(mins[i], _mm256_madd_epi16(sums, min));
        }
    }
    for (size_t i = 0; i < n; i++) {
        float act_scale = x->scale[first + i];
        __m256 factor = _mm256_mul_ps(p->scale[1], _mm256_set1_ps(act_scale));
        sum[i] = add_block(sum[i], p->scale[0], act_scale, whole[i]);
        sum[i] = _mm256_sub_ps(sum[i], _mm256_mul_ps(factor, _mm256_cvtepi32_ps(mins[i])));
    }
}

/* ---- all types ---- */

/* A number of rows that the compiler knows keeps their sums in registers. */
#define MULTIPLY(type)                                                                             \
    static void type##_multiply(__m256 *sum, const struct panel *p, const struct act_rows *x,      \
                                size_t r, size_t n, size_t strip, size_t n_blocks)                 \
    {                                                                                              \
        __m256 kept[4] = {sum[0], sum[n > 1], sum[n > 2 ? 2 : 0], sum[n > 3 ? 3 : 0]};             \
        if (n == 4)                                                                                \
            type##_rows(kept, p, x, r, 4, strip, n_blocks);                                        \
        else if (n == 3)                                                                           \
            type##_rows(kept, p, x, r, 3, strip, n_blocks);                                        \
        else if (n == 2)                                                                           \
            type##_rows(kept, p, x, r, 2, strip, n_blocks);                                        \
        else                                                                                       \
            type##_rows(kept, p, x, r, 1, strip, n_blocks);                                        \
        for (size_t i = 0; i < n; i++)                                                             \
            sum[i] = kept[i];                                                                      \
    }
MULTIPLY(q4_0)
MULTIPLY(q8_0)
MULTIPLY(q6_k)
MULTIPLY(k)

static void store(float *out, __m256 sum, size_t n)
{
    float lane[LANES];
    if (n == LANES) {
        _mm256_storeu_ps(out, sum);
        return;
    }
    _mm256_storeu_ps(lane, sum);
    memcpy(out, lane, n * sizeof *out);
}

/* Ask for lines that will be needed soon. */
static void fetch(const void *from, size_t size)
{
    for (size_t i = 0; i < size; i += LINE)
        _mm_prefetch((const char *)from + i, _MM_HINT_T0);
}

/* A strip of activations, of some rows. */
static void fetch_acts(const struct act_rows *x, size_t r, size_t rows, size_t strip)
{
    size_t first = strip * x->rows + r, scales = STRIP / x->block;
    size_t sums = STRIP / ACT_GROUP(x->block);
    if (strip * STRIP >= x->width)
        return;
    fetch(x->q + first * STRIP, rows * STRIP);
    fetch(x->scale + first * scales, rows * scales * sizeof *x->scale);
    fetch(x->sum + first * sums, rows * sums * sizeof *x->sum);
}

/* One product: up to 8 rows of weights, up to ACT_ROWS of activations. */
struct tile {
    const struct weight_rows *w;
    const struct act_rows *x;
    size_t r, rows;
    const uint8_t *ahead, *ahead_end; /* weights that come next: their rows are short and lie apart,
                                         so the processor does not see by itself where we go */
};

static void matmul_tile(float *out, size_t stride, struct tile *t, const struct steps *steps)
{
    __m256 sum[ACT_ROWS];
    struct panel panel;
    const struct weight_rows *w = t->w;
    size_t values = w->type->block_values, blocks = w->width / values, strip = STRIP / values;
    size_t n = w->end - w->begin;
    const uint8_t *row[LANES];

    for (size_t i = 0; i < t->rows; i++)
        sum[i] = _mm256_setzero_ps();
    for (size_t i = 0; i < LANES; i++) /* beyond the end: the last row again */
        row[i] = (const uint8_t *)w->data + (w->begin + (i < n ? i : n - 1)) * w->row_bytes;
    for (size_t b = 0; b < blocks; b += strip) {
        size_t n_blocks = blocks - b < strip ? blocks - b : strip;
        size_t row_bytes = n_blocks * w->type->block_bytes, bytes = LANES * row_bytes;
        if (t->rows > 1)
            fetch_acts(t->x, t->r, t->rows, b / strip + 1);
        if (bytes <= (size_t)(t->ahead_end - t->ahead)) {
            fetch(t->ahead, bytes);
            t->ahead += bytes;
        }
        steps->unpack(&panel, row, n_blocks);
        for (size_t i = 0; i < t->rows; i += 4)
            steps->multiply(&sum[i], &panel, t->x, t->r + i, t->rows - i < 4 ? t->rows - i : 4,
                            b / strip, n_blocks);
        for (size_t i = 0; i < LANES; i++)
            row[i] += row_bytes;
    }
    for (size_t i = 0; i < t->rows; i++)
        store(out + (t->r + i) * stride + w->begin, sum[i], n);
}

static void matmul_steps(float *out, size_t stride, const struct weight_rows *w,
                         const struct act_rows *x, const struct steps *steps)
{
    const uint8_t *data = w->data;
    for (size_t begin = w->begin; begin < w->end; begin += LANES) {
        struct weight_rows part = *w;
        part.begin = begin;
        part.end = w->end - begin < LANES ? w->end : begin + LANES;
        struct tile tile = {.w = &part,
                            .x = x,
                            .ahead = data + part.end * w->row_bytes,
                            .ahead_end = data + w->end * w->row_bytes};
        for (; tile.r < x->rows; tile.r += ACT_ROWS) {
            tile.rows = x->rows - tile.r < ACT_ROWS ? x->rows - tile.r : ACT_ROWS;
            matmul_tile(out, stride, &tile, steps);
            tile.ahead = tile.ahead_end;
        }
    }
}

void matmul_q4_0_avx2(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x)
{
    static const struct steps steps = {q4_0_unpack, q4_0_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_q8_0_avx2(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x)
{
    static const struct steps steps = {q8_0_unpack, q8_0_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_q6_k_avx2(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x)
{
    static const struct steps steps = {q6_k_unpack, q6_k_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_q4_k_avx2(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x)
{
    static const struct steps steps = {q4_k_unpack, k_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_q5_k_avx2(float *out, size_t stride, const struct weight_rows *w,
                      const struct act_rows *x)
{
    static const struct steps steps = {q5_k_unpack, k_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_iq4_nl_avx2(float *out, size_t stride, const struct weight_rows *w,
                        const struct act_rows *x)
{
    static const struct steps steps = {iq4_nl_unpack, q8_0_multiply};
    matmul_steps(out, stride, w, x, &steps);
}

void matmul_mxfp4_avx2(float *out, size_t stride, const struct weight_rows *w,
                       const struct act_rows *x)
{
    static const struct steps steps = {mxfp4_unpack, q8_0_multiply};
    matmul_steps(out, stride, w, x, &steps);
}
