/* Keys and values: budget, pages of the window, what is let go, what snapshots keep. */
#include "engine/base/heap.h"
#include "engine/kernels/kernels.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/quant/quant.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void write(struct kv *kv, struct kv_line *line, size_t layer, size_t position,
                  const float *key, const float *value)
{
    struct attend_shape shape = kv_shape(kv, layer);
    struct attend_place place = kv_line_place(line, layer, position);

    kernels_find()->attend_store(&shape, place.keys, place.values, place.at, key, value);
}

/* The layers of the 12B: spec model.md section 6.2. */
static struct hparams hparams_12b(void)
{
    struct hparams hp = {.layers = 48, .heads = 16, .window = 1024};

    for (size_t i = 0; i < hp.layers; i++)
        hp.layer[i] = (i + 1) % 6 ? (struct hparams_layer){true, true, 8, 256}
                                  : (struct hparams_layer){false, false, 1, 512};
    return hp;
}

static struct hparams hparams_small(void)
{
    struct hparams hp = {.layers = 3, .heads = 2, .window = 100};

    hp.layer[0] = (struct hparams_layer){true, true, 2, 8};
    hp.layer[1] = (struct hparams_layer){false, false, 1, 16};
    hp.layer[2] = (struct hparams_layer){true, true, 1, 8};
    return hp;
}

static void test_budget(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL, *none = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F16, 0);
    size_t bytes = kv_line_bytes(kv, 1000);

    (void)state;
    assert_false(kv_line_new(&none, kv, 1, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    kv_free(kv);
    kv = kv_new(&hp, DTYPE_F16, bytes);
    assert_false(kv_line_new(&none, kv, 1025, &st));
    assert_null(none);
    assert_true(kv_line_new(&line, kv, 1000, &st));
    assert_int_equal(kv_reserved_bytes(kv), bytes);
    assert_false(kv_line_new(&none, kv, 1, &st));
    kv_widen(kv, 640); /* for passes, not for lines */
    assert_int_equal(kv_reserved_bytes(kv), bytes);
    assert_false(kv_line_new(&none, kv, 1, &st));
    kv_narrow(kv, 640);
    kv_line_free(line);
    assert_int_equal(kv_reserved_bytes(kv), 0);
    /* Pages of full layers that are not needed make room for sliding ones. */
    for (size_t tokens = 1; tokens <= 1000; tokens += 111) {
        assert_true(kv_line_new(&line, kv, tokens, &st));
        kv_line_extend(line, 0, tokens < 160 ? tokens : 160);
        kv_line_free(line);
    }
    kv_free(kv);
}

static void test_bytes_of_the_12b(void **state)
{
    struct hparams hp = hparams_12b();
    struct kv *kv = kv_new(&hp, DTYPE_F16, (size_t)64 << 20), *small;
    struct status st = {0};
    struct kv_line *line;
    float one[2048] = {1.0f};

    (void)state;
    assert_true(kv_line_new(&line, kv, 64, &st)); /* of 20 MiB: in pages of the system */
    kv_line_extend(line, 0, 64);
    write(kv, line, 0, 0, one, one);
    write(kv, line, 46, 63, one, one);
    assert_int_equal(((const uint16_t *)kv_line_keys(line, 0)[0])[0], 0x3c00);
    size_t place = attend_value_place(DTYPE_F16, 256, 63, 0);
    assert_int_equal(((const uint16_t *)kv_line_values(line, 46)[0])[place], 0x3c00);
    kv_line_free(line);
    assert_int_equal(kv_page_bytes(kv, KV_SLIDING), 64 * 327680);
    assert_int_equal(kv_page_bytes(kv, KV_FULL), 64 * 16384);
    assert_int_equal(kv_line_bytes(kv, 64), 64 * (327680 + 16384));
    assert_int_equal(kv_token_bytes(kv, KV_SLIDING), 327680);
    assert_int_equal(kv_token_bytes(kv, KV_FULL), 16384);
    /* The table of spec model.md section 6.2, in MiB. What a line reserves is that much, its full
     * part rounded up to pages, and 2 pages of sliding layers: 1023 older positions and 64 new ones
     * lie in 18 pages at most. */
    static const struct {
        size_t context, sliding, full;
    } rows[] = {{8192, 320, 128}, {32768, 320, 512}, {131072, 320, 2048}, {262144, 320, 4096}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t context = rows[i].context;
        assert_int_equal(kv_held_bytes(kv, KV_SLIDING, context), rows[i].sliding << 20);
        assert_int_equal(kv_held_bytes(kv, KV_FULL, context), rows[i].full << 20);
        assert_int_equal(kv_line_bytes(kv, context), ((rows[i].sliding + rows[i].full) << 20) +
                                                         2 * kv_page_bytes(kv, KV_SLIDING));
        assert_int_equal(kv_line_bytes(kv, context - 63), kv_line_bytes(kv, context));
    }
    assert_int_equal(kv_held_bytes(kv, KV_SLIDING, 100), 100 * 327680);
    /* A byte each, and a float32 scale for each key and value of a head. */
    small = kv_new(&hp, DTYPE_I8, 0);
    assert_int_equal(kv_token_bytes(small, KV_SLIDING), 327680 / 2 + 40 * 2 * 8 * 4);
    assert_int_equal(kv_token_bytes(small, KV_FULL), 16384 / 2 + 8 * 2 * 4);
    kv_free(small);
    kv_free(kv);
}

static void test_write_and_read(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F32, (size_t)1 << 20);
    float key[16], value[16];

    (void)state;
    assert_true(kv_line_new(&line, kv, 200, &st));
    kv_line_extend(line, 0, 130);
    for (size_t i = 0; i < 16; i++) {
        key[i] = (float)i;
        value[i] = -(float)i;
    }
    write(kv, line, 0, 70, key, value);
    write(kv, line, 1, 129, value, key);
    /* Position 70 is row 6 of page 1; the second head comes after the 64 rows of the first. */
    const float *keys = kv_line_keys(line, 0)[1], *values = kv_line_values(line, 0)[1];
    for (size_t i = 0; i < 16; i++) {
        size_t head = i / 8 * 64 * 8;
        assert_true(keys[head + attend_key_place(DTYPE_F32, 6, i % 8)] == key[i]);
        assert_true(values[head + attend_value_place(DTYPE_F32, 8, 6, i % 8)] == value[i]);
    }
    keys = kv_line_keys(line, 1)[2];
    for (size_t i = 0; i < 16; i++)
        assert_true(keys[attend_key_place(DTYPE_F32, 1, i)] == value[i]);
    assert_null(kv_line_keys(line, 0)[3]);
    kv_line_free(line);
    kv_free(kv);
}

/* After each step exactly the pages that a later query can see are there. */
static void test_window(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv_line *line = NULL;
    struct kv *kv = kv_new(&hp, DTYPE_F16, (size_t)1 << 22);
    size_t length = 0;

    (void)state;
    kv_widen(kv, 500);
    assert_true(kv_line_new(&line, kv, 5000, &st));
    for (size_t step = 1; length + step <= 5000; step = step % 300 + 7) {
        kv_line_extend(line, length, length + step);
        if (step % 2 == 0) {
            kv_line_trim(line, length, length); /* given up */
            continue;
        }
        length += step;
        kv_line_trim(line, length, length);
        for (size_t page = 0; page < (5000 + 63) / 64; page++) {
            bool full = page * 64 < length;
            bool sliding = full && page * 64 + 63 + hp.window > length;
            assert_int_equal(kv_line_keys(line, 1)[page] != NULL, full);
            assert_int_equal(kv_line_keys(line, 0)[page] != NULL, sliding);
            assert_int_equal(kv_line_values(line, 2)[page] != NULL, sliding);
        }
        assert_true(kv_pages_used(kv, KV_SLIDING) <= 3);
        assert_int_equal(kv_pages_used(kv, KV_FULL), (length + 63) / 64);
    }
    kv_line_free(line);
    assert_int_equal(kv_pages_used(kv, KV_FULL), 0);
    kv_narrow(kv, 500);
    kv_free(kv);
}

/* ---- snapshots */

#define TOKENS 400
#define LINES 4
#define SNAPSHOTS 5

/* A line, and what was written at each position. */
struct told {
    struct kv_line *line;
    size_t length;
    float content[TOKENS];
};

static void write_on(struct kv *kv, struct told *t, size_t n, float what)
{
    float row[16];

    kv_line_extend(t->line, t->length, t->length + n);
    for (size_t p = t->length; p < t->length + n; p++) {
        t->content[p] = what + (float)p / 1024;
        for (size_t layer = 0; layer < 3; layer++) {
            for (size_t i = 0; i < 16; i++)
                row[i] = t->content[p] + (float)(i + layer * 16);
            write(kv, t->line, layer, p, row, row);
        }
    }
    t->length += n;
}

/* Each position that a query at the line's length sees is there, with what was written. */
static void assert_told(const struct hparams *hp, const struct told *t)
{
    for (size_t layer = 0; layer < 3; layer++) {
        const struct hparams_layer *shape = &hp->layer[layer];
        size_t first = shape->sliding && t->length >= hp->window ? t->length + 1 - hp->window : 0;
        for (size_t p = first; p < t->length; p++)
            for (size_t head = 0; head < shape->kv_heads; head++) {
                const float *page = kv_line_keys(t->line, layer)[p / KV_PAGE_TOKENS];
                size_t at = head * KV_PAGE_TOKENS * shape->head_dim +
                            attend_key_place(DTYPE_F32, p % KV_PAGE_TOKENS, 0);
                float expected = t->content[p] + (float)(head * shape->head_dim + layer * 16);
                assert_true(page[at] == expected);
            }
    }
}

static void test_snapshot_budget(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv *kv = kv_new(&hp, DTYPE_F32, 0);
    size_t sliding = kv_page_bytes(kv, KV_SLIDING), full = kv_page_bytes(kv, KV_FULL);
    size_t line_bytes = kv_line_bytes(kv, TOKENS);
    struct told t = {0}, fork = {0};
    struct kv_snapshot *s = NULL;

    (void)state;
    kv_free(kv);
    /* At 200 the window begins in page 1: 3 sliding pages; a copy of the page that is begun. */
    kv = kv_new(&hp, DTYPE_F32, line_bytes + 3 * sliding + full - 1);
    assert_true(kv_line_new(&t.line, kv, TOKENS, &st));
    write_on(kv, &t, 200, 1);
    assert_false(kv_snapshot_new(&s, t.line, 200, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    assert_null(s);
    assert_int_equal(kv_reserved_bytes(kv), line_bytes);
    /* A page border: nothing is begun, and whole pages of full layers are the line's already. */
    assert_true(kv_snapshot_new(&s, t.line, 192, &st));
    assert_int_equal(kv_reserved_bytes(kv), line_bytes + 2 * sliding);
    assert_int_equal(kv_snapshot_bytes(s), 2 * sliding);
    while (t.length + 64 <= TOKENS) { /* and the line gets all that it has reserved */
        write_on(kv, &t, 64, 2);
        kv_line_trim(t.line, t.length, t.length);
        assert_told(&hp, &t);
    }
    kv_line_free(t.line);
    assert_int_equal(kv_reserved_bytes(kv), 2 * sliding + 3 * full);
    assert_int_equal(kv_snapshot_bytes(s), 2 * sliding + 3 * full);
    /* A line that begins with it needs room for the rest. */
    assert_true(kv_line_new(&fork.line, kv, TOKENS - 64, &st));
    kv_line_share(fork.line, s);
    assert_int_equal(kv_reserved_bytes(kv), kv_line_bytes(kv, TOKENS - 64) + 2 * sliding);
    kv_snapshot_free(s);
    assert_int_equal(kv_reserved_bytes(kv), kv_line_bytes(kv, TOKENS - 64));
    memcpy(fork.content, t.content, sizeof t.content);
    fork.length = 192;
    assert_told(&hp, &fork);
    kv_line_free(fork.line);
    assert_int_equal(kv_reserved_bytes(kv), 0);
    assert_int_equal(kv_pages_used(kv, KV_SLIDING) + kv_pages_used(kv, KV_FULL), 0);
    kv_free(kv);
}

/* A trim that spares an older place keeps the window's pages through a pass that is longer than it.
 */
static void test_older_place(void **state)
{
    struct hparams hp = hparams_small();
    struct status st = {0};
    struct kv *kv = kv_new(&hp, DTYPE_F32, (size_t)1 << 20);
    struct told t = {0}, fork = {0};
    struct kv_snapshot *s = NULL;

    (void)state;
    kv_widen(kv, 320);
    assert_true(kv_line_new(&t.line, kv, TOKENS, &st));
    write_on(kv, &t, 50, 1);
    write_on(kv, &t, 300, 2);
    kv_line_trim(t.line, t.length, 90);
    assert_true(kv_snapshot_new(&s, t.line, 90, &st));
    kv_line_trim(t.line, t.length, t.length);
    assert_null(kv_line_keys(t.line, 0)[2]);
    assert_told(&hp, &t);
    assert_true(kv_line_new(&fork.line, kv, TOKENS, &st));
    kv_line_share(fork.line, s);
    memcpy(fork.content, t.content, sizeof t.content);
    fork.length = 90;
    assert_told(&hp, &fork);
    write_on(kv, &fork, 10, 3);
    assert_told(&hp, &fork);
    assert_told(&hp, &t);
    kv_line_free(fork.line);
    kv_line_free(t.line);
    kv_snapshot_free(s);
    kv_narrow(kv, 320);
    kv_free(kv);
}

/* Lines and snapshots that come, share, grow, shrink and go. */
struct crowd {
    struct kv *kv;
    struct told lines[LINES], kept[SNAPSHOTS];
    size_t room[LINES];
    struct kv_snapshot *snapshots[SNAPSHOTS];
    size_t busy, forks;
};

static void come(struct crowd *c, size_t i, size_t k)
{
    struct told *t = &c->lines[i];
    size_t length = c->snapshots[k] ? kv_snapshot_length(c->snapshots[k]) : 0;
    struct status st = {0};

    c->room[i] = length + (size_t)rand() % (TOKENS - length) + 1;
    if (!kv_line_new(&t->line, c->kv, c->room[i], &st)) {
        c->busy++;
        return;
    }
    t->length = 0;
    if (c->snapshots[k] && rand() % 4) {
        kv_line_share(t->line, c->snapshots[k]);
        memcpy(t->content, c->kept[k].content, sizeof t->content);
        t->length = length;
        c->forks++;
    }
}

static void keep(struct crowd *c, const struct told *t, size_t k)
{
    struct status st = {0};

    kv_snapshot_free(c->snapshots[k]);
    c->snapshots[k] = NULL;
    if (t->length == 0)
        return;
    if (kv_snapshot_new(&c->snapshots[k], t->line, t->length, &st))
        c->kept[k] = *t;
    else
        c->busy++;
}

static void act(struct crowd *c, size_t i, size_t k)
{
    struct told *t = &c->lines[i];
    size_t n = (size_t)rand() % 64 + 1;
    int what = rand() % 8;

    if (!t->line) {
        come(c, i, k);
    } else if (what == 0) {
        kv_line_free(t->line);
        t->line = NULL;
    } else if (what <= 2) {
        keep(c, t, k);
    } else if (n < c->room[i] - t->length) {
        write_on(c->kv, t, n, (float)(rand() % 1000));
        t->length -= what == 3 ? n : 0; /* rejected drafts: written and dropped */
        kv_line_trim(t->line, t->length, t->length);
    }
}

/* What each line sees is what was written in it, and no more pages are in use than there is room
 * for. */
static void test_snapshots_at_random(void **state)
{
    const char *wish = getenv("MILLRACE_SEED");
    unsigned seed = wish ? (unsigned)strtoul(wish, NULL, 10) : 20261125;
    struct hparams hp = hparams_small();
    struct crowd *c = heap_new(1, sizeof *c);
    size_t line_bytes;

    (void)state;
    print_message("seed %u (MILLRACE_SEED chooses another)\n", seed);
    srand(seed);
    c->kv = kv_new(&hp, DTYPE_F32, 0);
    line_bytes = kv_line_bytes(c->kv, TOKENS);
    kv_free(c->kv);
    c->kv = kv_new(&hp, DTYPE_F32, 3 * line_bytes);
    for (size_t step = 0; step < 6000; step++) {
        size_t i = (size_t)rand() % LINES;
        act(c, i, (size_t)rand() % SNAPSHOTS);
        if (c->lines[i].line)
            assert_told(&hp, &c->lines[i]);
        assert_true(kv_reserved_bytes(c->kv) <= 3 * line_bytes);
        assert_true(kv_pages_used(c->kv, KV_SLIDING) * kv_page_bytes(c->kv, KV_SLIDING) +
                        kv_pages_used(c->kv, KV_FULL) * kv_page_bytes(c->kv, KV_FULL) <=
                    kv_reserved_bytes(c->kv));
    }
    assert_true(c->busy > 50);
    assert_true(c->forks > 50);
    for (size_t i = 0; i < LINES; i++)
        kv_line_free(c->lines[i].line);
    for (size_t i = 0; i < SNAPSHOTS; i++)
        kv_snapshot_free(c->snapshots[i]);
    assert_int_equal(kv_reserved_bytes(c->kv), 0);
    assert_int_equal(kv_pages_used(c->kv, KV_SLIDING) + kv_pages_used(c->kv, KV_FULL), 0);
    kv_free(c->kv);
    heap_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_bytes_of_the_12b),
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_snapshot_budget),
        cmocka_unit_test(test_older_place),
        cmocka_unit_test(test_snapshots_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
