/* Products with rounded activations, AVX-512 VNNI: types with blocks of 32 values.
 *
 * A strip of a panel: the scales of its blocks, 16 each, then vectors of quants, block by block.
 * Quants are multiplied as bytes without a sign; the offset that makes them so is taken off
 * through the sum of the activations. */
#include "engine/kernels/panels_vnni.h"

#define BLOCKS (STRIP / 32)
#define HALVES (BLOCKS * ROWS * 2) /* bytes of the scales of a strip */

/* -offset times the sums of a strip's blocks: where the whole numbers begin. */
static ALWAYS_INLINE void start(int32_t *out, const struct strip *a, int offset, size_t rows)
{
    const __m256i times = _mm256_set1_epi32(-offset);
    for (size_t i = 0; i < rows; i++) {
        __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)(a->sum + i * BLOCKS));
        _mm256_storeu_si256((__m256i *)(void *)(out + i * BLOCKS), _mm256_mullo_epi32(sum, times));
    }
}

/* The product of one block with one row of activations: quants w[8], from `first` on. */
static ALWAYS_INLINE __m512i block_product(const __m512i w[8], const int8_t *q, int32_t first)
{
    __m512i even = _mm512_set1_epi32(first), odd = _mm512_setzero_si512();
    for (size_t g = 0; g < 8; g += 2) {
        even = _mm512_dpbusd_epi32(even, w[g], four_acts(q + 4 * g));
        odd = _mm512_dpbusd_epi32(odd, w[g + 1], four_acts(q + 4 * g + 4));
    }
    return _mm512_add_epi32(even, odd);
}

typedef void block_unpack(__m512i w[8], const uint8_t *panel, size_t block);
typedef __m512 block_scale(const uint8_t *panel, size_t block);

static ALWAYS_INLINE void blocks_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                      const struct strip *a, size_t rows, int offset,
                                      block_unpack *unpack, block_scale *scale, size_t bytes)
{
    const int8_t *restrict q = a->q;
    const float *restrict act_scale = a->scale;
    int32_t first[ACT_ROWS * BLOCKS];
    size_t blocks = a->blocks;

    start(first, a, offset, rows);
    for (size_t b = 0; b < blocks; b++) {
        __m512i w[8];
        __m512 d = scale(panel, b);
        unpack(w, panel, b);
        fetch(panel + b * bytes, bytes);
        for (size_t i = 0; i < rows; i++) {
            __m512i whole = block_product(w, q + i * STRIP + 32 * b, first[i * BLOCKS + b]);
            sum[i] = add_block(sum[i], d, act_scale[i * BLOCKS + b], whole);
        }
    }
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

static ALWAYS_INLINE void q4_0_rows(__m512 *sum, const uint8_t *panel, const struct strip *a,
                                    size_t rows)
{
    blocks_rows(sum, panel, a, rows, 8, q4_0_unpack, half_scale, 18 * ROWS);
}
PANELS(q4_0, HALVES + BLOCKS * 4 * VECTOR)

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

static ALWAYS_INLINE void q8_0_rows(__m512 *sum, const uint8_t *panel, const struct strip *a,
                                    size_t rows)
{
    blocks_rows(sum, panel, a, rows, 128, q8_0_unpack, half_scale, 34 * ROWS);
}
PANELS(q8_0, HALVES + BLOCKS * 8 * VECTOR)

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

static ALWAYS_INLINE void iq4_nl_rows(__m512 *sum, const uint8_t *panel, const struct strip *a,
                                      size_t rows)
{
    blocks_rows(sum, panel, a, rows, 128, iq4_nl_unpack, half_scale, 18 * ROWS);
}
#define iq4_nl_pack q4_0_pack
PANELS(iq4_nl, HALVES + BLOCKS * 4 * VECTOR)

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

static ALWAYS_INLINE void mxfp4_unpack(__m512i w[8], const uint8_t *panel, size_t block)
{
    nibbles(w, panel + POWERS + 4 * VECTOR * block);
    levels(w, _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

static ALWAYS_INLINE void mxfp4_rows(__m512 *sum, const uint8_t *panel, const struct strip *a,
                                     size_t rows)
{
    blocks_rows(sum, panel, a, rows, 12, mxfp4_unpack, power_scale, 17 * ROWS);
}
PANELS(mxfp4, POWERS + BLOCKS * 4 * VECTOR)
