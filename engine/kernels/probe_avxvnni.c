#include "engine/kernels/sets.h"
#include <immintrin.h>

#define CHAINS ((size_t)10) /* independent sums: covers the latency of a multiply-add */

size_t probe_int8_avxvnni(size_t products, int32_t *out)
{
    __m256i sum[CHAINS] = {0};
    __m256i a = _mm256_set1_epi8((char)(products & 127));
    __m256i b = _mm256_set1_epi8(1);
    int32_t lanes[8];
    size_t done = 0;

    for (; done < products; done += CHAINS * 32) {
        for (size_t i = 0; i < CHAINS; i++) {
            __m256i s = _mm256_dpbusd_avx_epi32(sum[i], a, b);
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
