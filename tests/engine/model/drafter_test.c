/* The drafter: files that are no pair are refused in words; its numbers are those of the golden
 * case, alone and together. */
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "tests/engine/model/damaged.h"
#include "tests/engine/model/golden.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "models/nano-q4_0.gguf"
#define DRAFTER "models/nano-drafter-f32.gguf"
#define PREFIX "gemma4-assistant."

static int read_file(void **state)
{
    (void)state;
    damaged_read("tests/golden/" DRAFTER);
    return 0;
}

static int forget_file(void **state)
{
    (void)state;
    damaged_forget();
    return 0;
}

/* A drafter from the changed bytes. */
struct changed {
    struct weights *w;
    struct drafter *drafter;
};

static bool changed_open(struct changed *c, struct model *target, struct status *st)
{
    char path[] = "/tmp/millrace-drafter-XXXXXX";

    damaged_write(path);
    bool ok = weights_open(&c->w, path, st) && drafter_open(&c->drafter, c->w, target, 2, st);
    (void)unlink(path);
    return ok;
}

static void changed_close(struct changed *c)
{
    drafter_close(c->drafter);
    weights_close(c->w);
}

static bool open_changed(struct model *target, struct status *st)
{
    struct changed c = {0};
    bool ok = changed_open(&c, target, st);

    changed_close(&c);
    return ok;
}

/* Put another 32-bit value at `skip` bytes behind a key; refused with that text. */
static void refuse(struct model *target, const char *key, size_t skip, uint32_t value, size_t size,
                   const char *text)
{
    char full[96];
    uint8_t old[4];
    struct status st = {0};

    (void)snprintf(full, sizeof full, PREFIX "%s", key);
    uint8_t *place = damaged_find(full) + strlen(full) + skip;
    memcpy(old, place, size);
    memcpy(place, &value, size);
    if (open_changed(target, &st))
        fail_msg("%s = %u: not refused", key, value);
    if (!strstr(st.text, text))
        fail_msg("'%s' does not speak of '%s'", st.text, text);
    memcpy(place, old, size);
}

static void refuse_without(struct model *target, const char *name)
{
    uint8_t *place = damaged_find(name);
    struct status st = {0};

    place[0] = 'X';
    assert_false(open_changed(target, &st));
    if (!strstr(st.text, name))
        fail_msg("'%s' does not speak of '%s'", st.text, name);
    place[0] = (uint8_t)name[0];
}

static void test_refused(void **state)
{
    const size_t value = 4, element = 4 + 4 + 8; /* bytes of type, length before them */
    struct golden_model m;
    struct drafter *d = NULL;
    struct status st = {0};

    (void)state;
    golden_model_open(&m, MODEL, false, 1);
    if (!open_changed(m.model, &st)) /* not changed yet */
        fail_msg("%s", st.text);
    refuse(m.model, "embedding_length_out", value, 32, 4,
           "it drafts for a model of width 32, this one has 64");
    refuse(m.model, "embedding_length_out", value, 0, 4, "embedding_length_out: 0");
    refuse(m.model, "attention.sliding_window", value, 32, 4,
           "its sliding window is 32, the model's 16");
    refuse(m.model, "attention.sliding_window_pattern", element, 0, 1,
           "layer 0 (full): 2 key heads of 32, the model's have 1 of 32");
    refuse(m.model, "attention.head_count_kv", element, 1, 4,
           "layer 0 (sliding): 1 key heads of 16, the model's have 2 of 16");
    refuse(m.model, "attention.shared_kv_layers", value, 3, 4, "shared_kv_layers: 3");
    refuse(m.model, "embedding_length", value, 64, 4, "token_embd.weight");
    refuse(m.model, "attention.head_count", value, 8, 4, "attn_q");
    refuse_without(m.model, "nextn.pre_projection.weight");
    refuse_without(m.model, "nextn.post_projection.weight");
    refuse_without(m.model, "blk.3.attn_q_norm.weight");
    assert_false(drafter_open(&d, m.weights, m.model, 1, &st));
    assert_non_null(strstr(st.text, "'gemma4' is no drafter"));
    golden_model_close(&m);
}

/* A model of other sizes: the 12B's drafter beside the 31B, say. */
static void test_other_model(void **state)
{
    struct golden_model m;
    struct status st = {0};

    (void)state;
    golden_model_open(&m, "models/small-q6_k.gguf", false, 1);
    assert_false(open_changed(m.model, &st));
    assert_non_null(strstr(st.text, "not a pair"));
    golden_model_close(&m);
}

/* Reads n ids; hidden [width] of the last one. */
static struct sequence *read_ids(struct model *m, const int32_t *ids, size_t n, float *hidden,
                                 float *logits)
{
    struct sequence *s = NULL;
    struct status st = {0};
    struct forward *f = forward_new(m, 1);

    if (!sequence_new(&s, m, n + 8, &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < n; i++) {
        struct model_input input = {.sequence = s, .id = ids[i], .block = -1};
        if (i + 1 == n) {
            input.logits = logits;
            input.hidden = hidden;
        }
        forward_begin(f, &input, 1);
        while (!forward_advance(f, 1000000))
            continue;
    }
    forward_free(f);
    return s;
}

static void compare(const struct weights *c, const char *name, const float *values, size_t row,
                    size_t n, double tolerance)
{
    size_t n_expected = 0;
    const float *expected = golden_f32(c, name, &n_expected);

    assert_true((row + 1) * n <= n_expected);
    double distance = golden_distance(values, expected + row * n, n);
    if (!(distance <= tolerance))
        fail_msg("%s[%zu] differs by %g, allowed %g", name, row, distance, tolerance);
}

static void test_golden_round(void **state)
{
    struct weights *c = golden_case_open("drafter");
    size_t n = 0, n_drafts = 0, one = 0;
    const int32_t *prompt = golden_i32(c, "prompt", &n);
    const int32_t *drafts = golden_i32(c, "drafts", &n_drafts);
    struct golden_model m;
    struct weights *w = NULL;
    struct drafter *d = NULL;
    struct status st = {0};
    char path[GOLDEN_PATH_MAX];
    double tolerance = 0;
    float hidden[64], logits[512];

    (void)state;
    golden_model_open(&m, "models/nano-f32.gguf", true, 1);
    assert_true(golden_path(path, DRAFTER));
    if (!weights_f64(c, "golden.tolerance", &tolerance, &st) || !weights_open(&w, path, &st) ||
        !drafter_open(&d, w, m.model, 1, &st))
        fail_msg("%s", st.text);
    struct sequence *s = read_ids(m.model, prompt, n, hidden, logits);
    compare(c, "hidden", hidden, 0, 64, tolerance);
    struct drafter_row row = {
        .sequence = s, .token = golden_i32(c, "token", &one)[0], .hidden = hidden};
    for (size_t i = 0; i < n_drafts; i++) {
        heap_guard_on("drafter_step");
        const float *got = drafter_step(d, &row, 1);
        heap_guard_off();
        compare(c, "logits", got, i, 512, tolerance);
        compare(c, "next_hidden", hidden, i, 64, tolerance);
        row.token = drafts[i];
    }
    sequence_free(s);
    drafter_close(d);
    weights_close(w);
    golden_model_close(&m);
    weights_close(c);
}

/* Three sequences of other lengths, across windows and pages: the same numbers alone and together.
 */
static void test_together(void **state)
{
    static const size_t lengths[3] = {1, 75, 150};
    struct golden_model m;
    struct weights *w = NULL;
    struct drafter *alone = NULL, *together = NULL;
    struct status st = {0};
    struct drafter_row rows[3];
    int32_t ids[150];
    float hidden[3][64], same[3][64], logits[512];

    (void)state;
    golden_model_open(&m, MODEL, false, 2);
    if (!weights_open(&w, "tests/golden/" DRAFTER, &st) ||
        !drafter_open(&alone, w, m.model, 1, &st) || !drafter_open(&together, w, m.model, 3, &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < 150; i++)
        ids[i] = (int32_t)(i * i + 7) % 500;
    for (size_t k = 0; k < 3; k++) {
        rows[k] =
            (struct drafter_row){.sequence = read_ids(m.model, ids, lengths[k], hidden[k], logits),
                                 .token = (int32_t)(5 * k),
                                 .hidden = hidden[k]};
        memcpy(same[k], hidden[k], sizeof same[k]);
    }
    for (size_t step = 0; step < 3; step++) {
        const float *all = drafter_step(together, rows, 3);
        for (size_t k = 0; k < 3; k++) {
            struct drafter_row row = rows[k];
            row.hidden = same[k];
            assert_memory_equal(drafter_step(alone, &row, 1), all + k * 512, sizeof logits);
            assert_memory_equal(same[k], hidden[k], sizeof same[k]);
        }
    }
    for (size_t k = 0; k < 3; k++)
        sequence_free((struct sequence *)rows[k].sequence);
    drafter_close(alone);
    drafter_close(together);
    weights_close(w);
    golden_model_close(&m);
}

/* A flipped bit in what the file says of itself: refused, or drafted with, wrong guesses and all.
 */
static void test_flipped_bits(void **state)
{
    struct golden_model m;
    uint32_t random = 17;
    int32_t ids[40] = {1};
    float hidden[64], kept[64], logits[512];
    size_t opened = 0, tries = 800;
    /* The numbers come first, the names and shapes of tensors behind the vocabulary. */
    size_t begin[2] = {24, (size_t)(damaged_find("token_embd.weight") - damaged.data)};
    size_t size[2] = {1700, 1500};

    (void)state;
    print_message("    seed %u\n", random);
    golden_model_open(&m, MODEL, false, 1);
    struct sequence *s = read_ids(m.model, ids, 40, kept, logits);
    for (size_t i = 0; i < tries; i++) {
        size_t bit = next_random(&random) % (8 * size[i % 2]);
        uint8_t *place = damaged.data + begin[i % 2] + bit / 8;
        uint8_t flip = (uint8_t)(1U << bit % 8);
        struct changed c = {0};
        struct status st = {0};
        *place ^= flip;
        if (changed_open(&c, m.model, &st)) {
            struct drafter_row row = {.sequence = s, .token = 5, .hidden = hidden};
            memcpy(hidden, kept, sizeof hidden);
            (void)drafter_step(c.drafter, &row, 1);
            opened++;
        }
        changed_close(&c);
        *place ^= flip;
    }
    print_message("    %zu of %zu opened\n", opened, tries);
    assert_true(opened > 0 && opened < tries);
    sequence_free(s);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_golden_round), cmocka_unit_test(test_together),
        cmocka_unit_test(test_flipped_bits),
    };
    return cmocka_run_group_tests(tests, read_file, forget_file);
}
