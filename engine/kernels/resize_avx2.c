/* Resampling of pictures, AVX2: sums in float32, which a doubtful one in some thousand leaves to
 * resize_byte; so the bytes are those of resize_c.c. */
#include "engine/kernels/sets.h"
#include <immintrin.h>

#define LANES ((size_t)8)
#define CHANNELS RESIZE_CHANNELS
#define STEPS 65536 /* sums are rounded as whole numbers of 1/65536 of a level */

/* How close to half a level a float32 sum is not trusted any more, in steps: above its error, which
 * is below (n + 1) * 255 * 2 * 2^-24 levels, and that of the steps, which are floats up to 2^25. */
static int32_t doubt_of(size_t n)
{
    const double levels = 3.1e-5 * (double)(n + 8);
    return (int32_t)((levels < 0.5 ? levels : 0.5) * STEPS) + 4;
}

/* Sums of 32 samples as bytes, in order. *out_unsure: a bit for each that is closer to half a
 * level than `doubt`. */
static inline __m256i to_bytes(const __m256 sum[4], int32_t doubt, uint32_t *out_unsure)
{
    const __m256 scale = _mm256_set1_ps(STEPS), half = _mm256_set1_ps(STEPS / 2.0F);
    const __m256i near = _mm256_set1_epi32(doubt), fraction = _mm256_set1_epi32(STEPS - 1);
    const __m256i certain = _mm256_set1_epi32(2 * doubt + 1);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i level[4], unsure[4];
    for (size_t k = 0; k < 4; k++) {
        const __m256i steps = _mm256_cvtps_epi32(_mm256_fmadd_ps(sum[k], scale, half));
        level[k] = _mm256_srai_epi32(steps, 16);
        unsure[k] =
            _mm256_cmpgt_epi32(certain, _mm256_and_si256(_mm256_add_epi32(steps, near), fraction));
    }
    const __m256i some = _mm256_or_si256(_mm256_or_si256(unsure[0], unsure[1]),
                                         _mm256_or_si256(unsure[2], unsure[3]));
    *out_unsure = 0;
    if (!_mm256_testz_si256(some, some)) {
        const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(unsure[0], unsure[1]),
                                                  _mm256_packs_epi32(unsure[2], unsure[3]));
        *out_unsure = (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(packed, order));
    }
    const __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(level[0], level[1]),
                                               _mm256_packs_epi32(level[2], level[3]));
    return _mm256_permutevar8x32_epi32(packed, order);
}

/* Eight rows of eight bytes -> eight columns, two to a vector. */
static inline void transpose(__m128i out[4], const uint8_t *const row[LANES])
{
    __m128i in[LANES];
    for (size_t r = 0; r < LANES; r++)
        in[r] = _mm_loadl_epi64((const __m128i *)(const void *)row[r]);
    const __m128i a = _mm_unpacklo_epi8(in[0], in[1]), b = _mm_unpacklo_epi8(in[2], in[3]);
    const __m128i c = _mm_unpacklo_epi8(in[4], in[5]), d = _mm_unpacklo_epi8(in[6], in[7]);
    const __m128i ab_low = _mm_unpacklo_epi16(a, b), ab_high = _mm_unpackhi_epi16(a, b);
    const __m128i cd_low = _mm_unpacklo_epi16(c, d), cd_high = _mm_unpackhi_epi16(c, d);
    out[0] = _mm_unpacklo_epi32(ab_low, cd_low);
    out[1] = _mm_unpackhi_epi32(ab_low, cd_low);
    out[2] = _mm_unpacklo_epi32(ab_high, cd_high);
    out[3] = _mm_unpackhi_epi32(ab_high, cd_high);
}

static inline __m256 to_floats(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

/* Rows as columns of floats: scratch [row_bytes][RESIZE_ROWS]; absent rows repeat the last. */
static void spread(float *restrict scratch, const uint8_t *in, size_t row_bytes, size_t rows)
{
    const uint8_t *row[RESIZE_ROWS];
    for (size_t r = 0; r < RESIZE_ROWS; r++)
        row[r] = in + (r < rows ? r : rows - 1) * row_bytes;
    size_t i = 0;
    for (; i + LANES <= row_bytes; i += LANES) {
        __m128i pair[4];
        transpose(pair, row);
        for (size_t k = 0; k < 4; k++) {
            float *to = scratch + (i + 2 * k) * RESIZE_ROWS;
            _mm256_storeu_ps(to, to_floats(pair[k]));
            _mm256_storeu_ps(to + RESIZE_ROWS, to_floats(_mm_srli_si128(pair[k], LANES)));
        }
        for (size_t r = 0; r < RESIZE_ROWS; r++)
            row[r] += LANES;
    }
    for (size_t left = 0; i < row_bytes; i++, left++)
        for (size_t r = 0; r < RESIZE_ROWS; r++)
            scratch[i * RESIZE_ROWS + r] = (float)row[r][left];
}

#define TILE_BYTES (LANES * CHANNELS) /* of eight pixels in a row */

/* tile [TILE_BYTES][RESIZE_ROWS] -> rows of `out`. */
static inline void store_tile(uint8_t *out, size_t stride, const uint8_t *tile, size_t rows)
{
    for (size_t part = 0; part < CHANNELS; part++, tile += LANES * RESIZE_ROWS, out += LANES) {
        const uint8_t *column[LANES];
        __m128i pair[4];
        uint8_t bytes[RESIZE_ROWS][LANES];
        for (size_t i = 0; i < LANES; i++)
            column[i] = tile + i * RESIZE_ROWS;
        transpose(pair, column);
        for (size_t k = 0; k < 4; k++)
            _mm_storeu_si128((__m128i *)(void *)bytes[2 * k], pair[k]);
        for (size_t r = 0; r < rows; r++)
            __builtin_memcpy(out + r * stride, bytes[r], LANES);
    }
}

void resize_across_avx2(uint8_t *out, size_t stride, const uint8_t *in, size_t width, size_t rows,
                        const struct resize_taps *taps, float *scratch)
{
    uint8_t tile[TILE_BYTES * RESIZE_ROWS + LANES] = {0}; /* vectors of 32 for 24 bytes */
    spread(scratch, in, width * CHANNELS, rows);
    for (size_t x = 0; x < taps->out; x++) {
        const float *weight = taps->rounded + x * taps->stride;
        const float *from = scratch + taps->first[x] * CHANNELS * RESIZE_ROWS;
        __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t j = 0; j < taps->n[x]; j++, from += CHANNELS * RESIZE_ROWS) {
            const __m256 w = _mm256_broadcast_ss(weight + j);
            for (size_t c = 0; c < CHANNELS; c++)
                sum[c] = _mm256_fmadd_ps(w, _mm256_loadu_ps(from + c * RESIZE_ROWS), sum[c]);
        }
        sum[3] = sum[2];
        uint32_t unsure;
        uint8_t *to = tile + x % LANES * CHANNELS * RESIZE_ROWS;
        const __m256i bytes = to_bytes(sum, doubt_of(taps->n[x]), &unsure);
        _mm256_storeu_si256((__m256i *)(void *)to, bytes);
        for (unsure &= (1U << (CHANNELS * RESIZE_ROWS)) - 1; unsure; unsure &= unsure - 1) {
            const size_t lane = (size_t)__builtin_ctz(unsure), r = lane % RESIZE_ROWS;
            if (r < rows)
                to[lane] = resize_byte(
                    taps, x, in + (r * width + taps->first[x]) * CHANNELS + lane / RESIZE_ROWS,
                    CHANNELS);
        }
        if (x % LANES == LANES - 1 || x == taps->out - 1)
            store_tile(out + x / LANES * TILE_BYTES, stride, tile, rows);
    }
}

void resize_down_avx2(uint8_t *out, size_t row_bytes, const uint8_t *in, size_t stride,
                      const struct resize_taps *taps, size_t y)
{
    const size_t block = 4 * LANES, n = taps->n[y];
    const float *weight = taps->rounded + y * taps->stride;
    const int32_t doubt = doubt_of(n);
    in += taps->first[y] * stride;
    for (size_t at = 0; at < row_bytes; at += block) {
        const size_t left = row_bytes - at < block ? row_bytes - at : block;
        const uint8_t *from = in + at;
        uint8_t last[32], *to = left == block ? out + at : last;
        __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                         _mm256_setzero_ps()};
        for (size_t j = 0; j < n; j++, from += stride) {
            const __m256 w = _mm256_broadcast_ss(weight + j);
            for (size_t k = 0; k < 4; k++) {
                const void *part = from + k * LANES;
                sum[k] = _mm256_fmadd_ps(w, to_floats(_mm_loadl_epi64(part)), sum[k]);
            }
        }
        uint32_t unsure;
        _mm256_storeu_si256((__m256i *)(void *)to, to_bytes(sum, doubt, &unsure));
        for (; unsure; unsure &= unsure - 1) {
            const size_t lane = (size_t)__builtin_ctz(unsure);
            if (lane < left)
                to[lane] = resize_byte(taps, y, in + at + lane, stride);
        }
        if (left < block)
            __builtin_memcpy(out + at, last, left);
    }
}
