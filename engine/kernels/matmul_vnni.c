/* Products with rounded activations, AVX-512 VNNI: types with blocks of 32 values.
 *
 * A strip of a panel: the scales of its blocks, 16 each, then vectors of quants, block by block.
 * Quants are multiplied as bytes without a sign; the offset that makes them so is taken off
 * through the sum of the activations.
 *
 * What multiplies is what is short, and a step of activations is one of 16 significands times a
 * power of two (act_step): so for many rows a table of a block's scale times each of these is made
 * by additions, exactly, and the power comes with the whole number: the sum of its products begins
 * with the bits of 1.5 * 2^23 times the power, and when that is taken off as a float, the whole
 * number times the power remains. Then (scale * step) * whole is one multiplication, and the same
 * number: both ways round once, at the end. */
#include "engine/kernels/panels_vnni.h"

#define BLOCKS (STRIP / 32)
#define SIGNIFICANDS (1 << (ACT_STEP_BITS - 1)) /* of a step */
#define IN_TURN 8                               /* rows at most whose products go side by side */
#define HALVES (BLOCKS * ROWS * 2)              /* bytes of the scales of a strip */

/* Steps that can be taken apart: 0, or as act_step makes them and of a size with which neither a
 * factor nor the number that begins a sum leaves the normal floats, with scales from 2^-28 to 2^64.
 */
#define STEP_LEAST ((127 - 96) << 23)
#define STEP_MOST ((127 + 60) << 23)
#define STEP_REST (24 - ACT_STEP_BITS) /* bits of a float below those of a step */

static ALWAYS_INLINE bool steps_fit(const struct strip *a, size_t rows)
{
    __m256i bad = _mm256_setzero_si256();
    for (size_t i = 0; i < rows; i++) {
        __m256i s = _mm256_loadu_si256((const __m256i *)(const void *)(a->scale + i * BLOCKS));
        __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(STEP_LEAST), s);
        bad = _mm256_or_si256(bad, _mm256_and_si256(small, s));
        bad = _mm256_or_si256(bad, _mm256_slli_epi32(s, 32 - STEP_REST));
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi32(s, _mm256_set1_epi32(STEP_MOST)));
    }
    return _mm256_testz_si256(bad, bad);
}

/* Takes the steps of rows apart; a step of 0, whose products are 0, counts as STEP_LEAST. */
static ALWAYS_INLINE void take_apart(struct ready *ready, const struct strip *a, size_t rows,
                                     bool has_base)
{
    const __m256i begin = _mm256_set1_epi32((23 << 23) | (1 << 22)); /* times 1.5 * 2^23 */
    const __m256i last = _mm256_set1_epi32(SIGNIFICANDS - 1);
    for (size_t i = 0; i < rows * BLOCKS; i += BLOCKS) {
        __m256i s = _mm256_loadu_si256((const __m256i *)(const void *)(a->scale + i));
        s = _mm256_max_epi32(s, _mm256_set1_epi32(STEP_LEAST));
        __m256i at = _mm256_and_si256(_mm256_srli_epi32(s, STEP_REST), last);
        __m256i power = _mm256_slli_epi32(_mm256_srli_epi32(s, 23), 23);
        __m256i from = _mm256_add_epi32(power, begin);
        __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)(ready->first + i));
        _mm_storeu_si64(ready->at + i, _mm256_cvtepi32_epi8(_mm256_slli_epi32(at, 3)));
        _mm256_storeu_ps(ready->begin + i, _mm256_castsi256_ps(from));
        _mm256_storeu_si256((__m256i *)(void *)(ready->begin_first + i),
                            _mm256_add_epi32(first, from));
        if (has_base) {
            __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)(a->sum + i));
            _mm256_storeu_ps(ready->base + i,
                             _mm256_mul_ps(_mm256_castsi256_ps(power), _mm256_cvtepi32_ps(sum)));
        }
    }
}

/* -offset times the sums of a strip's blocks: where the whole numbers begin. Types without an
 * offset have a base. */
static ALWAYS_INLINE void start(struct ready *ready, const struct strip *a, int offset, size_t rows)
{
    const __m256i times = _mm256_set1_epi32(-offset);
    for (size_t i = 0; i < rows; i++) {
        __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)(a->sum + i * BLOCKS));
        _mm256_storeu_si256((__m256i *)(void *)(ready->first + i * BLOCKS),
                            _mm256_mullo_epi32(sum, times));
    }
    ready->apart = rows >= MANY && steps_fit(a, rows);
    if (ready->apart)
        take_apart(ready, a, rows, offset == 0);
}

/* whole[i] = product of a block's quants w[8] with row i of activations, from `first` on; side by
 * side, so that none waits for its own last sum. One or two rows are summed in two halves for
 * that. */
static ALWAYS_INLINE void block_products(__m512i *whole, const __m512i w[8], const int8_t *q,
                                         const int32_t *first, size_t rows)
{
    __m512i odd[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    bool halves = rows <= 2;
    /* Or the compiler would keep the address of each product. */
    __asm__("" : "+r"(q));
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++)
        whole[i] = _mm512_set1_epi32(first[i * BLOCKS]);
#pragma GCC unroll 8
    for (size_t g = 0; g < 8; g++) {
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            __m512i *to = halves && g % 2 ? &odd[i] : &whole[i];
            *to = dot_four(*to, w[g], q + i * STRIP + 4 * g);
        }
    }
    for (size_t i = 0; halves && i < rows; i++)
        whole[i] = _mm512_add_epi32(whole[i], odd[i]);
}

typedef void block_unpack(__m512i w[8], const uint8_t *panel, size_t block);
typedef __m512 block_scale(const uint8_t *panel, size_t block);

/* What types with blocks of 32 values differ in. */
struct blocks_type {
    block_unpack *unpack;
    block_scale *scale, *base; /* base: of types whose offset is none; else NULL */
    size_t bytes;              /* of a block of ROWS rows */
    /* of a type with scales that halves cannot have: have these blocks such? Else NULL */
    bool (*strays)(const uint8_t *panel, size_t blocks);
};

/* A block with rows of activations, from the first of `a` on. */
static ALWAYS_INLINE void block_rows(__m512 *restrict sum, const __m512i w[8],
                                     const uint8_t *restrict panel, size_t block,
                                     const struct strip *a, const int32_t *first, size_t rows,
                                     struct blocks_type type)
{
    __m512 d = type.scale(panel, block);
    __m512i whole[IN_TURN];

    block_products(whole, w, a->q + 32 * block, first + block, rows);
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++) {
        size_t at = i * BLOCKS + block;
        sum[i] = add_block(sum[i], d, a->scale[at], whole[i]);
        if (type.base)
            sum[i] = add_block(sum[i], type.base(panel, block), a->scale[at],
                               _mm512_set1_epi32(a->sum[at]));
    }
}

/* A scale times each significand. */
static ALWAYS_INLINE void make_table(float *table, __m512 scale)
{
    const __m512 part = _mm512_mul_ps(scale, _mm512_set1_ps(1.0f / SIGNIFICANDS));
    const __m512 two = _mm512_add_ps(part, part), four = _mm512_add_ps(two, two);
    __m512 next[4] = {scale, _mm512_add_ps(scale, part), _mm512_add_ps(scale, two)};

    next[3] = _mm512_add_ps(next[2], part);
    for (size_t j = 0; j < SIGNIFICANDS; j += 4)
        for (size_t i = 0; i < 4; i++, table += ROWS) {
            _mm512_store_ps(table, next[i]);
            next[i] = _mm512_add_ps(next[i], four);
        }
}

/* Of the scales and bases of a block. */
struct tables {
    float scale[SIGNIFICANDS * ROWS] ALIGNED, base[SIGNIFICANDS * ROWS] ALIGNED;
};

static ALWAYS_INLINE __m512 factor_at(const float *table, uint8_t at)
{
    return _mm512_load_ps((const uint8_t *)table + 8 * (size_t)at);
}

/* As block_rows, with steps taken apart; from: BLOCKS times the first row, plus the block. */
static ALWAYS_INLINE void apart_rows(__m512 *restrict sum, const __m512i w[8],
                                     const struct tables *tables, const int8_t *q,
                                     const struct ready *ready, size_t from, size_t rows,
                                     bool has_base)
{
    __m512i whole[IN_TURN];

    block_products(whole, w, q + 32 * from, ready->begin_first + from, rows);
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++) {
        size_t at = from + i * BLOCKS;
        __m512 moved =
            _mm512_sub_ps(_mm512_castsi512_ps(whole[i]), _mm512_set1_ps(ready->begin[at]));
        sum[i] =
            _mm512_add_ps(sum[i], _mm512_mul_ps(moved, factor_at(tables->scale, ready->at[at])));
        if (has_base)
            sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(_mm512_set1_ps(ready->base[at]),
                                                         factor_at(tables->base, ready->at[at])));
    }
}

/* As blocks_rows, with steps taken apart. */
static ALWAYS_INLINE void blocks_apart(__m512 *restrict sum, const uint8_t *restrict panel,
                                       const struct strip *a, const struct ready *ready,
                                       size_t rows, struct blocks_type type)
{
    size_t blocks = a->blocks < BLOCKS ? a->blocks : BLOCKS;
    struct tables tables;

    for (size_t b = 0; b < blocks; b++) {
        size_t i = 0;
        __m512i w[8];
        type.unpack(w, panel, b);
        fetch(panel + b * type.bytes, type.bytes, rows);
        fetch_next(a, b, BLOCKS);
        make_table(tables.scale, type.scale(panel, b));
        if (type.base)
            make_table(tables.base, type.base(panel, b));
        for (; i + TURN <= rows; i += TURN)
            apart_rows(sum + i, w, &tables, a->q, ready, i * BLOCKS + b, TURN, type.base);
        for (; i < rows; i++)
            apart_rows(sum + i, w, &tables, a->q, ready, i * BLOCKS + b, 1, type.base);
    }
}

/* The same strip from another row on. */
static ALWAYS_INLINE struct strip rows_from(const struct strip *a, size_t row)
{
    return (struct strip){
        .q = a->q + row * STRIP, .scale = a->scale + row * BLOCKS, .sum = a->sum + row * BLOCKS};
}

static ALWAYS_INLINE void blocks_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                      const struct strip *a, const struct ready *ready, size_t rows,
                                      size_t turn, struct blocks_type type)
{
    size_t blocks = a->blocks < BLOCKS ? a->blocks : BLOCKS;

    if (rows >= MANY && ready->apart && !(type.strays && type.strays(panel, blocks))) {
        blocks_apart(sum, panel, a, ready, rows, type);
        return;
    }
    for (size_t b = 0; b < blocks; b++) {
        size_t i = 0;
        __m512i w[8];
        type.unpack(w, panel, b);
        fetch(panel + b * type.bytes, type.bytes, rows);
        fetch_next(a, b, BLOCKS);
        for (; i + turn <= rows; i += turn) {
            struct strip some = rows_from(a, i);
            block_rows(sum + i, w, panel, b, &some, ready->first + i * BLOCKS, turn, type);
        }
        for (; i < rows; i++) {
            struct strip one = rows_from(a, i);
            block_rows(sum + i, w, panel, b, &one, ready->first + i * BLOCKS, 1, type);
        }
    }
}

/* The functions of a type that PANELS wants. */
#define BLOCKS_OF(name, offset, ...)                                                               \
    static ALWAYS_INLINE void name##_ready(struct ready *ready, const struct strip *a,             \
                                           size_t rows)                                            \
    {                                                                                              \
        start(ready, a, offset, rows);                                                             \
    }                                                                                              \
    static ALWAYS_INLINE void name##_rows(__m512 *sum, const uint8_t *panel,                       \
                                          const struct strip *a, const struct ready *ready,        \
                                          size_t rows, size_t turn)                                \
    {                                                                                              \
        blocks_rows(sum, panel, a, ready, rows, turn, (struct blocks_type){__VA_ARGS__});          \
    }

static ALWAYS_INLINE __m512 half_scale(const uint8_t *panel, size_t block)
{
    return halves(panel + 2 * ROWS * block);
}

static ALWAYS_INLINE void nibbles(__m512i w[8], const uint8_t *from)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t j = 0; j < 4; j++) {
        __m512i v = load(from + j * VECTOR);
        w[j] = _mm512_and_si512(v, low);
        w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
}

/* ---- q4_0 */

static void q4_0_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    for (size_t b = 0; b < blocks; b++) {
        pack_halves(out + 2 * ROWS * b, row, 18 * b);
        pack_dwords(out + HALVES + 4 * VECTOR * b, row, 18 * b + 2, 1);
    }
}

static ALWAYS_INLINE void q4_0_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    nibbles(w, panel + HALVES + 4 * VECTOR * block);
}

BLOCKS_OF(q4_0, 8, q4_0_unpack, half_scale, NULL, 18 * ROWS, NULL)
PANELS(q4_0, 32, HALVES + BLOCKS * 4 * VECTOR)

/* ---- q4_1, q5_0, q5_1: scales stand beside bases; the fifth bits of a block before its nibbles */

static ALWAYS_INLINE __m512 first_scale(const uint8_t *panel, size_t block)
{
    return halves(panel + VECTOR * block);
}

static ALWAYS_INLINE __m512 second_scale(const uint8_t *panel, size_t block)
{
    return halves(panel + VECTOR * block + VECTOR / 2);
}

static ALWAYS_INLINE void pack_scales(uint8_t *out, const uint8_t *const row[ROWS], size_t at)
{
    pack_halves(out, row, at);
    pack_halves(out + VECTOR / 2, row, at + 2);
}

static void q4_1_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    for (size_t b = 0; b < blocks; b++) {
        pack_scales(out + VECTOR * b, row, 20 * b);
        pack_dwords(out + (BLOCKS + 4 * b) * VECTOR, row, 20 * b + 4, 1);
    }
}

static ALWAYS_INLINE void q4_1_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    nibbles(w, panel + (BLOCKS + 4 * block) * VECTOR);
}

BLOCKS_OF(q4_1, 0, q4_1_unpack, first_scale, second_scale, 20 * ROWS, NULL)
PANELS(q4_1, 32, BLOCKS * 5 * VECTOR)

/* Bits 4v .. 4v+3 of a row belong to its bytes in vector v: to bit v of each byte. A product
 * spreads four bits over four bytes. */
static ALWAYS_INLINE void pack_fifths(uint8_t *out, const uint8_t *const row[ROWS], size_t at)
{
    const __m512i spread = _mm512_set1_epi32(0x00204081), one = _mm512_set1_epi8(1);
    __m512i all = _mm512_setzero_si512();
    uint32_t bits[ROWS];
    for (size_t i = 0; i < ROWS; i++)
        memcpy(&bits[i], row[i] + at, sizeof bits[i]);
    __m512i h = load(bits);
    for (int v = 0; v < 8; v++) {
        __m512i four = _mm512_and_si512(h, _mm512_set1_epi32(15));
        four = _mm512_and_si512(_mm512_mullo_epi32(four, spread), one);
        all = _mm512_or_si512(all, _mm512_sll_epi16(four, _mm_cvtsi32_si128(v)));
        h = _mm512_srli_epi32(h, 4);
    }
    save(out, 0, all);
}

static ALWAYS_INLINE void five_bits(__m512i w[8], const uint8_t *from)
{
    __m512i h = load(from);
    nibbles(w, from + VECTOR);
    for (size_t v = 0; v < 8; v++)
        w[v] = _mm512_or_si512(w[v], bit_as(h, v, 4));
}

static void q5_0_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *to = out + HALVES + 5 * VECTOR * b;
        pack_halves(out + 2 * ROWS * b, row, 22 * b);
        pack_fifths(to, row, 22 * b + 2);
        pack_dwords(to + VECTOR, row, 22 * b + 6, 1);
    }
}

static ALWAYS_INLINE void q5_0_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    five_bits(w, panel + HALVES + 5 * VECTOR * block);
}

BLOCKS_OF(q5_0, 16, q5_0_unpack, half_scale, NULL, 22 * ROWS, NULL)
PANELS(q5_0, 32, HALVES + BLOCKS * 5 * VECTOR)

static void q5_1_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *to = out + (BLOCKS + 5 * b) * VECTOR;
        pack_scales(out + VECTOR * b, row, 24 * b);
        pack_fifths(to, row, 24 * b + 4);
        pack_dwords(to + VECTOR, row, 24 * b + 8, 1);
    }
}

static ALWAYS_INLINE void q5_1_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    five_bits(w, panel + (BLOCKS + 5 * block) * VECTOR);
}

BLOCKS_OF(q5_1, 0, q5_1_unpack, first_scale, second_scale, 24 * ROWS, NULL)
PANELS(q5_1, 32, BLOCKS * 6 * VECTOR)

/* ---- q8_0: stored with the sign bit turned, which adds 128 */

static void q8_0_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    const __m512i sign = _mm512_set1_epi8(-128);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *to = out + HALVES + 8 * VECTOR * b;
        pack_halves(out + 2 * ROWS * b, row, 34 * b);
        pack_dwords(to, row, 34 * b + 2, 2);
        for (size_t j = 0; j < 8; j++)
            save(to, j, _mm512_xor_si512(load(to + j * VECTOR), sign));
    }
}

static ALWAYS_INLINE void q8_0_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    for (size_t j = 0; j < 8; j++)
        w[j] = load(panel + HALVES + (8 * block + j) * VECTOR);
}

BLOCKS_OF(q8_0, 128, q8_0_unpack, half_scale, NULL, 34 * ROWS, NULL)
PANELS(q8_0, 32, HALVES + BLOCKS * 8 * VECTOR)

/* ---- iq4_nl, mxfp4: nibbles stand for levels, here plus 128 */

/* quant/parts.h has the levels too, but also inline code, which must not be compiled with these
 * flags. */

static ALWAYS_INLINE void levels(__m512i w[8], __m128i table)
{
    for (size_t j = 0; j < 8; j++)
        w[j] = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), w[j]);
}

static ALWAYS_INLINE void iq4_nl_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    nibbles(w, panel + HALVES + 4 * VECTOR * block);
    levels(w, _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39,
                            -15));
}

BLOCKS_OF(iq4_nl, 128, iq4_nl_unpack, half_scale, NULL, 18 * ROWS, NULL)
#define iq4_nl_pack q4_0_pack
PANELS(iq4_nl, 32, HALVES + BLOCKS * 4 * VECTOR)

#define POWERS (BLOCKS * ROWS) /* bytes of the scales of a strip */

static void mxfp4_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    for (size_t b = 0; b < blocks; b++) {
        for (size_t i = 0; i < ROWS; i++)
            out[b * ROWS + i] = row[i][17 * b];
        pack_dwords(out + POWERS + 4 * VECTOR * b, row, 17 * b + 1, 1);
    }
}

/* 2^(e - 128) as float32, subnormal below 2. */
static ALWAYS_INLINE __m512 power_scale(const uint8_t *panel, size_t block)
{
    __m512i e = _mm512_cvtepu8_epi32(
        _mm_loadu_si128((const __m128i *)(const void *)(panel + ROWS * block)));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    __mmask16 is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, small));
}

static ALWAYS_INLINE bool mxfp4_strays(const uint8_t *panel, size_t blocks)
{
    for (size_t i = 0; i < blocks * ROWS; i += ROWS) {
        __m128i e = _mm_loadu_si128((const __m128i *)(const void *)(panel + i));
        if (_mm_cmpgt_epu8_mask(_mm_sub_epi8(e, _mm_set1_epi8(128 - 28)), _mm_set1_epi8(28 + 64)))
            return true;
    }
    return false;
}

static ALWAYS_INLINE void mxfp4_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    nibbles(w, panel + POWERS + 4 * VECTOR * block);
    levels(w, _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

BLOCKS_OF(mxfp4, 12, mxfp4_unpack, power_scale, NULL, 17 * ROWS, mxfp4_strays)
PANELS(mxfp4, 32, POWERS + BLOCKS * 4 * VECTOR)
