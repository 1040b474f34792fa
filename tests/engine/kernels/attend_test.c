/* Attention of every kernel set against sums in double, for one query and many together. */
#include "engine/base/heap.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "tests/random.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SEED 11
static uint32_t random_state = SEED;

#define PAGE ((size_t)ATTEND_PAGE_KEYS)
#define PAGES ((size_t)18) /* a group and a part */
#define QUERIES ((size_t)7)

/* One sequence; page 0 is not there. Keys and values that no query sees are not numbers. */
struct world {
    struct attend_shape shape;
    void *keys[PAGES], *values[PAGES];
    float *q, *out, *key, *value; /* key, value [PAGES * 64][kv_heads][head_dim], as stored */
    struct attend_query queries[QUERIES];
};

/* The numbers of a stored key (or value) of a head. */
static void read_back(float *out, const void *head, size_t at, size_t d, enum dtype type,
                      bool value)
{
    const struct quant_row *row = quant_find(type);
    float scale = 1.0f;
    if (type == DTYPE_I8)
        memcpy(&scale, (const uint8_t *)head + PAGE * d + at * sizeof scale, sizeof scale);
    for (size_t i = 0; i < d; i++) {
        size_t from = value ? attend_value_place(type, d, at, i) : attend_key_place(type, at, i);
        if (type == DTYPE_I8)
            out[i] = scale * (float)((const int8_t *)head)[from];
        else
            row->to_f32(out + i, (const uint8_t *)head + from * row->block_bytes, 1);
    }
}

/* Every number has a place of its own, and none is beyond the scales. */
static void test_places(void **state)
{
    static const size_t sizes[] = {8, 40, 64, 72, 256, 512};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_I8};
    (void)state;
    for (size_t c = 0; c < 24; c++) {
        size_t d = sizes[c / 4];
        enum dtype type = types[c / 2 % 2];
        uint8_t *taken = heap_new(PAGE, d);
        for (size_t n = 0; n < PAGE * d; n++) {
            size_t place = c % 2 ? attend_value_place(type, d, n / d, n % d)
                                 : attend_key_place(type, n / d, n % d);
            assert_true(place < PAGE * d);
            assert_int_equal(taken[place]++, 0);
        }
        heap_free(taken);
    }
}

static void put(struct world *w, size_t position, bool seen)
{
    const struct attend_shape *s = &w->shape;
    size_t d = s->head_dim, at = position % PAGE, first = position * s->kv_heads * d;
    uint8_t *keys = w->keys[position / PAGE], *values = w->values[position / PAGE];
    for (size_t i = first; i < first + s->kv_heads * d && !seen; i++)
        w->key[i] = w->value[i] = NAN;
    kernels_find()->attend_store(s, keys, values, at, w->key + first, w->value + first);
    for (size_t h = 0; h < s->kv_heads; h++) {
        size_t offset = h * attend_head_bytes(s->type, d);
        if (!seen && s->type == DTYPE_I8) { /* they were stored as zeros */
            for (size_t i = 0; i < d; i++)
                keys[offset + attend_key_place(DTYPE_I8, at, i)] = 0x81;
            memset(keys + offset + PAGE * d + at * sizeof(float), 0xff, sizeof(float));
            memset(values + offset + PAGE * d + at * sizeof(float), 0xff, sizeof(float));
        }
        read_back(w->key + first + h * d, keys + offset, at, d, s->type, false);
        read_back(w->value + first + h * d, values + offset, at, d, s->type, true);
    }
}

/* Ranges that begin and end anywhere in a page, some of one key, the last over groups. */
static void make_world(struct world *w, enum dtype type, size_t heads, size_t kv_heads, size_t d)
{
    static const size_t ranges[QUERIES][2] = {{130, 131},  {70, 260},   {71, 261},   {300, 320},
                                              {500, 1025}, {900, 1030}, {1000, 1149}};
    size_t n = PAGES * PAGE * kv_heads * d;
    *w = (struct world){
        .shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = d, .type = type},
        .q = random_floats(&random_state, QUERIES * heads * d, 6.0f / (float)sqrt((double)d)),
        .out = heap_array(float, QUERIES *heads *d),
        .key = random_floats(&random_state, n, 1.0f),
        .value = random_floats(&random_state, n, 1.0f)};
    for (size_t p = 1; p < PAGES; p++) {
        w->keys[p] = heap_new(kv_heads, attend_head_bytes(type, d));
        w->values[p] = heap_new(kv_heads, attend_head_bytes(type, d));
    }
    for (size_t i = 0; i < QUERIES; i++)
        w->queries[i] = (struct attend_query){.q = w->q + i * heads * d,
                                              .out = w->out + i * heads * d,
                                              .keys = (const void *const *)w->keys,
                                              .values = (const void *const *)w->values,
                                              .first = ranges[i][0],
                                              .end = ranges[i][1]};
    for (size_t j = PAGE; j < PAGES * PAGE; j++) {
        bool seen = false;
        for (size_t i = 0; i < QUERIES; i++)
            seen = seen || (j >= w->queries[i].first && j < w->queries[i].end);
        put(w, j, seen);
    }
}

static void clear_world(struct world *w)
{
    for (size_t p = 1; p < PAGES; p++) {
        heap_free(w->keys[p]);
        heap_free(w->values[p]);
    }
    heap_free(w->q);
    heap_free(w->out);
    heap_free(w->key);
    heap_free(w->value);
}

/* All of some queries and heads, group by group, as engine/ops does it. */
static void attend_all(const struct kernel_set *set, const struct world *w, float *out,
                       size_t query, size_t n_queries, size_t head, size_t n_heads)
{
    size_t d = w->shape.head_dim, rows = n_queries * n_heads;
    float largest[2][ATTEND_ROWS_MAX], sum[2][ATTEND_ROWS_MAX];
    float *values = heap_array(float, 2 * rows * d);
    struct attend_part total = {values, largest[0], sum[0]};
    struct attend_part more = {values + rows * d, largest[1], sum[1]};
    struct attend_task task = {.shape = &w->shape,
                               .queries = w->queries + query,
                               .n_queries = n_queries,
                               .head_begin = head,
                               .head_end = head + n_heads};

    for (; task.group * ATTEND_GROUP_KEYS < PAGES * PAGE; task.group++) {
        set->attend(&task, task.group ? &more : &total);
        if (task.group)
            set->attend_add(&total, &more, rows, d);
    }
    for (size_t r = 0; r < rows; r++)
        set->attend_finish(out + ((query + r / n_heads) * w->shape.heads + head + r % n_heads) * d,
                           total.values + r * d, total.sum[r], d);
    heap_free(values);
}

static void check_exact(const struct kernel_set *set, const struct world *w)
{
    const struct attend_shape *s = &w->shape;
    double exact[ATTEND_HEAD_DIM_MAX];
    for (size_t r = 0; r < QUERIES * s->heads; r += 1 + r % 3) {
        const struct attend_query *q = &w->queries[r / s->heads];
        size_t head = r % s->heads, kv = head / (s->heads / s->kv_heads);
        double sum = 0.0;
        memset(exact, 0, sizeof exact);
        for (size_t j = q->first; j < q->end; j++) {
            size_t at = (j * s->kv_heads + kv) * s->head_dim;
            double score = 0.0;
            for (size_t i = 0; i < s->head_dim; i++)
                score += (double)q->q[head * s->head_dim + i] * (double)w->key[at + i];
            sum += exp(score); /* scores of this test are small */
            for (size_t i = 0; i < s->head_dim; i++)
                exact[i] += exp(score) * (double)w->value[at + i];
        }
        for (size_t i = 0; i < s->head_dim; i++) {
            double off = exact[i] / sum - (double)w->out[r * s->head_dim + i];
            if (!(fabs(off) < (s->type == DTYPE_I8 ? 2e-4 : 3e-6)))
                fail_msg("%s, %s, head size %zu, query %zu, head %zu: [%zu] is off by %g",
                         set->name, quant_find(s->type)->name, s->head_dim, r / s->heads, head, i,
                         off);
        }
    }
}

static void check_set(const struct kernel_set *set, struct world *w)
{
    size_t d = w->shape.head_dim, heads = w->shape.heads, each = heads / w->shape.kv_heads;
    float *alone = heap_array(float, QUERIES *heads *d);

    for (size_t head = 0; head < heads; head += each)
        attend_all(set, w, w->out, 0, QUERIES < ATTEND_ROWS_MAX / each ? QUERIES : 4, head, each);
    for (size_t head = 0; head < heads; head += each)
        attend_all(set, w, w->out, QUERIES - 4, 4, head, each);
    check_exact(set, w);
    for (size_t query = 0; query < QUERIES; query++)
        for (size_t head = 0; head < heads; head++)
            attend_all(set, w, alone, query, 1, head, 1);
    assert_memory_equal(alone, w->out, QUERIES * heads * d * sizeof *alone);
    memset(alone, 0, QUERIES * heads * d * sizeof *alone);
    for (size_t query = 0; query < QUERIES; query += 1 + query % 2) /* all kv heads of one or two */
        attend_all(set, w, alone, query, QUERIES - query < 2 ? 1 : 1 + query % 2, 0, heads);
    assert_memory_equal(alone, w->out, QUERIES * heads * d * sizeof *alone);
    heap_free(alone);
}

static void test_sets(void **state)
{
    static const struct {
        enum dtype type;
        size_t heads, kv_heads, d;
    } cases[] = {
        {DTYPE_F16, 3, 3, 8},   {DTYPE_F16, 4, 2, 72},  {DTYPE_F16, 7, 1, 64},
        {DTYPE_F16, 2, 1, 256}, {DTYPE_F16, 5, 1, 512}, {DTYPE_F32, 6, 2, 40},
        {DTYPE_F32, 16, 1, 24}, {DTYPE_F32, 2, 1, 512}, {DTYPE_I8, 3, 3, 8},
        {DTYPE_I8, 4, 2, 72},   {DTYPE_I8, 7, 1, 64},   {DTYPE_I8, 2, 1, 256},
        {DTYPE_I8, 5, 1, 512},  {DTYPE_I8, 6, 2, 40},   {DTYPE_F16, 16, 8, 256},
        {DTYPE_I8, 16, 8, 256},
    };
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n);
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct world w;
        make_world(&w, cases[c].type, cases[c].heads, cases[c].kv_heads, cases[c].d);
        for (size_t i = 0; i < n; i++)
            if (cpu_has(sets[i].needs))
                check_set(&sets[i], &w);
        clear_world(&w);
    }
}

/* A key that only a later query sees may even be infinite, or not a number. */
static void test_what_others_see(void **state)
{
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        struct world w;
        if (!cpu_has(sets[i].needs))
            continue;
        make_world(&w, DTYPE_F16, 2, 1, 40);
        size_t rows = w.shape.head_dim * 4;
        float *before = heap_array(float, QUERIES *w.shape.heads *w.shape.head_dim);
        attend_all(&sets[i], &w, before, 1, 2, 0, 2);
        put(&w, 260, false); /* query 2 sees it, query 1 does not */
        attend_all(&sets[i], &w, w.out, 1, 2, 0, 2);
        assert_memory_equal(w.out + rows / 2, before + rows / 2, rows / 2 * sizeof *before);
        assert_true(isnan(w.out[rows]));
        heap_free(before);
        clear_world(&w);
    }
}

#define D ((size_t)72) /* head_dim of what follows */

/* Parts are added with the same bits in every set. */
static void test_parts(void **state)
{
    enum { ROWS = 5 };
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n);
    float *x = random_floats(&random_state, ROWS * D, 3.0f),
          *y = random_floats(&random_state, ROWS * D, 3.0f), a[2][ROWS * D];
    float sum[2][ROWS], largest[2][ROWS], more_sum[ROWS] = {1.0f, 2.0f, 3.5f, 1.25f, 7.0f};
    float more_largest[ROWS] = {3.0f, -3.0f, -INFINITY, 0.5f, 2.0f};
    struct attend_part more = {y, more_largest, more_sum};
    (void)state;
    for (size_t i = 0; i < n; i++) {
        if (!cpu_has(sets[i].needs))
            continue;
        for (size_t k = 0; k < 2; k++) {
            struct attend_part total = {a[k], largest[k], sum[k]};
            memcpy(a[k], x, sizeof a[k]);
            for (size_t r = 0; r < ROWS; r++) {
                largest[k][r] = r == 3 ? -INFINITY : 0.25f * (float)r;
                sum[k][r] = 1.0f + (float)r;
            }
            memset(a[k] + 3 * D, 0, D * sizeof(float));
            sum[k][3] = 0.0f;
            sets[k ? n - 1 : i].attend_add(&total, &more, ROWS, D);
        }
        assert_memory_equal(a[0], a[1], sizeof a[0]);
        assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
        assert_memory_equal(largest[0], largest[1], sizeof largest[0]);
        assert_memory_equal(a[0] + 2 * D, x + 2 * D, D * sizeof(float)); /* nothing came */
        assert_memory_equal(a[0] + 3 * D, y + 3 * D, D * sizeof(float)); /* nothing was there */
    }
    heap_free(x);
    heap_free(y);
}

/* Keys and values are stored with the same bits by every set, and close to what they were. */
static void test_store(void **state)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_I8};
    static const float sizes[] = {1.0f, 1e-4f, 1e4f, 1e-30f, 1e-42f, 0.0f};
    enum { HEADS = 2 };
    size_t n, bytes = HEADS * attend_head_bytes(DTYPE_F32, D);
    const struct kernel_set *sets = kernel_sets(&n);
    uint8_t *memory = heap_new(4, bytes);
    (void)state;
    for (size_t c = 0; c < 18 * n; c++) {
        const struct kernel_set *set = &sets[c / 18];
        enum dtype type = types[c / 6 % 3];
        struct attend_shape shape = {.heads = 4, .kv_heads = HEADS, .head_dim = D, .type = type};
        float *key = random_floats(&random_state, HEADS * D, sizes[c % 6]),
              *value = random_floats(&random_state, HEADS * D, sizes[c % 6]);
        float back[D];
        if (cpu_has(set->needs)) {
            memset(memory, 0, 4 * bytes);
            for (size_t at = 5; at < 64; at += 58) {
                set->attend_store(&shape, memory, memory + bytes, at, key, value);
                sets[n - 1].attend_store(&shape, memory + 2 * bytes, memory + 3 * bytes, at, key,
                                         value);
            }
            assert_memory_equal(memory, memory + 2 * bytes, 2 * bytes);
            read_back(back, memory + bytes + attend_head_bytes(type, D), 63, D, type, true);
            for (size_t i = 0; i < D; i++)
                assert_true(fabsf(back[i] - value[D + i]) <= fmaxf(sizes[c % 6] / 253.0f, 3.1e-8f));
        }
        heap_free(key);
        heap_free(value);
    }
    heap_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),          cmocka_unit_test(test_sets),
        cmocka_unit_test(test_what_others_see), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_store),
    };
    size_t n;
    const struct kernel_set *sets = kernel_sets(&n);
    print_message("seed %d\n", SEED);
    for (size_t i = 0; i < n; i++)
        if (!cpu_has(sets[i].needs))
            print_message("[  SKIPPED ] %s: this CPU cannot run it\n", sets[i].name);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
