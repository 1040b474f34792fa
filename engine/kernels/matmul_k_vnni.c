/* Products with rounded activations, AVX-512 VNNI: types with blocks of 256 values.
 *
 * A strip of a panel is one block of 16 rows, its dwords laid out as they come; scales of groups
 * are first taken apart, so that those of a group lie together. */
#include "engine/kernels/panels_vnni.h"

/* 16 values w[4] with one row of activations, from `first` on. */
static ALWAYS_INLINE __m512i group_product(__m512i first, const __m512i w[4], const int8_t *q)
{
    for (size_t g = 0; g < 4; g++)
        first = dot_four(first, w[g], q + 4 * g);
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
static ALWAYS_INLINE void start(struct ready *ready, const struct strip *a, int offset, size_t rows)
{
    const __m512i times = _mm512_set1_epi32(-offset);
    for (size_t i = 0; i < rows; i++)
        _mm512_storeu_si512(ready->first + 16 * i,
                            _mm512_mullo_epi32(load(a->sum + 16 * i), times));
}

/* whole + four groups, 32 values apart, of one row of activations. */
static ALWAYS_INLINE __m512i q6_k_part(__m512i whole, const __m512i w[4][4], const __m512i scale[4],
                                       const int32_t *first, const int8_t *q)
{
    for (size_t k = 0; k < 4; k++) {
        __m512i product = group_product(_mm512_set1_epi32(first[2 * k]), w[k], q + 32 * k);
        whole = _mm512_add_epi32(whole, _mm512_mullo_epi32(product, scale[k]));
    }
    return whole;
}

static ALWAYS_INLINE void q6_k_ready(struct ready *ready, const struct strip *a, size_t rows)
{
    start(ready, a, 32, rows);
}

static ALWAYS_INLINE void q6_k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, const struct ready *ready, size_t rows,
                                    size_t turn)
{
    __m512i whole[ACT_ROWS];
    const int32_t *first = ready->first;
    (void)turn;
    for (size_t i = 0; i < rows; i++)
        whole[i] = _mm512_setzero_si512();
    for (size_t part = 0; part < 4; part++) {
        __m512i w[4][4], scale[4];
        size_t group = 8 * (part / 2) + part % 2;
        q6_k_unpack(w, panel, part);
        fetch_next(a, part, 4);
        fetch(panel + part * Q6_K_PART, part == 3 ? Q6_K_PARTS + Q6_K_PART : Q6_K_PART, rows);
        for (size_t k = 0; k < 4; k++)
            scale[k] = _mm512_cvtepi8_epi32(
                _mm_loadu_si128((const __m128i *)(const void *)(panel + ROWS * (group + 2 * k))));
        if (rows > KEPT) {
            for (size_t i = 0; i < rows; i++)
                whole[i] = q6_k_part(whole[i], w, scale, first + 16 * i + group,
                                     a->q + i * STRIP + 16 * group);
            continue;
        }
#pragma GCC unroll 4
        for (size_t i = 0; i < rows; i++)
            whole[i] = q6_k_part(whole[i], w, scale, first + 16 * i + group,
                                 a->q + i * STRIP + 16 * group);
    }
    __m512 d = halves(panel + Q6_K_D);
    for (size_t i = 0; i < rows; i++)
        sum[i] = add_block(sum[i], d, a->scale[i], whole[i]);
}
PANELS(q6_k, 256, 53 * VECTOR)

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
static ALWAYS_INLINE void k_ready(struct ready *ready, const struct strip *a, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        __m512i s = load(a->sum + 16 * i);
        __m256i both = _mm512_cvtepi64_epi32(_mm512_add_epi32(s, _mm512_srli_epi64(s, 32)));
        _mm_storeu_si128((__m128i *)(void *)(ready->pairs + 4 * i), _mm256_cvtepi32_epi16(both));
    }
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
            w[0][j] = _mm512_or_si512(w[0][j], bit_as(h, 2 * k, 4));
            w[1][j] = _mm512_or_si512(w[1][j], bit_as(h, 2 * k + 1, 4));
        }
    }
}

static ALWAYS_INLINE void k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                 const struct strip *a, const int32_t *pairs, size_t rows,
                                 bool has_fifths, size_t bytes)
{
    __m512i whole[ACT_ROWS], mins[ACT_ROWS];
    uint8_t scale[8 * ROWS] ALIGNED, min[8 * ROWS] ALIGNED;
    const uint8_t *fifths = has_fifths ? panel + K_QUANTS : NULL;
    const uint8_t *quants = panel + K_QUANTS + (has_fifths ? 8 * VECTOR : 0);

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
        fetch(panel + k * bytes / 4, bytes / 4, rows);
        fetch_next(a, k, 4);
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
                                    const struct strip *a, const struct ready *ready, size_t rows,
                                    size_t turn)
{
    (void)turn;
    k_rows(sum, panel, a, ready->pairs, rows, false, 36 * VECTOR);
}
#define q4_k_ready k_ready
PANELS(q4_k, 256, 36 * VECTOR)

static ALWAYS_INLINE void q5_k_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, const struct ready *ready, size_t rows,
                                    size_t turn)
{
    (void)turn;
    k_rows(sum, panel, a, ready->pairs, rows, true, 44 * VECTOR);
}
#define q5_k_ready k_ready
PANELS(q5_k, 256, 44 * VECTOR)

/* ---- q2_k, q3_k, iq4_xs: runs of 32 values; scales of one byte, [group][row], come first, then d
 * and dmin [row] */

/* What 32 values and their two groups of 16 need; mins: both groups', side by side as int16. */
struct run {
    __m512i w[8], scale[2], mins;
};
typedef void run_unpack(struct run *r, const uint8_t *panel, size_t run);

/* What these types differ in. */
struct runs_type {
    run_unpack *unpack;
    bool has_mins;
    size_t d_at, bytes; /* of a strip of a panel */
};

static ALWAYS_INLINE __m512i signed_wide(const uint8_t *from)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
}

static ALWAYS_INLINE void runs_ready(struct ready *ready, const struct strip *a, size_t rows,
                                     int offset)
{
    start(ready, a, offset, rows);
    for (size_t i = 0; i < rows; i++)
        _mm256_storeu_si256((__m256i *)(void *)(ready->pairs + 8 * i),
                            _mm512_cvtepi32_epi16(load(a->sum + 16 * i)));
}

static ALWAYS_INLINE void runs_rows(__m512 *restrict sum, const uint8_t *restrict panel,
                                    const struct strip *a, const struct ready *ready, size_t rows,
                                    struct runs_type type)
{
    __m512i whole[ACT_ROWS], mins[ACT_ROWS];
    const int32_t *first = ready->first, *pairs = ready->pairs;
    const int8_t *restrict acts = a->q;

    for (size_t i = 0; i < rows; i++)
        whole[i] = mins[i] = _mm512_setzero_si512();
    for (size_t run = 0; run < 8; run++) {
        struct run r;
        type.unpack(&r, panel, run);
        fetch(panel + run * type.bytes / 8, type.bytes / 8, rows);
        fetch_next(a, run, 8);
        for (size_t i = 0; i < rows; i++) {
            const int8_t *q = acts + i * STRIP + 32 * run;
            const int32_t *from = first + 16 * i + 2 * run;
            __m512i even = group_product(_mm512_set1_epi32(from[0]), r.w, q);
            __m512i odd = group_product(_mm512_set1_epi32(from[1]), r.w + 4, q + 16);
            even = _mm512_add_epi32(_mm512_mullo_epi32(even, r.scale[0]),
                                    _mm512_mullo_epi32(odd, r.scale[1]));
            whole[i] = _mm512_add_epi32(whole[i], even);
            if (type.has_mins)
                mins[i] =
                    _mm512_dpwssd_epi32(mins[i], r.mins, _mm512_set1_epi32(pairs[8 * i + run]));
        }
    }
    __m512 d = halves(panel + type.d_at), dmin = halves(panel + type.d_at + VECTOR / 2);
    for (size_t i = 0; i < rows; i++) {
        __m512 factor = _mm512_mul_ps(dmin, _mm512_set1_ps(a->scale[i]));
        sum[i] = add_block(sum[i], d, a->scale[i], whole[i]);
        if (type.has_mins)
            sum[i] = _mm512_sub_ps(sum[i], _mm512_mul_ps(factor, _mm512_cvtepi32_ps(mins[i])));
    }
}

/* The functions of a type that PANELS wants; offset: of the quants, where there are no mins. */
#define RUNS_OF(name, offset, ...)                                                                 \
    static ALWAYS_INLINE void name##_ready(struct ready *ready, const struct strip *a,             \
                                           size_t rows)                                            \
    {                                                                                              \
        runs_ready(ready, a, rows, offset);                                                        \
    }                                                                                              \
    static ALWAYS_INLINE void name##_rows(__m512 *sum, const uint8_t *panel,                       \
                                          const struct strip *a, const struct ready *ready,        \
                                          size_t rows, size_t turn)                                \
    {                                                                                              \
        (void)turn;                                                                                \
        runs_rows(sum, panel, a, ready, rows, (struct runs_type){__VA_ARGS__});                    \
    }

/* Bits 2k and 2k+1 of byte l of half a block are those of value 32k + l. */
static ALWAYS_INLINE void two_bits(__m512i w[8], const uint8_t *quants, size_t run)
{
    for (size_t j = 0; j < 8; j++) {
        __m512i v = load(quants + (8 * (run / 4) + j) * VECTOR);
        v = _mm512_srl_epi16(v, _mm_cvtsi32_si128(2 * (int)(run % 4)));
        w[j] = _mm512_and_si512(v, _mm512_set1_epi8(3));
    }
}

#define D_AT (4 * VECTOR) /* of sixteen groups */
#define Q2_K_QUANTS (5 * VECTOR)
#define Q3_K_THIRDS (5 * VECTOR)
#define Q3_K_QUANTS (13 * VECTOR)

static void q2_k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    (void)blocks; /* one */
    pack_dwords(out, row, 0, 1);
    for (size_t i = 0; i < 4; i++)
        save(out, i, bytes_apart(load(out + i * VECTOR)));
    pack_halves(out + D_AT, row, 80);
    pack_halves(out + D_AT + VECTOR / 2, row, 82);
    pack_dwords(out + Q2_K_QUANTS, row, 16, 4);
}

static ALWAYS_INLINE void q2_k_unpack(struct run *r, const uint8_t *panel, size_t run)
{
    const __m512i low = _mm512_set1_epi32(15);
    __m512i even = bytes_wide(panel + 2 * ROWS * run),
            odd = bytes_wide(panel + 2 * ROWS * run + ROWS);
    two_bits(r->w, panel + Q2_K_QUANTS, run);
    r->scale[0] = _mm512_and_si512(even, low);
    r->scale[1] = _mm512_and_si512(odd, low);
    r->mins = _mm512_or_si512(_mm512_srli_epi32(even, 4),
                              _mm512_slli_epi32(_mm512_srli_epi32(odd, 4), 16));
}

RUNS_OF(q2_k, 0, q2_k_unpack, true, D_AT, 21 * VECTOR)
PANELS(q2_k, 256, 21 * VECTOR)

/* Six-bit scales less 32. The upper two bits of groups g, g + 4, ... stand in one byte. */
static void q3_k_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30);
    __m512i v[4], scale[4];
    (void)blocks;           /* one */
    transposed(v, row, 94); /* the last two bytes of q, t[12], d */
    for (size_t i = 0; i < 3; i++)
        v[i] = _mm512_or_si512(_mm512_srli_epi32(v[i], 16), _mm512_slli_epi32(v[i + 1], 16));
    scale[0] = _mm512_and_si512(_mm512_slli_epi16(v[2], 4), two);
    scale[1] = _mm512_and_si512(_mm512_slli_epi16(v[2], 2), two);
    scale[2] = _mm512_and_si512(v[2], two);
    scale[3] = _mm512_and_si512(_mm512_srli_epi16(v[2], 2), two);
    for (size_t i = 0; i < 4; i++) {
        __m512i lower = i < 2 ? v[i] : _mm512_srli_epi16(v[i - 2], 4);
        scale[i] = _mm512_or_si512(scale[i], _mm512_and_si512(lower, low));
        save(out, i, bytes_apart(_mm512_sub_epi8(scale[i], _mm512_set1_epi8(32))));
    }
    memset(out + D_AT, 0, VECTOR);
    pack_halves(out + D_AT, row, 108);
    pack_dwords(out + Q3_K_THIRDS, row, 0, 6); /* and the quants behind them */
}

static ALWAYS_INLINE void q3_k_unpack(struct run *r, const uint8_t *panel, size_t run)
{
    two_bits(r->w, panel + Q3_K_QUANTS, run);
    for (size_t j = 0; j < 8; j++)
        r->w[j] = _mm512_or_si512(r->w[j], bit_as(load(panel + Q3_K_THIRDS + j * VECTOR), run, 2));
    r->scale[0] = signed_wide(panel + 2 * ROWS * run);
    r->scale[1] = signed_wide(panel + 2 * ROWS * run + ROWS);
}

RUNS_OF(q3_k, 4, q3_k_unpack, false, D_AT, 29 * VECTOR)
PANELS(q3_k, 256, 29 * VECTOR)

#define IQ4_XS_D (2 * VECTOR)
#define IQ4_XS_QUANTS (3 * VECTOR)

static void iq4_xs_pack(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks)
{
    __m512i v[4];
    (void)blocks; /* one */
    transposed(v, row, 0);
    __m512i upper = _mm512_srli_epi32(v[0], 16), lower = v[1];
    for (size_t g = 0; g < 8; g++) {
        __m512i scale = _mm512_and_si512(lower, _mm512_set1_epi32(15));
        scale = _mm512_or_si512(
            scale, _mm512_slli_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(3)), 4));
        scale = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
        _mm_storeu_si128((__m128i *)(void *)(out + g * ROWS), _mm512_cvtepi32_epi8(scale));
        lower = _mm512_srli_epi32(lower, 4);
        upper = _mm512_srli_epi32(upper, 2);
    }
    memset(out + IQ4_XS_D, 0, VECTOR);
    pack_halves(out + IQ4_XS_D, row, 0);
    pack_dwords(out + IQ4_XS_QUANTS, row, 8, 8);
}

/* The levels of iq4_nl, plus 128. */
static ALWAYS_INLINE void iq4_xs_unpack(struct run *r, const uint8_t *panel, size_t run)
{
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15));
    for (size_t j = 0; j < 4; j++) {
        __m512i v = load(panel + IQ4_XS_QUANTS + (4 * run + j) * VECTOR);
        r->w[j] = _mm512_shuffle_epi8(table, _mm512_and_si512(v, low));
        r->w[j + 4] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    }
    r->scale[0] = r->scale[1] = signed_wide(panel + ROWS * run);
}

RUNS_OF(iq4_xs, 128, iq4_xs_unpack, false, IQ4_XS_D, 35 * VECTOR)
PANELS(iq4_xs, 256, 35 * VECTOR)
