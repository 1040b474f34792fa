/* One token, one result: a conversation with a picture and a sound has the same logits, to the bit,
 * whatever the chunks, the company, the threads and what was read before, for every storage type,
 * kernel set, precision, type of keys and values, with and without experts. Every pair of these
 * choices comes about; with MILLRACE_LONG=1 every combination. */
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/kernels.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "tests/engine/model/golden.h"
#include "tests/engine/model/random_model.h"
#include "tests/engine/run/conversation.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SETS_MAX 8

/* ---- what is chosen */

static const enum dtype types[] = {
    DTYPE_F32,  DTYPE_F16,    DTYPE_BF16,   DTYPE_Q8_0,  DTYPE_Q4_0, DTYPE_Q4_1,
    DTYPE_Q5_0, DTYPE_Q5_1,   DTYPE_Q2_K,   DTYPE_Q3_K,  DTYPE_Q4_K, DTYPE_Q5_K,
    DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4,
};
/* Numbers of a kernel set: what its best rows need. Filled by find_sets. */
static uint32_t sets[SETS_MAX];
static const struct {
    const char *name;
    struct model_options options;
} modes[] = {
    {"exact", {.exact = true}},
    {"fast, kv f16", {0}},
    {"fast, kv f32", {.kv_type = "f32"}},
    {"fast, kv q8", {.kv_type = "q8"}},
};
/* How the conversation is read, to be compared with: at once, by one thread, alone. */
static const struct {
    const char *name;
    size_t chunk; /* 0: at once */
    size_t threads;
    bool company, snapshots;
} cuts[] = {
    {"chunks of 1", 1, 1, false, false},
    {"chunks of 7, 2 threads", 7, 2, false, false},
    {"chunks of 64", 64, 1, false, false},
    {"chunks of 512, 4 threads", 512, 4, false, false},
    {"4 threads", 0, 4, false, false},
    {"in company", 0, 1, true, false},
    {"in company, 4 threads", 0, 4, true, false},
    {"from snapshots", 0, 1, false, true},
};

enum { TYPE, SET, MODE, EXPERTS, CUT, FACTORS };
static size_t n_choices[FACTORS] = {sizeof types / sizeof *types, 0, sizeof modes / sizeof *modes,
                                    2, sizeof cuts / sizeof *cuts};
#define CHOICES_MAX 16

static void add_set(uint32_t needs)
{
    if (!cpu_has(needs))
        return;
    for (size_t i = 0; i < n_choices[SET]; i++)
        if (sets[i] == needs)
            return;
    assert_true(n_choices[SET] < SETS_MAX);
    sets[n_choices[SET]++] = needs;
}

/* Every mask under which this machine takes other kernels. */
static void find_sets(void)
{
    size_t n = 0, n_sets = 0;
    const struct matmul_row *rows = matmul_rows(&n);
    const struct kernel_set *all = kernel_sets(&n_sets);

    for (size_t i = 0; i < n; i++)
        add_set(rows[i].needs);
    for (size_t i = 0; i < n_sets; i++)
        add_set(all[i].needs);
}

/* ---- a combination */

static struct pool *pools[5]; /* by threads */

struct bench {
    size_t choice[FACTORS]; /* CUT does not count */
    char path[RANDOM_MODEL_PATH];
    struct weights *weights;
    struct reader reader;
    float *expected, *got; /* [n][vocabulary] */
};

static struct model *open_model(const struct bench *b, size_t threads)
{
    struct model_options options = modes[b->choice[MODE]].options;
    struct model *m = NULL;
    struct status st = {0};

    options.context_max = 1024;
    options.kv_bytes = (size_t)64 << 20;
    if (!model_open(&m, b->weights, pools[threads], &options, &st))
        fail_msg("%s", st.text);
    return m;
}

static void bench_open(struct bench *b, const size_t choice[FACTORS], size_t rows)
{
    const struct random_model shape = {.type = types[choice[TYPE]],
                                       .experts = choice[EXPERTS] != 0,
                                       .seed = (uint32_t)(choice[TYPE] + 1)};
    struct status st = {0};
    struct model *m;

    *b = (struct bench){0};
    memcpy(b->choice, choice, sizeof b->choice);
    random_model_write(b->path, &shape);
    if (!weights_open(&b->weights, b->path, &st))
        fail_msg("%s", st.text);
    cpu_set_mask(sets[choice[SET]]);
    m = open_model(b, 1);
    conversation_make(&b->reader.c, model_hparams(m), rows, 1);
    b->expected = heap_array(float, rows *RANDOM_MODEL_VOCABULARY);
    b->got = heap_array(float, rows *RANDOM_MODEL_VOCABULARY);
    model_close(m);
}

static void bench_close(struct bench *b)
{
    heap_free(b->reader.c.soft);
    heap_free(b->expected);
    heap_free(b->got);
    weights_close(b->weights);
    (void)unlink(b->path);
    cpu_set_mask(UINT32_MAX);
}

/* What all other ways are compared with. */
static void expect(struct bench *b)
{
    struct model *m = open_model(b, 1);

    reader_alone(m, &b->reader, 0, b->expected);
    for (size_t i = 0; i < b->reader.c.n * RANDOM_MODEL_VOCABULARY; i++)
        assert_true(b->expected[i] >= -30 && b->expected[i] <= 30);
    model_close(m);
}

static void compare(struct bench *b, size_t cut)
{
    size_t n = b->reader.c.n * RANDOM_MODEL_VOCABULARY;
    struct model *m = open_model(b, cuts[cut].threads);

    memset(b->got, 0, n * sizeof *b->got);
    if (cuts[cut].company)
        reader_in_company(m, &b->reader, b->got, (uint32_t)cut);
    else if (cuts[cut].snapshots)
        reader_from_snapshots(m, &b->reader, b->got, (uint32_t)cut);
    else
        reader_alone(m, &b->reader, cuts[cut].chunk, b->got);
    if (memcmp(b->got, b->expected, n * sizeof *b->got) != 0)
        fail_msg("%s, %s, %s: %s: other logits (by %g)", quant_name(types[b->choice[TYPE]]),
                 model_numerics(m), b->choice[EXPERTS] ? "experts" : "dense", cuts[cut].name,
                 golden_distance(b->got, b->expected, n));
    model_close(m);
}

/* ---- pairs */

static bool covered[FACTORS][CHOICES_MAX][FACTORS][CHOICES_MAX];

/* How many pairs of choices a combination would bring about for the first time. */
static size_t news(const size_t choice[FACTORS])
{
    size_t n = 0;

    for (size_t a = 0; a < FACTORS; a++)
        for (size_t b = a + 1; b < FACTORS; b++)
            n += !covered[a][choice[a]][b][choice[b]];
    return n;
}

static void cover(const size_t choice[FACTORS])
{
    for (size_t a = 0; a < FACTORS; a++)
        for (size_t b = a + 1; b < FACTORS; b++)
            covered[a][choice[a]][b][choice[b]] = true;
}

/* Counts through all combinations, the last factor fastest; false after the last one. */
static bool next_combination(size_t choice[FACTORS])
{
    for (size_t f = FACTORS; f-- > 0;) {
        if (++choice[f] < n_choices[f])
            return true;
        choice[f] = 0;
    }
    return false;
}

/* The combination with the most new pairs; false when there is none. */
static bool best_combination(size_t best[FACTORS])
{
    size_t choice[FACTORS] = {0}, most = 0;

    do {
        size_t n = news(choice);
        if (n <= most)
            continue;
        most = n;
        memcpy(best, choice, sizeof choice);
    } while (next_combination(choice));
    return most > 0;
}

static void test_pairs(void **state)
{
    size_t choice[FACTORS], n = 0;
    struct bench b;

    (void)state;
    memset(covered, 0, sizeof covered);
    while (best_combination(choice)) {
        /* The plain kernels are slow; they get their chunks of 512 in the long run. */
        bool long_enough = cuts[choice[CUT]].chunk == 512 && sets[choice[SET]] != 0;
        cover(choice);
        bench_open(&b, choice, long_enough ? 520 : 100);
        expect(&b);
        compare(&b, choice[CUT]);
        bench_close(&b);
        n++;
    }
    print_message("    %zu combinations\n", n);
}

static void test_all(void **state)
{
    size_t choice[FACTORS] = {0}, n = 0, n_all = 1;
    struct bench b;

    (void)state;
    for (size_t f = 0; f < FACTORS; f++)
        n_all *= n_choices[f];
    if (!getenv("MILLRACE_LONG")) {
        print_message("skipped: every combination only with MILLRACE_LONG=1\n");
        skip();
    }
    do {
        if (choice[CUT] == 0) {
            bench_open(&b, choice, 520);
            expect(&b);
        }
        compare(&b, choice[CUT]);
        n++;
        if (choice[CUT] + 1 == n_choices[CUT])
            bench_close(&b);
        if (n % (n_all / n_choices[TYPE]) == 0)
            print_message("    %s: %zu of %zu combinations\n", quant_name(types[choice[TYPE]]), n,
                          n_all);
    } while (next_combination(choice));
}

/* ---- the same through the batch: answers drawn from the logits */

#define PROMPT 40
#define ANSWER 6
#define SLOTS 4

struct answer {
    int32_t tokens[ANSWER];
    size_t n;
    enum batch_finish finish;
};

/* Reads requests of these numbers (SLOTS of them) to their ends, `gap` steps after one another. */
static void answer_all(const struct bench *b, const struct tokenizer *t, size_t threads,
                       size_t chunk, size_t gap, struct answer *out)
{
    const struct batch_options options = {
        .slots = SLOTS, .context_max = 128, .chunk_tokens = chunk, .step_us = 1};
    const int32_t spans[] = {4, 20, MEDIA_IMAGE, 30, 4, MEDIA_AUDIO};
    struct model *m = open_model(b, threads);
    struct batch *batch = NULL;
    struct batch_event events[SLOTS];
    struct status st = {0};
    size_t begun = 0, which[SLOTS] = {0};

    assert_true(batch_new(&batch, m, t, &options, &st));
    memset(out, 0, SLOTS * sizeof *out);
    for (size_t step = 0; begun < SLOTS || batch_active(batch) > 0; step++) {
        if (begun < SLOTS && (gap > 0 ? step >= begun * gap : batch_active(batch) == 0)) {
            size_t slot = 0;
            int32_t ids[PROMPT];
            uint32_t random = (uint32_t)begun;
            for (size_t i = 0; i < PROMPT; i++)
                ids[i] = (int32_t)(107 + next_random(&random) % 390);
            const struct batch_request request = {
                .ids = ids,
                .n_ids = PROMPT - begun,
                .spans = spans,
                .n_spans = begun % 3,
                .soft = b->reader.c.soft + 20 * model_hparams(m)->width,
                .tokens_max = ANSWER,
                .sampling = {.temperature = begun == 3 ? 0 : 1, .top_p = 1, .seed = begun}};
            if (!batch_add(batch, &request, &slot, &st))
                fail_msg("%s", st.text);
            which[slot] = begun++;
        }
        size_t n = batch_step(batch, events);
        for (size_t i = 0; i < n; i++) {
            struct answer *a = &out[which[events[i].slot]];
            assert_int_equal(a->n, events[i].index);
            memcpy(a->tokens + a->n, events[i].tokens, events[i].n_tokens * sizeof *a->tokens);
            a->n += events[i].n_tokens;
            a->finish = events[i].finish;
        }
    }
    batch_free(batch);
    model_close(m);
}

static void check_batch(const size_t choice[FACTORS], const struct tokenizer *t)
{
    struct bench b;
    struct answer expected[SLOTS], got[SLOTS];

    bench_open(&b, choice, 76);
    answer_all(&b, t, 1, 64, 0, expected);
    answer_all(&b, t, 2, 7, 9, got);
    for (size_t i = 0; i < SLOTS; i++)
        assert_true(expected[i].n > 0 && expected[i].finish != BATCH_RUNNING);
    for (size_t i = 0; i < SLOTS; i++)
        if (expected[i].n != got[i].n || expected[i].finish != got[i].finish ||
            memcmp(expected[i].tokens, got[i].tokens, sizeof got[i].tokens) != 0)
            fail_msg("%s, set %zu, %s: another answer in company", quant_name(types[choice[TYPE]]),
                     choice[SET], modes[choice[MODE]].name);
    bench_close(&b);
}

static void test_batch(void **state)
{
    struct golden_model nano; /* for its tokenizer */
    struct tokenizer *t = NULL;
    struct status st = {0};
    size_t choice[FACTORS] = {0};

    (void)state;
    golden_model_open(&nano, "models/nano-q4_0.gguf", false, 1);
    assert_true(tokenizer_new(&t, nano.weights, &st));
    for (size_t i = 0; i < n_choices[TYPE]; i++) {
        choice[TYPE] = i;
        choice[SET] = i % n_choices[SET];
        choice[MODE] = i % n_choices[MODE];
        choice[EXPERTS] = i % 2;
        check_batch(choice, t);
    }
    memset(choice, 0, sizeof choice);
    while (getenv("MILLRACE_LONG") && next_combination(choice))
        if (choice[CUT] == 0)
            check_batch(choice, t);
    tokenizer_free(t);
    golden_model_close(&nano);
}

static int setup(void **state)
{
    (void)state;
    find_sets();
    pools[2] = pool_new(2);
    pools[4] = pool_new(4);
    return n_choices[SET] == 0;
}

static int teardown(void **state)
{
    (void)state;
    pool_free(pools[2]);
    pool_free(pools[4]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_batch),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
