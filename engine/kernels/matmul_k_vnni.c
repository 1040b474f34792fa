/* Products with rounded activations, AVX-512 VNNI: types with blocks of 256 values.
 *
 * A strip of a panel is one block of 16 rows, its dwords laid out as they come; scales of groups
 * are first taken apart, so that those of a group lie together. */
#include "engine/kernels/panels_vnni.h"

/* 16 values w[4] with one row of activations, from `first` on. */
static ALWAYS_INLINE __m512i group_product(__m512i first, const __m512i w[4], const int8_t *q)
{
    for (size_t g = 0; g < 4; g++)
        first = _mm512_dpbusd_epi32(first, w[g], four_acts(q + 4 * g));
    return first;
}

/* ---- q6_k: scales [16 groups][row] and d [row]; then, for each 16 bytes of qh, what belongs to
 * them: two times 16 bytes of ql, then they */

#define Q6_K_D (4 * VECTOR)
#define Q6_K_PARTS (5 * VECTOR)
#define Q6_K_PART (12 * VECTOR)

static void q6_k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    (void)blocks; /* one */
    pack_dwords(out, row, 192, 1);
    for (size_t i = 0; i < 4; i++)
        save(out, i, bytes_apart(load(out + i * VECTOR)));
    memset(out + Q6_K_D, 0, VECTOR);
    pack_halves(out + Q6_K_D, row, 208);
    for (size_t part = 0; part < 4; part++) {
        uint8_t *to = out + Q6_K_PARTS + part * Q6_K_PART;
        size_t low = 64 * (part / 2) + 16 * (part % 2);
        pack_dwords(to, row, low, 1);
        pack_dwords(to + 4 * VECTOR, row, low + 32, 1);
        pack_dwords(to + 8 * VECTOR, row, 128 + 16 * part, 1);
    }
}

/* 16 bytes of qh (`part`) are the upper bits of four groups, 32 values apart (spec weights.md 6).
 */
static ALWAYS_INLINE void q6_k_unpack(__m512i w[4][4], const uint8_t *panel, size_t part)
{
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30);
    const uint8_t *from = panel + Q6_K_PARTS + part * Q6_K_PART;
    for (size_t j = 0; j < 4; j++) {
        __m512i first = load(from + j * VECTOR), second = load(from + (4 + j) * VECTOR);
        __m512i high = load(from + (8 + j) * VECTOR);
        w[0][j] = _mm512_or_si512(_mm512_and_si512(first, low),
                                  _mm512_and_si512(_mm512_slli_epi16(high, 4), two));
        w[1][j] = _mm512_or_si512(_mm512_and_si512(second, low),
                                  _mm512_and_si512(_mm512_slli_epi16(high, 2), two));
        w[2][j] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(first, 4), low),
                                  _mm512_and_si512(high, two));
        w[3][j] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(second, 4), low),
                                  _mm512_and_si512(_mm512_srli_epi16(high, 2), two));
    }
}

/* -offset times the sums of a strip's groups of 16. */
static ALWAYS_INLINE void start(int32_t *out, const struct strip *a, int offset, size_t rows)
{
    const __m512i times = _mm512_set1_epi32(-offset);
    for (size_t i = 0; i < rows; i++)
        _mm512_storeu_si512(out + 16 * i, _mm512_mullo_epi32(load(a->sum + 16 * i), times));
}

static ALWAYS_INLINE void q6_k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, size_t rows)
{
    __m512i whole[ACT_ROWS];
    int32_t first[ACT_ROWS * 16];
    start(first, a, 32, rows);
    for (size_t i = 0; i < rows; i++)
        whole[i] = _mm512_setzero_si512();
    for (size_t part = 0; part < 4; part++) {
        __m512i w[4][4], scale[4];
        size_t group = 8 * (part / 2) + part % 2;
        q6_k_unpack(w, panel, part);
        fetch(panel + part * Q6_K_PART, part == 3 ? Q6_K_PARTS + Q6_K_PART : Q6_K_PART);
        for (size_t k = 0; k < 4; k++)
            scale[k] = _mm512_cvtepi8_epi32(
                _mm_loadu_si128((const __m128i *)(const void *)(panel + ROWS * (group + 2 * k))));
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < 4; k++) {
                size_t g = group + 2 * k;
                __m512i product = group_product(_mm512_set1_epi32(first[16 * i + g]), w[k],
                                                a->q + i * STRIP + 16 * g);
                whole[i] = _mm512_add_epi32(whole[i], _mm512_mullo_epi32(product, scale[k]));
            }
    }
    __m512 d = halves(panel + Q6_K_D);
    for (size_t i = 0; i < rows; i++)
        sum[i] = add_block(sum[i], d, a->scale[i], whole[i]);
}
PANELS(q6_k, 53 * VECTOR)

/* ---- q4_k, q5_k: d and dmin [row], six-bit scales and mins, fifth bits, nibbles */

#define K_SCALES VECTOR
#define K_QUANTS (4 * VECTOR) /* fifth bits of q5_k: 8 vectors; nibbles: 32 */

static ALWAYS_INLINE void k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t dwords)
{
    pack_halves(out, row, 0);
    pack_halves(out + VECTOR / 2, row, 2);
    __m512i v[4];
    transposed(v, row, 0);
    for (size_t i = 1; i < 4; i++)
        save(out, i, bytes_apart(v[i]));
    pack_dwords(out + K_QUANTS, row, 16, dwords / 4);
}

static void q4_k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    (void)blocks; /* one */
    k_pack(out, row, 32);
}

static void q5_k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    (void)blocks; /* one */
    k_pack(out, row, 40);
}

/* Scales and mins [8 groups][row] as bytes. Those of groups 4..7 have their lower four bits in the
 * last four bytes, the upper two above those of 0..3. */
static ALWAYS_INLINE void k_scales(uint8_t *scale, uint8_t *min, const uint8_t *panel)
{
    const __m512i six = _mm512_set1_epi8(63), four = _mm512_set1_epi8(15);
    const __m512i two = _mm512_set1_epi8(0x30);
    __m512i v[3];
    for (size_t i = 0; i < 3; i++)
        v[i] = load(panel + K_SCALES + i * VECTOR);
    save(scale, 0, _mm512_and_si512(v[0], six));
    save(scale, 1,
         _mm512_or_si512(_mm512_and_si512(v[2], four),
                         _mm512_and_si512(_mm512_srli_epi16(v[0], 2), two)));
    save(min, 0, _mm512_and_si512(v[1], six));
    save(min, 1,
         _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(v[2], 4), four),
                         _mm512_and_si512(_mm512_srli_epi16(v[1], 2), two)));
}

static ALWAYS_INLINE __m512i bytes_wide(const uint8_t *from)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* The sums of two groups of 32, side by side as int16: they fit. */
static ALWAYS_INLINE void pair_sums(int32_t *out, const struct strip *a, size_t rows)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < 4; k++) {
            const int32_t *s = a->sum + 16 * i + 4 * k;
            out[4 * i + k] = ((s[0] + s[1]) & 0xffff) | (s[2] + s[3]) * 65536;
        }
}

/* Bit `group` of every byte, as 16. */
static ALWAYS_INLINE __m512i fifth_bits(__m512i h, size_t group)
{
    __m512i moved = group < 4 ? _mm512_sll_epi16(h, _mm_cvtsi32_si128(4 - (int)group))
                              : _mm512_srl_epi16(h, _mm_cvtsi32_si128((int)group - 4));
    return _mm512_and_si512(moved, _mm512_set1_epi8(16));
}

/* Groups 2k and 2k+1. */
static ALWAYS_INLINE void k_unpack(__m512i w[2][8], const uint8_t *quants, const uint8_t *fifths,
                                   size_t k)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t j = 0; j < 8; j++) {
        __m512i v = load(quants + (8 * k + j) * VECTOR);
        w[0][j] = _mm512_and_si512(v, low);
        w[1][j] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        if (fifths) {
            __m512i h = load(fifths + j * VECTOR);
            w[0][j] = _mm512_or_si512(w[0][j], fifth_bits(h, 2 * k));
            w[1][j] = _mm512_or_si512(w[1][j], fifth_bits(h, 2 * k + 1));
        }
    }
}

static ALWAYS_INLINE void k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                 const struct strip *a, size_t rows, bool has_fifths, size_t bytes)
{
    __m512i whole[ACT_ROWS], mins[ACT_ROWS];
    int32_t pairs[ACT_ROWS * 4];
    uint8_t scale[8 * ROWS] ALIGNED, min[8 * ROWS] ALIGNED;
    const uint8_t *fifths = has_fifths ? panel + K_QUANTS : NULL;
    const uint8_t *quants = panel + K_QUANTS + (has_fifths ? 8 * VECTOR : 0);

    pair_sums(pairs, a, rows);
    k_scales(scale, min, panel);
    for (size_t i = 0; i < rows; i++)
        whole[i] = mins[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < 4; k++) {
        __m512i w[2][8];
        __m512i even = bytes_wide(scale + 2 * ROWS * k),
                odd = bytes_wide(scale + 2 * ROWS * k + ROWS);
        __m512i both =
            _mm512_or_si512(bytes_wide(min + 2 * ROWS * k),
                            _mm512_slli_epi32(bytes_wide(min + 2 * ROWS * k + ROWS), 16));
        k_unpack(w, quants, fifths, k);
        fetch(panel + k * bytes / 4, bytes / 4);
        for (size_t i = 0; i < rows; i++) {
            const int8_t *q = a->q + i * STRIP + 64 * k;
            __m512i p[4];
            for (size_t h = 0; h < 4; h++)
                p[h] = group_product(_mm512_setzero_si512(), w[h / 2] + 4 * (h % 2), q + 16 * h);
            p[0] = _mm512_mullo_epi32(_mm512_add_epi32(p[0], p[1]), even);
            p[2] = _mm512_mullo_epi32(_mm512_add_epi32(p[2], p[3]), odd);
            whole[i] = _mm512_add_epi32(whole[i], _mm512_add_epi32(p[0], p[2]));
            mins[i] = _mm512_dpwssd_epi32(mins[i], both, _mm512_set1_epi32(pairs[4 * i + k]));
        }
    }
    __m512 d = halves(panel), dmin = halves(panel + VECTOR / 2);
    for (size_t i = 0; i < rows; i++) {
        __m512 factor = _mm512_mul_ps(dmin, _mm512_set1_ps(a->scale[i]));
        sum[i] = add_block(sum[i], d, a->scale[i], whole[i]);
        sum[i] = _mm512_sub_ps(sum[i], _mm512_mul_ps(factor, _mm512_cvtepi32_ps(mins[i])));
    }
}

static ALWAYS_INLINE void q4_k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, size_t rows)
{
    k_rows(sum, panel, a, rows, false, 36 * VECTOR);
}
PANELS(q4_k, 36 * VECTOR)

static ALWAYS_INLINE void q5_k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, size_t rows)
{
    k_rows(sum, panel, a, rows, true, 44 * VECTOR);
}
PANELS(q5_k, 44 * VECTOR)
