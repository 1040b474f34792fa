/* One token, one result: bit-equal logits however the tokens came together. */
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "tests/engine/model/golden.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define N 130 /* tokens of the sequence: beyond two pages and eight windows of the small models */
#define PICTURE 70
#define PICTURE_SIZE 30

static const char *const names[] = {
    "models/nano-q4_0.gguf",  "models/nano-q8_0.gguf",       "models/nano-moe-q4_0.gguf",
    "models/nano-f32.gguf",   "models/nano-bf16.gguf",       "models/nano-f16.gguf",
    "models/small-q6_k.gguf", "models/small-q4_0-q6_k.gguf",
};

struct prompt {
    struct model_input inputs[N];
    float *soft; /* [PICTURE_SIZE][width] */
};

/* Tokens of a seed, with a picture in them. */
static void make_prompt(struct prompt *p, const struct model *m, uint32_t seed)
{
    const struct hparams *hp = model_hparams(m);
    uint32_t state = seed;

    p->soft = heap_array(float, (size_t)PICTURE_SIZE * hp->width);
    for (size_t i = 0; i < (size_t)PICTURE_SIZE * hp->width; i++)
        p->soft[i] = (float)(next_random(&state) % 2001) / 500.0f - 2.0f;
    for (size_t i = 0; i < N; i++) {
        bool slot = i >= PICTURE && i < PICTURE + PICTURE_SIZE;
        p->inputs[i] = (struct model_input){
            .id = (int32_t)(next_random(&state) % hp->vocabulary),
            .soft = slot ? p->soft + (i - PICTURE) * hp->width : NULL,
            .block = slot ? 3 : -1,
        };
    }
}

static float *whole(struct model *m, struct prompt *p)
{
    float *logits = heap_array(float, N *model_hparams(m)->vocabulary);
    struct golden_reading reading = {.inputs = p->inputs, .n = N, .budget_us = 1000000};

    golden_read(m, &reading, logits);
    return logits;
}

static void check_chunks(struct model *m, struct prompt *p, const int32_t *sizes, size_t n_sizes,
                         const float *expected)
{
    size_t n = N * model_hparams(m)->vocabulary;
    float *logits = heap_array(float, n);

    for (size_t i = 0; i < n_sizes; i++) {
        int32_t chunks[N];
        struct golden_reading reading = {
            .inputs = p->inputs, .n = N, .chunks = chunks, .n_chunks = N, .budget_us = 0};
        for (size_t k = 0; k < N; k++)
            chunks[k] = sizes[i];
        golden_read(m, &reading, logits);
        if (memcmp(logits, expected, n * sizeof *logits) != 0)
            fail_msg("chunks of %d: other logits (differ by %g)", sizes[i],
                     golden_distance(logits, expected, n));
    }
    heap_free(logits);
}

/* Sequences that are read in one pass, in turns of uneven length, the second begun later. */
static void check_together(struct model *m, struct prompt *p, struct prompt *other,
                           const float *expected, const float *expected_other)
{
    size_t vocabulary = model_hparams(m)->vocabulary, at = 0, at_other = 0;
    float *logits = heap_array(float, N *vocabulary);
    float *logits_other = heap_array(float, N *vocabulary);
    struct forward *f = forward_new(m, (size_t)2 * N);
    struct sequence *s[2] = {NULL, NULL};
    struct status st = {0};

    assert_true(sequence_new(&s[0], m, N, &st) && sequence_new(&s[1], m, N, &st));
    for (size_t i = 0; i < N; i++) {
        p->inputs[i].sequence = s[0];
        p->inputs[i].logits = logits + i * vocabulary;
        other->inputs[i].sequence = s[1];
        other->inputs[i].logits = logits_other + i * vocabulary;
    }
    while (at < N || at_other < N) {
        struct model_input inputs[2 * N];
        size_t end = at < PICTURE ? at + 35 : at + 50, end_other = at_other + PICTURE, n = 0;
        for (; at >= 35 && at_other < N && at_other < end_other; at_other++)
            inputs[n++] = other->inputs[at_other];
        for (; at < N && at < end; at++)
            inputs[n++] = p->inputs[at];
        forward_begin(f, inputs, n);
        while (!forward_advance(f, 0))
            continue;
    }
    assert_memory_equal(logits, expected, N * vocabulary * sizeof *logits);
    assert_memory_equal(logits_other, expected_other, N * vocabulary * sizeof *logits);
    forward_free(f);
    sequence_free(s[0]);
    sequence_free(s[1]);
    heap_free(logits);
    heap_free(logits_other);
}

/* A pass that is given up half-way leaves no trace, and others go on between its tiles. */
static void check_abandon(struct model *m, struct prompt *p, const float *expected)
{
    size_t vocabulary = model_hparams(m)->vocabulary;
    float *logits = heap_array(float, vocabulary);
    struct forward *f = forward_new(m, N), *g = forward_new(m, N);
    struct sequence *s[2] = {NULL, NULL};
    struct status st = {0};
    bool done[2] = {false, false};

    assert_true(sequence_new(&s[0], m, N, &st) && sequence_new(&s[1], m, N, &st));
    for (size_t i = 0; i < N; i++) {
        p->inputs[i].sequence = s[0];
        p->inputs[i].logits = i + 1 == N ? logits : NULL;
    }
    forward_begin(f, p->inputs, PICTURE);
    for (size_t i = 0; i < 20; i++)
        assert_false(forward_advance(f, 0));
    forward_abandon(f);
    assert_int_equal(sequence_length(s[0]), 0);
    forward_begin(f, p->inputs, N);
    for (size_t i = 0; i < PICTURE; i++) {
        p->inputs[i].sequence = s[1];
        p->inputs[i].id = (p->inputs[i].id + 1) % (int32_t)vocabulary;
    }
    forward_begin(g, p->inputs, PICTURE);
    while (!done[0] || !done[1]) {
        done[0] = done[0] || forward_advance(f, 0);
        done[1] = done[1] || forward_advance(g, 0);
    }
    assert_memory_equal(logits, expected + (N - 1) * vocabulary, vocabulary * sizeof *logits);
    forward_free(g);
    forward_free(f);
    sequence_free(s[0]);
    sequence_free(s[1]);
    heap_free(logits);
}

/* Positions where a snapshot is taken: around the window, page borders and the picture. */
static const size_t cuts[] = {1, 16, 40, 63, 64, 65, 70, 100, 101, 127, 128};
#define CUTS (sizeof cuts / sizeof *cuts)

static void run(struct forward *f, const struct model_input *inputs, size_t n)
{
    forward_begin(f, inputs, n);
    heap_guard_on("forward_advance");
    while (!forward_advance(f, 1000000))
        continue;
    heap_guard_off();
}

/* Reads the prompt in chunks and takes a snapshot at each cut on the way. */
static void take_snapshots(struct forward *f, struct prompt *p, size_t chunk,
                           struct kv_snapshot **out)
{
    struct sequence *s = p->inputs[0].sequence;
    struct status st = {0};
    size_t cut = 0;

    for (size_t at = 0; at < N;) {
        size_t end = at + chunk < N ? at + chunk : N;
        if (end > PICTURE && end < PICTURE + PICTURE_SIZE)
            end = PICTURE + PICTURE_SIZE;
        if (cut < CUTS && cuts[cut] <= end)
            sequence_mark(s, cuts[cut]);
        run(f, p->inputs + at, end - at);
        at = end;
        for (; cut < CUTS && cuts[cut] <= at; cut++)
            if (!sequence_snapshot(&out[cut], s, cuts[cut], &st))
                fail_msg("%s", st.text);
        sequence_unmark(s);
    }
    assert_int_equal(cut, CUTS);
}

/* What begins with a snapshot gives the logits of what read it anew; so does the one it was taken
 * of. */
static void check_snapshots(struct model *m, struct prompt *p, size_t chunk, const float *expected)
{
    size_t vocabulary = model_hparams(m)->vocabulary;
    float *logits = heap_array(float, N *vocabulary);
    struct forward *f = forward_new(m, N);
    struct kv_snapshot *snapshots[CUTS] = {0};
    struct sequence *s = NULL;
    struct status st = {0};

    for (size_t i = 0; i < N; i++)
        p->inputs[i].logits = logits + i * vocabulary;
    for (size_t k = 0; k < CUTS + 1; k++) {
        size_t cut = k == 0 ? 0 : cuts[k - 1];
        memset(logits, 0, N * vocabulary * sizeof *logits);
        assert_true(sequence_new(&s, m, N, &st));
        for (size_t i = 0; i < N; i++)
            p->inputs[i].sequence = s;
        if (k == 0) {
            take_snapshots(f, p, chunk, snapshots);
        } else {
            sequence_share(s, snapshots[k - 1]);
            run(f, p->inputs + cut, N - cut);
        }
        if (memcmp(logits + cut * vocabulary, expected + cut * vocabulary,
                   (N - cut) * vocabulary * sizeof *logits) != 0)
            fail_msg("from %zu on, read in chunks of %zu: other logits", cut, chunk);
        sequence_free(s);
    }
    for (size_t i = 0; i < CUTS; i++)
        kv_snapshot_free(snapshots[i]);
    forward_free(f);
    heap_free(logits);
}

/* The layout of the weights in memory changes no number. */
static void check_stored(const struct golden_model *m, struct prompt *p, const float *expected)
{
    const struct model_options options = {
        .context_max = 256, .kv_bytes = 64 << 20, .as_stored = true};
    struct status st = {0};
    struct model *stored;
    float *found;

    if (!model_open(&stored, m->weights, NULL, &options, &st))
        fail_msg("%s", st.text);
    found = whole(stored, p);
    assert_memory_equal(found, expected, N * model_hparams(stored)->vocabulary * sizeof(float));
    heap_free(found);
    model_close(stored);
}

/* thorough: for the models that are always there; the others are many. */
static void check_model(const char *name, bool exact, bool thorough)
{
    struct golden_model m, two;
    struct prompt p, other;
    float *expected, *expected_other, *threads;

    golden_model_open(&m, name, exact, 1);
    make_prompt(&p, m.model, 1);
    make_prompt(&other, m.model, 2);
    expected = whole(m.model, &p);
    expected_other = whole(m.model, &other);
    for (size_t chunk = 7; thorough && chunk <= N; chunk *= 10)
        check_snapshots(m.model, &p, chunk, expected);
    check_chunks(m.model, &p, (int32_t[]){64, 1, 7}, thorough ? 3 : 1, expected);
    check_together(m.model, &p, &other, expected, expected_other);
    golden_model_open(&two, name, exact, 2);
    threads = whole(two.model, &p);
    assert_memory_equal(threads, expected, N * model_hparams(m.model)->vocabulary * sizeof(float));
    check_chunks(two.model, &p, (int32_t[]){64}, 1, expected);
    if (!exact)
        check_stored(&m, &p, expected);
    check_abandon(two.model, &p, expected); /* changes the prompt */
    heap_free(threads);
    heap_free(expected);
    heap_free(expected_other);
    heap_free(p.soft);
    heap_free(other.soft);
    golden_model_close(&two);
    golden_model_close(&m);
}

static void check_all(bool exact)
{
    char path[GOLDEN_PATH_MAX];
    size_t checked = 0;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!golden_path(path, names[i])) {
            print_message("    not there: '%s'\n", names[i]);
            continue;
        }
        check_model(names[i], exact, i < 3);
        checked++;
    }
    assert_true(checked >= 2);
}

static void test_exact(void **state)
{
    (void)state;
    check_all(true);
}

static void test_fast(void **state)
{
    (void)state;
    check_all(false);
}

/* Forty pages of full layers are kept, of sliding ones only the window's. */
static void test_window_pages(void **state)
{
    struct golden_model m;
    struct forward *f;
    struct sequence *s = NULL, *none = NULL;
    struct status st = {0};

    (void)state;
    golden_model_open(&m, "models/nano-q4_0.gguf", false, 1);
    f = forward_new(m.model, 64);
    assert_false(sequence_new(&none, m.model, 4097, &st));
    assert_int_equal(st.code, STATUS_LIMIT);
    assert_true(sequence_new(&s, m.model, 2560, &st));
    for (size_t i = 0; i < 40; i++) {
        struct model_input inputs[64];
        for (size_t k = 0; k < 64; k++)
            inputs[k] = (struct model_input){.sequence = s, .id = (int32_t)(k + i), .block = -1};
        forward_begin(f, inputs, 64);
        while (!forward_advance(f, 1000000))
            continue;
    }
    assert_int_equal(sequence_length(s), 2560);
    forward_free(f);
    sequence_free(s);
    golden_model_close(&m);
}

/* Reads up to nine rows, of which all behind a random one are wrong, and takes those back. */
static size_t read_and_take_back(struct forward *f, struct prompt *p, size_t at, uint32_t *random)
{
    struct model_input inputs[9];
    struct sequence *s = p->inputs[0].sequence;
    size_t n = 1 + next_random(random) % 9, right = 1 + next_random(random) % n;

    n = at + n > N ? N - at : n;
    right = right < n ? right : n;
    for (size_t i = 0; i < n; i++) {
        inputs[i] = p->inputs[at + i];
        if (i >= right)
            inputs[i].id = (int32_t)i;
    }
    forward_begin(f, inputs, n);
    /* A pass that was given up takes nothing with it. */
    if (next_random(random) % 4 == 0) {
        (void)forward_advance(f, 0);
        forward_abandon(f);
        forward_begin(f, inputs, n);
    }
    while (!forward_advance(f, 0))
        continue;
    sequence_take_back(s, at + right);
    assert_int_equal(sequence_length(s), at + right);
    return right;
}

/* What was read and taken back leaves no trace: in windows, page borders, or another sequence. */
static void test_take_back(void **state)
{
    struct golden_model m;
    struct prompt p[2];
    struct sequence *s[2] = {NULL, NULL};
    struct status st = {0};
    float *expected[2], *logits[2];
    size_t at[2] = {0, 0}, vocabulary;
    uint32_t random = 11;

    (void)state;
    print_message("    seed %u\n", random);
    golden_model_open(&m, "models/nano-q4_0.gguf", false, 1);
    vocabulary = model_hparams(m.model)->vocabulary;
    struct forward *f = forward_new(m.model, 9);
    for (size_t k = 0; k < 2; k++) {
        make_prompt(&p[k], m.model, (uint32_t)k);
        for (size_t i = 0; i < N; i++) {
            p[k].inputs[i].soft = NULL;
            p[k].inputs[i].block = -1;
        }
        expected[k] = whole(m.model, &p[k]);
        logits[k] = heap_array(float, N *vocabulary);
        assert_true(sequence_new(&s[k], m.model, N, &st));
        for (size_t i = 0; i < N; i++) {
            p[k].inputs[i].sequence = s[k];
            p[k].inputs[i].logits = logits[k] + i * vocabulary;
        }
    }
    while (at[0] < N || at[1] < N) {
        size_t k = at[0] == N || (at[1] < N && next_random(&random) % 2);
        at[k] += read_and_take_back(f, &p[k], at[k], &random);
    }
    for (size_t k = 0; k < 2; k++) {
        assert_memory_equal(logits[k], expected[k], N * vocabulary * sizeof(float));
        sequence_free(s[k]);
        heap_free(expected[k]);
        heap_free(logits[k]);
        heap_free(p[k].soft);
    }
    forward_free(f);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_pages),
        cmocka_unit_test(test_take_back),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
