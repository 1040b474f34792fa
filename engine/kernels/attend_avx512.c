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

static ALWAYS_INLINE void floats_sums(float *out, const floats *s)
{
    _mm512_storeu_ps(out, sums_of_sixteen(s));
}

static ALWAYS_INLINE wholes wholes_zero(void)
{
    return _mm512_setzero_si512();
}

static ALWAYS_INLINE words words_all(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static ALWAYS_INLINE wholes wholes_get(const int32_t *x)
{
    return _mm512_loadu_si512(x);
}

static ALWAYS_INLINE void wholes_put(int32_t *out, wholes v)
{
    _mm512_storeu_si512(out, v);
}

static ALWAYS_INLINE floats wholes_to_floats(wholes v)
{
    return _mm512_cvtepi32_ps(v);
}

static ALWAYS_INLINE wholes wholes_add_pairs(wholes sum, words a, words b)
{
    return _mm512_dpwssd_epi32(sum, a, b);
}

static ALWAYS_INLINE wholes wholes_add_dot(wholes sum, words a, words b)
{
    return wholes_add_pairs(sum, a, b);
}

static ALWAYS_INLINE words words_get(const int16_t *x)
{
    return _mm512_loadu_si512(x);
}

/* The first n of 32. */
static ALWAYS_INLINE words words_of(const uint8_t *x, size_t n)
{
    __mmask32 mask = n < 32 ? (UINT32_C(1) << n) - 1 : UINT32_MAX;
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, x));
}

/* As sums_of_sixteen. */
static ALWAYS_INLINE void wholes_sums(float *out, const __m512i *s)
{
    __m512i a[8], b[4];
    for (size_t i = 0; i < 8; i++)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    for (size_t i = 0; i < 4; i++)
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    for (size_t i = 0; i < 2; i++)
        a[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xdd));
    a[0] = _mm512_add_epi32(_mm512_shuffle_i32x4(a[0], a[1], 0x88),
                            _mm512_shuffle_i32x4(a[0], a[1], 0xdd));
    _mm512_storeu_ps(out, _mm512_cvtepi32_ps(a[0]));
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
    return below & (UINT64_MAX << low);
}

/* Sixteen numbers in units of step, as `nearest` of attend_c.c. */
static ALWAYS_INLINE __m256i round_sixteen(__m512 x, __m512 step)
{
    const __m512 limit = _mm512_set1_ps(32767.0f);
    __m512 v = _mm512_max_ps(_mm512_div_ps(x, step), _mm512_sub_ps(_mm512_setzero_ps(), limit));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_min_ps(v, limit)));
}

static bool is_usable(float step)
{
    return step >= ACT_STEP_MIN && step <= ACT_STEP_MAX;
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
    if (!is_usable(step))
        return 0.0f;
    for (size_t i = 0; i < d; i += LANES) {
        __mmask16 mask = d - i < LANES ? 0xff : 0xffff;
        __m512 x = _mm512_maskz_loadu_ps(mask, q + i);
        _mm256_mask_storeu_epi16(out + i, mask, round_sixteen(x, _mm512_set1_ps(step)));
    }
    return step;
}

static void round_weights(struct row *row, const float *scales)
{
    uint64_t seen = range_bits(row->low, row->high);
    __m512 w[PAGE / LANES], largest = _mm512_setzero_ps();
    for (size_t k = 0; k < PAGE / LANES; k++) {
        w[k] = _mm512_maskz_mul_ps((__mmask16)(seen >> k * LANES),
                                   _mm512_loadu_ps(row->score + k * LANES),
                                   _mm512_loadu_ps(scales + k * LANES));
        largest = _mm512_max_ps(_mm512_abs_ps(w[k]), largest);
    }
    float step = _mm512_reduce_max_ps(largest) / 32767.0f;
    row->step = is_usable(step) ? step : 0.0f;
    for (size_t k = 0; k < PAGE / LANES; k++)
        _mm256_storeu_si256((__m256i *)(void *)(row->rounded + k * LANES),
                            is_usable(step) ? round_sixteen(w[k], _mm512_set1_ps(step))
                                            : _mm256_setzero_si256());
}

static void soften(struct row *row)
{
    uint64_t seen = range_bits(row->low, row->high);
    __m512 top = _mm512_set1_ps(row->largest), sum = _mm512_setzero_ps();
    for (size_t j = 0; j < PAGE; j += LANES)
        top = _mm512_mask_max_ps(top, (__mmask16)(seen >> j), _mm512_loadu_ps(row->score + j), top);
    float largest = _mm512_reduce_max_ps(top);
    top = _mm512_set1_ps(largest);
    row->keep = exp_one(row->largest - largest);
    for (size_t j = 0; j < PAGE; j += LANES) {
        __m512 e = exp_sixteen(_mm512_sub_ps(_mm512_loadu_ps(row->score + j), top));
        e = _mm512_maskz_mov_ps((__mmask16)(seen >> j), e);
        _mm512_storeu_ps(row->score + j, e);
        sum = _mm512_add_ps(sum, e);
    }
    row->largest = largest;
    row->sum = row->sum * row->keep + _mm512_reduce_add_ps(sum);
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
