#include "engine/kernels/sets.h"
#include <immintrin.h>

#define STREAMS 4
#define AHEAD_BYTES 2048    /* of what is prefetched: past the hardware's own reach */
#define CHAINS ((size_t)12) /* independent sums: covers the latency of a multiply-add */

uint64_t probe_read_avx512(const void *data, size_t size)
{
    const uint8_t *at = data;
    size_t part = size / STREAMS;
    __m512i sum[STREAMS] = {0};

    for (size_t i = 0; i < part; i += 64) {
        for (size_t s = 0; s < STREAMS; s++) {
            const uint8_t *here = at + s * part + i;
            _mm_prefetch((const char *)here + AHEAD_BYTES, _MM_HINT_T0);
            sum[s] = _mm512_add_epi64(sum[s], _mm512_loadu_si512(here));
        }
    }
    __m512i all =
        _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    return (uint64_t)_mm512_reduce_add_epi64(all);
}

size_t probe_int8_avx512(size_t products, int32_t *out)
{
    __m512i sum[CHAINS] = {0};
    __m512i a = _mm512_set1_epi8((char)(products & 127));
    __m512i b = _mm512_set1_epi8(3);
    size_t done = 0;

    for (; done < products; done += CHAINS * 64) {
        for (size_t i = 0; i < CHAINS; i++) {
            __m512i s = _mm512_dpbusd_epi32(sum[i], a, b);
            __asm__ volatile("" : "+v"(s)); /* or the loop would be one multiplication */
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    *out = _mm512_reduce_add_epi32(sum[0]);
    return done;
}

size_t probe_float32_avx512(size_t products, float *out)
{
    __m512 sum[CHAINS] = {0};
    __m512 a = _mm512_set1_ps(1.0f / (float)(products + 1));
    size_t done = 0;

    for (; done < products; done += CHAINS * 16) {
        for (size_t i = 0; i < CHAINS; i++) {
            __m512 s = _mm512_fmadd_ps(a, a, sum[i]);
            __asm__ volatile("" : "+v"(s));
            sum[i] = s;
        }
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    *out = _mm512_reduce_add_ps(sum[0]);
    return done;
}
