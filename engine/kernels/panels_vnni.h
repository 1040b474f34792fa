/* panels_vnni.h - panels of weights for AVX-512 VNNI: how they are laid out, and what the files of
 * this set share; static, so no other file can get code with these flags from here.
 *
 * A panel is 16 rows of weights side by side, one in each 32-bit lane, strip by strip of ACT_STRIP
 * values. Bytes 4g .. 4g+3 of a block of row i stand in lane i of vector g, so a vector is
 * multiplied with 4 broadcast activations, no sum runs across lanes, and one row of activations
 * gives the same bits as many. Whole numbers and order are those of matmul_c.c. */
#pragma once
#include "engine/kernels/sets.h"
#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

#define ROWS PANEL_ROWS
#define STRIP ACT_STRIP
#define VECTOR ((size_t)64) /* bytes */
#define AHEAD 4096          /* bytes, into the first cache */
#define AHEAD_SECOND 8192   /* into the second one */
#define AHEAD_AGAIN 1024    /* into the first one, what was asked for before */
#define MANY_LINES (12 * VECTOR)
#define FEW 8       /* activation rows */
#define MANY 32     /* activation rows, for which more is prepared */
#define KEPT 4      /* activation rows, up to which their sums stay in registers */
#define ACT_ROWS 64 /* activation rows that share strips while these are in the cache */
#define GROUP 4     /* panels that share them too */
#define TURN 2      /* of many rows, those whose products go side by side */
#define STRIP_BYTES_MAX (68 * VECTOR) /* q8_0 */

/* A strip of activations, from some row on. */
struct strip {
    const int8_t *q;    /* [rows][STRIP] */
    const float *scale; /* [rows][STRIP / block] */
    const int32_t *sum; /* [rows][STRIP / ACT_GROUP(block)] */
    size_t blocks;      /* of 32 values, at most 8 are in this strip; of 256: one is */
    const int8_t *next; /* what to ask for meanwhile, of the next strip; or NULL */
    size_t next_bytes;
};

/* What is made of a strip of activations once for all panels. */
struct ready {
    int32_t first[ACT_ROWS * 16]; /* where the whole numbers of a block or group begin */
    int32_t pairs[ACT_ROWS * 8];  /* sums of two groups, side by side as int16 */
    /* Of blocks of 32 values whose steps are taken apart (matmul_vnni.c): where whole numbers begin
     * then, as they are and with the sum of the block; the sum of the block, times the power; where
     * a table has the significand, in units of 8 bytes. */
    float begin[ACT_ROWS * 8];
    int32_t begin_first[ACT_ROWS * 8];
    uint8_t at[ACT_ROWS * 8];
    float base[ACT_ROWS * 8];
    bool apart;
};

/* Panels, which lie panel_bytes apart, and 1 .. ACT_ROWS rows of activations; the first strip of
 * these is `a`, the next one stands `step` rows behind it. */
struct tile {
    const uint8_t *panel;
    size_t panels, panel_bytes, strips;
    struct strip a;
    size_t rows, step;
};

/* One storage type. */
struct panel_type {
    size_t strip_bytes; /* of a panel, a multiple of VECTOR, at most STRIP_BYTES_MAX */
    /* blocks of ROWS rows, which begin at row[i] */
    void (*pack)(uint8_t *out, const uint8_t *const row[ROWS], size_t blocks);
    /* sum[p * ACT_ROWS + i] += products of panel p with row i of activations */
    void (*multiply)(__m512 *sum, const struct tile *tile);
};

static inline __m512i load(const void *from)
{
    return _mm512_loadu_si512(from);
}

static inline void save(uint8_t *out, size_t vector, __m512i v)
{
    _mm512_storeu_si512(out + vector * VECTOR, v);
}

static ALWAYS_INLINE void ask(const uint8_t *from, size_t bytes, int to)
{
    for (size_t i = 0; i < bytes; i += VECTOR) {
        if (to == 2)
            _mm_prefetch((const char *)from + i, _MM_HINT_T1);
        else
            _mm_prefetch((const char *)from + i, _MM_HINT_T0);
    }
}

/* Ask for what will be needed soon: the processor does not run far enough ahead by itself. The
 * first cache waits for few lines of memory at once, takes no more, and has little room beside
 * several rows of activations: for these a line comes into the second one first. One row alone is
 * so fast that the processor's own fetching does that; of many lines in one go some are not taken,
 * and asked for again. */
static ALWAYS_INLINE void fetch(const uint8_t *from, size_t bytes, size_t rows)
{
    bool few = rows > 1 && rows <= FEW;
    ask(from + (few ? AHEAD_SECOND : AHEAD), bytes, few ? 2 : 1);
    if (few || (rows == 1 && bytes >= MANY_LINES))
        ask(from + AHEAD_AGAIN, bytes, 1);
}

/* Ask for activations, while the part-th of so many parts of a panel's strip is multiplied. */
static ALWAYS_INLINE void fetch_next(const struct strip *a, size_t part, size_t parts)
{
    size_t bytes = a->next_bytes / parts;
    for (size_t i = 0; a->next && i < bytes; i += VECTOR)
        _mm_prefetch((const char *)a->next + part * bytes + i, _MM_HINT_T1);
}

/* sum + products of four bytes in each lane with four activations. As one instruction: of the
 * intrinsics the compiler makes two. */
static ALWAYS_INLINE __m512i dot_four(__m512i sum, __m512i w, const int8_t *q)
{
    const int32_t(*four)[1] = (const void *)q;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*four));
    return sum;
}

/* Bit `from` of every byte, as bit `to`. */
static ALWAYS_INLINE __m512i bit_as(__m512i v, size_t from, size_t to)
{
    __m512i moved = from < to ? _mm512_sll_epi16(v, _mm_cvtsi32_si128((int)(to - from)))
                              : _mm512_srl_epi16(v, _mm_cvtsi32_si128((int)(from - to)));
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)(1 << to)));
}

static inline __m512 halves(const uint8_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

/* sum + (scale of weights * scale of activations) * whole, not fused. */
static inline __m512 add_block(__m512 sum, __m512 scale, float act_scale, __m512i whole)
{
    __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(act_scale));
    return _mm512_add_ps(sum, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(whole)));
}

/* ---- laying out */

/* 16 bytes at `at` of each row: dword j of row i in lane i of v[j]. */
static inline void transposed(__m512i v[4], const uint8_t *const row[ROWS], size_t at)
{
    __m512i a[4];
    for (size_t i = 0; i < 4; i++) {
        a[i] =
            _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(row[i] + at)));
        a[i] = _mm512_inserti32x4(
            a[i], _mm_loadu_si128((const __m128i *)(const void *)(row[i + 4] + at)), 1);
        a[i] = _mm512_inserti32x4(
            a[i], _mm_loadu_si128((const __m128i *)(const void *)(row[i + 8] + at)), 2);
        a[i] = _mm512_inserti32x4(
            a[i], _mm_loadu_si128((const __m128i *)(const void *)(row[i + 12] + at)), 3);
    }
    __m512i t0 = _mm512_unpacklo_epi32(a[0], a[1]), t1 = _mm512_unpackhi_epi32(a[0], a[1]);
    __m512i t2 = _mm512_unpacklo_epi32(a[2], a[3]), t3 = _mm512_unpackhi_epi32(a[2], a[3]);
    v[0] = _mm512_unpacklo_epi64(t0, t2);
    v[1] = _mm512_unpackhi_epi64(t0, t2);
    v[2] = _mm512_unpacklo_epi64(t1, t3);
    v[3] = _mm512_unpackhi_epi64(t1, t3);
}

/* 16 n bytes at `at` of each row become 4 n vectors. */
static inline void pack_dwords(uint8_t *out, const uint8_t *const row[ROWS], size_t at, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        __m512i v[4];
        transposed(v, row, at + 16 * i);
        for (size_t j = 0; j < 4; j++)
            save(out, 4 * i + j, v[j]);
    }
}

/* The half floats at `at` of each row. */
static inline void pack_halves(uint8_t *out, const uint8_t *const row[ROWS], size_t at)
{
    for (size_t i = 0; i < ROWS; i++)
        memcpy(out + 2 * i, row[i] + at, 2);
}

/* Byte k of all lanes becomes bytes 16 k .. 16 k + 15. */
static inline __m512i bytes_apart(__m512i v)
{
    const __m512i within =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i across = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(across, _mm512_shuffle_epi8(v, within));
}

/* Rows of panel p of w; beyond the end: the last row again. */
static inline void panel_rows(const uint8_t *row[ROWS], const struct weight_rows *w, size_t first)
{
    for (size_t i = 0; i < ROWS; i++) {
        size_t at = first + i < w->end ? first + i : w->end - 1;
        row[i] = (const uint8_t *)w->data + at * w->row_bytes;
    }
}

/* One strip of a panel; the rows go on to the next. */
static inline void pack_strip(uint8_t *out, const uint8_t *row[ROWS], const struct weight_rows *w,
                              const struct panel_type *type, size_t strip)
{
    size_t left = (w->width - strip * STRIP) / w->type->block_values;
    size_t each = STRIP / w->type->block_values, blocks = left < each ? left : each;
    type->pack(out, row, blocks);
    for (size_t i = 0; i < ROWS; i++)
        row[i] += blocks * w->type->block_bytes;
}

static inline void pack_panels(void *out, const struct weight_rows *w,
                               const struct panel_type *type)
{
    size_t strips = ACT_STRIPS(w->width);
    for (size_t first = w->begin; first < w->end; first += ROWS) {
        uint8_t *panel = (uint8_t *)out + first / ROWS * strips * type->strip_bytes;
        const uint8_t *row[ROWS];
        panel_rows(row, w, first);
        for (size_t s = 0; s < strips; s++)
            pack_strip(panel + s * type->strip_bytes, row, w, type, s);
    }
}

/* ---- products */

/* Activations from row r and strip s on. */
static inline struct strip acts_at(const struct act_rows *x, size_t r, size_t s)
{
    size_t at = s * x->rows + r;
    return (struct strip){.q = x->q + at * STRIP,
                          .scale = x->scale + at * (STRIP / x->block),
                          .sum = x->sum + at * (STRIP / ACT_GROUP(x->block)),
                          .blocks = (x->width - s * STRIP) / 32};
}

/* Panels as they were laid out; without: one, made on the way, strip by strip. */
static inline void multiply_tile(__m512 *sum, struct tile *tile, const struct weight_rows *w,
                                 size_t first, const struct act_rows *x, size_t r,
                                 const struct panel_type *type)
{
    uint8_t made[STRIP_BYTES_MAX] ALIGNED;
    const uint8_t *row[ROWS];

    tile->a = acts_at(x, r, 0);
    if (tile->panel) {
        type->multiply(sum, tile);
        return;
    }
    struct tile one = *tile;
    one.panel = made;
    one.strips = 1;
    panel_rows(row, w, first);
    for (size_t s = 0; s < tile->strips; s++) {
        one.a = acts_at(x, r, s);
        pack_strip(made, row, w, type, s);
        type->multiply(sum, &one);
    }
}

/* n lanes of panels side by side, from one of the first panel on. */
static inline void store(float *out, const __m512 *sum, size_t from, size_t n)
{
    for (size_t lanes; n > 0; sum += ACT_ROWS, out += lanes, n -= lanes, from = 0) {
        lanes = n < ROWS - from ? n : ROWS - from;
        if (lanes == ROWS)
            _mm512_storeu_ps(out, *sum);
        else
            memcpy(out, (const float *)sum + from, lanes * sizeof *out);
    }
}

/* Output rows begin .. end-1 of w, GROUP panels at a time: with panels, those are cut where they
 * are cut there, and the first and last may stick out. */
static inline void multiply_panels(float *out, size_t stride, const struct weight_rows *w,
                                   const struct act_rows *x, const struct panel_type *type)
{
    size_t shift = w->panels ? w->panels_row : 0;
    /* Few rows wait for weights, which are best read in the order in which they lie. */
    size_t most = w->panels && x->rows >= MANY ? GROUP : 1;
    size_t into =
        w->panels ? (w->begin + shift) % ROWS : 0; /* lanes of the first panel, not ours */
    struct tile tile = {.strips = ACT_STRIPS(w->width), .step = x->rows};

    tile.panel_bytes = tile.strips * type->strip_bytes;
    for (size_t i = w->begin, n; i < w->end; i += n, into = 0) {
        size_t left = w->end - i, panels = (into + left + ROWS - 1) / ROWS;
        tile.panels = panels < most ? panels : most;
        n = left < tile.panels * ROWS - into ? left : tile.panels * ROWS - into;
        if (w->panels)
            tile.panel = (const uint8_t *)w->panels + (i + shift) / ROWS * tile.panel_bytes;
        for (size_t r = 0; r < x->rows; r += ACT_ROWS) {
            __m512 sum[GROUP * ACT_ROWS];
            tile.rows = x->rows - r < ACT_ROWS ? x->rows - r : ACT_ROWS;
            for (size_t k = 0; k < tile.rows; k++) {
                for (size_t p = 0; p < tile.panels; p++)
                    sum[p * ACT_ROWS + k] = _mm512_setzero_ps();
                __builtin_prefetch(out + (r + k) * stride + i, 1); /* to be written later */
            }
            multiply_tile(sum, &tile, w, i, x, r, type);
            for (size_t k = 0; k < tile.rows; k++)
                store(out + (r + k) * stride + i, sum + k, into, n);
        }
    }
}

/* The next strip of activations, for weights with blocks of so many values. */
static ALWAYS_INLINE void strip_next(struct strip *a, size_t step, size_t block)
{
    a->q += step * STRIP;
    a->scale += step * (STRIP / block);
    a->sum += step * (STRIP / ACT_GROUP(block));
    a->blocks -= STRIP / 32;
}

/* 24 bytes for 32 values at most. */
#define NARROW(block, bytes) ((block) == 32 && (bytes) <= ROWS * STRIP * 3 / 4)

/* A number of rows that the compiler knows keeps their sums in registers, panel by panel. Many rows
 * go through a strip of all panels while it is in the first cache. */
#define PANELS(name, block, bytes)                                                                 \
    static ALWAYS_INLINE void name##_few(__m512 *sum, const struct tile *t, size_t rows)           \
    {                                                                                              \
        for (size_t p = 0; p < t->panels; p++, sum += ACT_ROWS) {                                  \
            const uint8_t *panel = t->panel + p * t->panel_bytes;                                  \
            struct strip a = t->a;                                                                 \
            struct ready ready;                                                                    \
            __m512 kept[8];                                                                        \
            a.next = NULL;                                                                         \
            _Pragma("GCC unroll 8") for (size_t i = 0; i < rows; i++) kept[i] = sum[i];            \
            for (size_t s = 0; s < t->strips; s++, strip_next(&a, t->step, block)) {               \
                name##_ready(&ready, &a, rows);                                                    \
                name##_rows(kept, panel + s * (bytes), &a, &ready, rows,                           \
                            NARROW(block, bytes) ? rows : 1);                                      \
            }                                                                                      \
            _Pragma("GCC unroll 8") for (size_t i = 0; i < rows; i++) sum[i] = kept[i];            \
        }                                                                                          \
    }                                                                                              \
    static void name##_many(__m512 *sum, const struct tile *t)                                     \
    {                                                                                              \
        struct strip a = t->a;                                                                     \
        struct ready ready;                                                                        \
        a.next_bytes = t->rows * STRIP / t->panels;                                                \
        for (size_t s = 0; s < t->strips; s++, strip_next(&a, t->step, block)) {                   \
            name##_ready(&ready, &a, t->rows);                                                     \
            a.next = a.q + t->step * STRIP;                                                        \
            for (size_t p = 0; p < t->panels; p++, a.next += a.next_bytes)                         \
                name##_rows(sum + p * ACT_ROWS, t->panel + p * t->panel_bytes + s * (bytes), &a,   \
                            &ready, t->rows, TURN);                                                \
        }                                                                                          \
    }                                                                                              \
    static void name##_multiply(__m512 *sum, const struct tile *t)                                 \
    {                                                                                              \
        if (t->rows == 1)                                                                          \
            name##_few(sum, t, 1);                                                                 \
        else if (t->rows == 2)                                                                     \
            name##_few(sum, t, 2);                                                                 \
        else if (t->rows == 3 && NARROW(block, bytes))                                             \
            name##_few(sum, t, 3);                                                                 \
        else if (t->rows == 4 && NARROW(block, bytes))                                             \
            name##_few(sum, t, 4);                                                                 \
        else if (t->rows == 8 && NARROW(block, bytes))                                             \
            name##_few(sum, t, 8);                                                                 \
        else                                                                                       \
            name##_many(sum, t);                                                                   \
    }                                                                                              \
    static const struct panel_type name##_panel = {(bytes), name##_pack, name##_multiply};         \
    void matmul_##name##_vnni(float *out, size_t stride, const struct weight_rows *w,              \
                              const struct act_rows *x)                                            \
    {                                                                                              \
        multiply_panels(out, stride, w, x, &name##_panel);                                         \
    }                                                                                              \
    static void name##_pack_all(void *out, const struct weight_rows *w)                            \
    {                                                                                              \
        pack_panels(out, w, &name##_panel);                                                        \
    }                                                                                              \
    const struct panels panels_##name##_vnni = {.strip_bytes = (bytes), .pack = name##_pack_all};
