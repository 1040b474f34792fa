#include "engine/run/sampler.h"
#include "engine/base/heap.h"
#include <math.h>
#include <stdbool.h>

#define BLOCK 64 /* logits looked at together: next to none is large enough to matter */

struct candidate {
    float logit;
    int32_t id;
};

struct sampler {
    size_t vocabulary;
    struct candidate *heap; /* [vocabulary] */
};

struct sampler *sampler_new(size_t vocabulary)
{
    struct sampler *s = heap_new(1, sizeof *s);

    s->vocabulary = vocabulary;
    s->heap = heap_array(struct candidate, vocabulary);
    return s;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    heap_free(s->heap);
    heap_free(s);
}

/* The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
 * 2014): every bit of the result hangs on every bit of x. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

double sampler_uniform(uint64_t seed, uint64_t index)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
    /* The seed is mixed before the index is added, so that the streams of seeds s and s + 1 are not
     * shifted copies of each other. */
    uint64_t bits = mix(mix(seed + odd) + odd * (index + 1));

    return (double)(bits >> 11) * 0x1p-53;
}

bool sampling_check(const struct sampling *sampling, struct status *st)
{
    if (!isfinite(sampling->temperature) || sampling->temperature < 0)
        return status_fail(st, STATUS_INVALID, "temperature: %g is not a number >= 0",
                           (double)sampling->temperature);
    if (!(sampling->top_p >= 0 && sampling->top_p <= 1))
        return status_fail(st, STATUS_INVALID, "top_p: %g is not within [0, 1]",
                           (double)sampling->top_p);
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return status_fail(st, STATUS_INVALID, "min_p: %g is not within [0, 1]",
                           (double)sampling->min_p);
    return true;
}

/* Without a branch for each, so that the compiler compares several at once. */
static bool any_above(const float logits[BLOCK], float bound)
{
    int above = 0;

    for (size_t i = 0; i < BLOCK; i++)
        above |= logits[i] > bound;
    return above;
}

/* The next place from `at` on with a logit above the bound; n when there is none. */
static size_t next_above(const float *logits, size_t n, size_t at, float bound)
{
    if (at < n && logits[at] > bound)
        return at;
    while (at < n) {
        while (at + BLOCK <= n && !any_above(logits + at, bound))
            at += BLOCK;
        for (size_t end = at + BLOCK < n ? at + BLOCK : n; at < end; at++)
            if (logits[at] > bound)
                return at;
    }
    return n;
}

static bool before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Sink heap[at] within heap [n]. best_first: the root is the best candidate, else the worst. */
static void sink(struct candidate *heap, size_t n, size_t at, bool best_first)
{
    struct candidate moved = heap[at];

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && before(heap[child + 1], heap[child]) == best_first)
            child++;
        if (before(heap[child], moved) != best_first)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void make_heap(struct candidate *heap, size_t n, bool best_first)
{
    for (size_t i = n / 2; i-- > 0;)
        sink(heap, n, i, best_first);
}

/* The k best (all, when k == 0) as a heap with the best at its root; how many there are. */
static size_t gather(struct sampler *s, const float *logits, size_t k)
{
    size_t n = 0;
    float bound = -INFINITY; /* which NaN is not above either */

    /* Ids ascend, so of equal logits the earlier ones stay. */
    for (size_t i = 0; (i = next_above(logits, s->vocabulary, i, bound)) < s->vocabulary; i++) {
        struct candidate c = {.logit = logits[i], .id = (int32_t)i};
        if (k == 0 || n < k) {
            s->heap[n++] = c;
            if (n == k)
                make_heap(s->heap, n, false);
        } else {
            s->heap[0] = c;
            sink(s->heap, n, 0, false);
        }
        if (n == k)
            bound = s->heap[0].logit;
    }
    make_heap(s->heap, n, true);
    return n;
}

static struct candidate take_best(struct candidate *heap, size_t n)
{
    struct candidate best = heap[0];

    heap[0] = heap[n - 1];
    sink(heap, n - 1, 0, true);
    return best;
}

static int32_t largest(const float *logits, size_t n)
{
    size_t best = 0;
    float bound = -INFINITY;

    for (size_t i = 0; (i = next_above(logits, n, i, bound)) < n; i++) {
        best = i;
        bound = logits[i];
    }
    return (int32_t)best;
}

/* Weight of a candidate, 1 for the best. A logit of +infinity (a broken model) weighs as the best
 * does. */
static double weight(float logit, float best, double temperature)
{
    return logit == best ? 1 : exp(((double)logit - (double)best) / temperature);
}

int32_t sampler_pick(struct sampler *s, const float *logits, const struct sampling *sampling,
                     uint64_t index)
{
    size_t n, kept = 0;
    double temperature = (double)sampling->temperature, total = 0, sum = 0, target;
    float best;

    if (!(sampling->temperature > 0))
        return largest(logits, s->vocabulary);
    n = gather(s, logits, sampling->top_k);
    if (n == 0)
        return 0;
    best = s->heap[0].logit;
    for (size_t i = 0; i < n; i++)
        total += weight(s->heap[i].logit, best, temperature);
    /* Taking the best from the heap of n leaves its place free at the end: the list of kept ones,
     * best first, grows from there downwards. */
    while (kept < n) {
        struct candidate c = take_best(s->heap, n - kept);
        double w = weight(c.logit, best, temperature);
        if (kept > 0 && (sum >= (double)sampling->top_p * total || w < (double)sampling->min_p))
            break;
        s->heap[n - 1 - kept++] = c;
        sum += w;
    }
    target = sampler_uniform(sampling->seed, index) * sum;
    for (size_t i = 0; i < kept; i++) {
        target -= weight(s->heap[n - 1 - i].logit, best, temperature);
        if (target < 0)
            return s->heap[n - 1 - i].id;
    }
    return s->heap[n - kept].id; /* rounding left a trace of the target: the last one kept */
}
