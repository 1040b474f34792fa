#include "engine/kernels/sets.h"
#include <immintrin.h>

#define STREAMS 4
#define AHEAD_BYTES 2048    /* of what is prefetched: past the hardware's own reach */
#define CHAINS ((size_t)10) /* independent sums: covers the latency of a multiply-add */

uint64_t probe_read_avx2(const void *data, size_t size)
{
    const uint8_t *at = data;
    size_t part = size / STREAMS;
    __m256i sum[STREAMS] = {0};
    uint64_t lanes[4];

    for (size_t i = 0; i < part; i += 64) {
        for (size_t s = 0; s < STREAMS; s++) {
            const uint8_t *here = at + s * part + i;
            _mm_prefetch((const char *)here + AHEAD_BYTES, _MM_HINT_T0);
            __m256i low = _mm256_loadu_si256((const __m256i *)here);
            __m256i high = _mm256_loadu_si256((const __m256i *)(here + 32));
            sum[s] = _mm256_add_epi64(sum[s], _mm256_add_epi64(low, high));
        }
    }
    __m256i all =
        _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
    _mm256_storeu_si256((__m256i *)lanes, all);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

size_t probe_int8_avx2(size_t products, int32_t *out)
{
    __m256i sum[CHAINS] = {0};
    __m256i a = _mm256_set1_epi8((char)(products & 127));
    __m256i b = _mm256_set1_epi8(1);
    __m256i ones = _mm256_set1_epi16(1);
    int32_t lanes[8];
    size_t done = 0;

    for (; done < products; done += CHAINS * 32) {
        for (size_t i = 0; i < CHAINS; i++) {
            __m256i pairs = _mm256_maddubs_epi16(a, b);
            __asm__ volatile("" : "+x"(pairs));
            __m256i s = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
            __asm__ volatile("" : "+x"(s));
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    _mm256_storeu_si256((__m256i *)lanes, sum[0]);
    *out = 0;
    for (size_t i = 0; i < 8; i++)
        *out += lanes[i];
    return done;
}

size_t probe_float32_avx2(size_t products, float *out)
{
    __m256 sum[CHAINS] = {0};
    __m256 a = _mm256_set1_ps(1.0f / (float)(products + 1));
    float lanes[8];
    size_t done = 0;

    for (; done < products; done += CHAINS * 8) {
        for (size_t i = 0; i < CHAINS; i++) {
            __m256 s = _mm256_fmadd_ps(a, a, sum[i]);
            __asm__ volatile("" : "+x"(s)); /* an element in the assembly would live in memory */
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = _mm256_add_ps(sum[0], sum[i]);
    _mm256_storeu_ps(lanes, sum[0]);
    *out = 0;
    for (size_t i = 0; i < 8; i++)
        *out += lanes[i];
    return done;
}
