/* Softmax attention over pages of keys, AVX-512: the order of attend_c.c with sixteen lanes,
 * products fused. Half floats are widened where they are used: that is free beside the products. */
#include "engine/kernels/math_avx512.h"
#include "engine/quant/quant.h"

#define LANES ((size_t)16)
#define SUMS ((size_t)16)

typedef __m512 floats;
typedef __m512i wholes;
typedef __m512i words;

static ALWAYS_INLINE __mmask16 lanes(bool all)
{
    return all ? 0xffff : 0xff;
}

static ALWAYS_INLINE floats floats_zero(void)
{
    return _mm512_setzero_ps();
}

static ALWAYS_INLINE floats floats_all(float x)
{
    return _mm512_set1_ps(x);
}

static ALWAYS_INLINE floats floats_get(const float *x, bool all)
{
    return _mm512_maskz_loadu_ps(lanes(all), x);
}

static ALWAYS_INLINE void floats_put(float *out, floats v, bool all)
{
    _mm512_mask_storeu_ps(out, lanes(all), v);
}

static ALWAYS_INLINE floats floats_plus(floats a, floats b)
{
    return _mm512_add_ps(a, b);
}

static ALWAYS_INLINE floats floats_times(floats a, floats b)
{
    return _mm512_mul_ps(a, b);
}

static ALWAYS_INLINE floats floats_add_product(floats sum, floats a, floats b)
{
    return _mm512_fmadd_ps(a, b, sum);
}

static ALWAYS_INLINE floats floats_of(const uint8_t *x, enum dtype type, bool all)
{
    if (type == DTYPE_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(all), x));
    return _mm512_maskz_loadu_ps(lanes(all), x);
}

static ALWAYS_INLINE wholes wholes_zero(void)
{
    return _mm512_setzero_si512();
}

static ALWAYS_INLINE words words_all(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static ALWAYS_INLINE floats wholes_to_floats(wholes v)
{
    return _mm512_cvtepi32_ps(v);
}

/* As one instruction: of the intrinsic the compiler makes two. */
static ALWAYS_INLINE wholes wholes_add_pairs(wholes sum, words a, words b)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/* The first n of 32. */
static ALWAYS_INLINE words words_of(const uint8_t *x, size_t n)
{
    __mmask32 mask = n < 32 ? (UINT32_C(1) << n) - 1 : UINT32_MAX;
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, x));
}

#include "engine/kernels/attend_rows.h"

static float exp_one(float x)
{
    return _mm512_cvtss_f32(exp_sixteen(_mm512_set1_ps(x)));
}

/* Bits [low, high) of 64. */
static uint64_t range_bits(size_t low, size_t high)
{
    uint64_t below = high < 64 ? (UINT64_C(1) << high) - 1 : UINT64_MAX;
    return low < high ? below & (UINT64_MAX << low) : 0;
}

/* Sixteen numbers in units of a step, as `nearest` of attend_c.c: none exceeds the limit. */
static ALWAYS_INLINE __m256i round_sixteen(__m512 x, __m512 inverse)
{
    __m512 v = _mm512_max_ps(_mm512_mul_ps(x, inverse), _mm512_set1_ps(-32767.0f));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v));
}

static float round_query(int16_t *out, const float *q, size_t d)
{
    __m512 largest = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i += LANES) { /* a NaN is passed over */
        __mmask16 mask = d - i < LANES ? 0xff : 0xffff;
        largest = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(mask, q + i)), largest);
    }
    float step = _mm512_reduce_max_ps(largest) / 32767.0f;
    memset(out, 0, ATTEND_HEAD_DIM_MAX * sizeof *out);
    if (!(step >= ACT_STEP_MIN && step <= ACT_STEP_MAX))
        return 0.0f;
    for (size_t i = 0; i < d; i += LANES) {
        __mmask16 mask = d - i < LANES ? 0xff : 0xffff;
        __m512 x = _mm512_maskz_loadu_ps(mask, q + i);
        _mm256_mask_storeu_epi16(out + i, mask, round_sixteen(x, _mm512_set1_ps(1.0f / step)));
    }
    return step;
}

/* The sum, or the largest, of the lanes of each of four vectors: the same tree for each. */
static ALWAYS_INLINE __m128 over_lanes(const __m512 v[TILE_ROWS], bool sum)
{
    __m512 a[] = {_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]),
                  _mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3])};
    a[0] = sum ? _mm512_add_ps(a[0], a[1]) : _mm512_max_ps(a[0], a[1]);
    a[2] = sum ? _mm512_add_ps(a[2], a[3]) : _mm512_max_ps(a[2], a[3]);
    __m512 b[] = {_mm512_shuffle_ps(a[0], a[2], 0x44), _mm512_shuffle_ps(a[0], a[2], 0xee)};
    b[0] = sum ? _mm512_add_ps(b[0], b[1]) : _mm512_max_ps(b[0], b[1]);
    __m256 c[] = {_mm512_castps512_ps256(b[0]), _mm512_extractf32x8_ps(b[0], 1)};
    c[0] = sum ? _mm256_add_ps(c[0], c[1]) : _mm256_max_ps(c[0], c[1]);
    __m128 e[] = {_mm256_castps256_ps128(c[0]), _mm256_extractf128_ps(c[0], 1)};
    return sum ? _mm_add_ps(e[0], e[1]) : _mm_max_ps(e[0], e[1]);
}

/* Number r of four in all lanes. */
static ALWAYS_INLINE __m512 spread(__m128 v, size_t r)
{
    return _mm512_permutexvar_ps(_mm512_set1_epi32((int)r), _mm512_castps128_ps512(v));
}

#define PARTS (PAGE / LANES)

/* Largest scores so far; the exponentials of what is seen, and their sums. */
static ALWAYS_INLINE void soften_rows(struct row *rows, size_t n, __m512 e[][PARTS])
{
    __m512 top[TILE_ROWS], sum[TILE_ROWS];
    float before[TILE_ROWS] = {0}, largest[TILE_ROWS], keep[TILE_ROWS], more[TILE_ROWS];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        top[r] = sum[r] = _mm512_setzero_ps();
        if (r >= n)
            continue;
        uint64_t seen = range_bits(rows[r].low, rows[r].high);
        before[r] = rows[r].largest;
        top[r] = _mm512_set1_ps(rows[r].largest);
        for (size_t k = 0; k < PARTS; k++) { /* a NaN is passed over */
            e[r][k] = _mm512_loadu_ps(rows[r].score + k * LANES);
            top[r] = _mm512_mask_max_ps(top[r], (__mmask16)(seen >> k * LANES), e[r][k], top[r]);
        }
    }
    __m128 now = over_lanes(top, false), old = _mm_loadu_ps(before);
    /* Also where nothing was seen yet: infinities have no difference. */
    __mmask8 same = _mm_cmp_ps_mask(old, now, _CMP_EQ_OQ);
    __m128 kept = _mm512_castps512_ps128(exp_sixteen(_mm512_castps128_ps512(_mm_sub_ps(old, now))));
    for (size_t r = 0; r < n; r++) {
        uint64_t seen = range_bits(rows[r].low, rows[r].high);
        __m512 all = spread(now, r);
        for (size_t k = 0; k < PARTS; k++) {
            e[r][k] = _mm512_maskz_mov_ps((__mmask16)(seen >> k * LANES),
                                          exp_sixteen(_mm512_sub_ps(e[r][k], all)));
            sum[r] = _mm512_add_ps(sum[r], e[r][k]);
        }
    }
    _mm_storeu_ps(largest, now);
    _mm_storeu_ps(keep, _mm_mask_mov_ps(kept, same, _mm_set1_ps(1.0f)));
    _mm_storeu_ps(more, over_lanes(sum, true));
    for (size_t r = 0; r < n; r++) {
        rows[r].largest = largest[r];
        rows[r].keep = keep[r];
        rows[r].sum = rows[r].sum * keep[r] + more[r];
    }
}

/* Exponentials times scales, in units of a step. */
static ALWAYS_INLINE void round_weights(struct row *rows, size_t n, __m512 e[][PARTS],
                                        const float *scales)
{
    __m512 largest[TILE_ROWS];
    float steps[TILE_ROWS];
    for (size_t r = 0; r < TILE_ROWS; r++)
        largest[r] = _mm512_setzero_ps();
    for (size_t r = 0; r < n; r++) {
        uint64_t seen = range_bits(rows[r].low, rows[r].high);
        for (size_t k = 0; k < PARTS; k++) {
            e[r][k] = _mm512_maskz_mul_ps((__mmask16)(seen >> k * LANES), e[r][k],
                                          _mm512_loadu_ps(scales + k * LANES));
            largest[r] = _mm512_max_ps(_mm512_abs_ps(e[r][k]), largest[r]);
        }
    }
    __m128 step = _mm_div_ps(over_lanes(largest, false), _mm_set1_ps(32767.0f));
    __mmask8 usable = _mm_cmp_ps_mask(step, _mm_set1_ps(ACT_STEP_MIN), _CMP_GE_OQ) &
                      _mm_cmp_ps_mask(step, _mm_set1_ps(ACT_STEP_MAX), _CMP_LE_OQ);
    __m128 inverse = _mm_maskz_div_ps(usable, _mm_set1_ps(1.0f), step);
    _mm_storeu_ps(steps, _mm_maskz_mov_ps(usable, step));
    for (size_t r = 0; r < n; r++) {
        __m512 all = spread(inverse, r);
        rows[r].step = steps[r];
        for (size_t k = 0; k < PARTS; k++)
            _mm256_storeu_si256((__m256i *)(void *)(rows[r].rounded + k * LANES),
                                round_sixteen(e[r][k], all));
    }
}

static ALWAYS_INLINE void soften_count(struct row *rows, size_t n, const struct page *page)
{
    __m512 e[TILE_ROWS][PARTS];
    soften_rows(rows, n, e);
    if (page->type == DTYPE_I8) {
        round_weights(rows, n, e, scales_of(page->values, page->d));
        return;
    }
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < PARTS; k++)
            _mm512_storeu_ps(rows[r].score + k * LANES, e[r][k]);
}

static void soften(struct row *rows, size_t n, const struct page *page)
{
    if (n == 4)
        soften_count(rows, 4, page);
    else if (n == 2)
        soften_count(rows, 2, page);
    else
        soften_count(rows, 1, page);
}

void attend_avx512(const struct attend_task *task, const struct attend_part *out)
{
    attend_walk(task, out);
}

void attend_add_avx512(const struct attend_part *total, const struct attend_part *more, size_t rows,
                       size_t head_dim)
{
    add_parts(total, more, rows, head_dim);
}

void attend_finish_avx512(float *out, const float *values, float sum, size_t head_dim)
{
    finish_values(out, values, sum, head_dim);
}
