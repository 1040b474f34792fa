/* Model files with one bit flipped, or cut short: refused or loaded, never crashed, and never more
 * memory than the file has bytes and 64 MB. A sixteenth of the bits and some cuts; all of them with
 * MILLRACE_LONG. Memory is what goes through malloc (this program is linked with --wrap). */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "tests/engine/weights/files.h"
#include "tests/random.h"
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SCRIPT "tests/fuzz/seeds.py"
#define HEADER_BYTES_MAX ((size_t)20 << 10)
#define MEMORY_BYTES ((size_t)64 << 20)
#define STRIDE 16
#define MODELS                                                                                     \
    16 /* in the short run one of so many is opened as a model too: that takes 9 MB each */
#define CUTS 300 /* of the short run, a file */

/* ---- what malloc gave out ---- */

static size_t live_bytes, peak_bytes;

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static void count(size_t more, size_t less)
{
    live_bytes = live_bytes + more - (less < live_bytes + more ? less : live_bytes + more);
    peak_bytes = live_bytes > peak_bytes ? live_bytes : peak_bytes;
}

void *__wrap_calloc(size_t n, size_t size)
{
    void *block = __real_calloc(n, size);
    count(malloc_usable_size(block), 0);
    return block;
}

void *__wrap_realloc(void *block, size_t size)
{
    size_t before = malloc_usable_size(block);
    void *moved = __real_realloc(block, size);
    count(malloc_usable_size(moved), 0); /* both are there while it is copied */
    count(0, before);
    return moved;
}

void __wrap_free(void *block)
{
    count(0, malloc_usable_size(block));
    __real_free(block);
}

/* ---- files ---- */

static bool with_vocabulary; /* it is in the file that is damaged */

static uint32_t seed = 20261125;

/* Open, and use as far as it goes. True: something opened. */
static bool try_file(const char *path)
{
    static size_t turn;
    const struct model_options options = {.context_max = 16, .kv_bytes = 1 << 16};
    static struct hparams hp;
    struct weights *w = NULL;
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    struct projector *p = NULL;
    struct status st = {0};

    if (!weights_open(&w, path, &st)) {
        if (!st.text[0])
            fail_msg("refused without a word");
        return false;
    }
    bool opened =
        hparams_read(&hp, w, "gemma4", &st) && (!with_vocabulary || tokenizer_new(&t, w, &st));
    if (opened && (getenv("MILLRACE_LONG") || turn++ % MODELS == 0))
        opened = model_open(&m, w, NULL, &options, &st);
    opened = projector_open(&p, w, 0, &st) || opened;
    model_close(m);
    tokenizer_free(t);
    projector_close(p);
    weights_close(w);
    return opened;
}

struct tally {
    size_t opened, refused, peak;
};

static void try_one(struct tally *tally, const char *opened, size_t size, const char *what,
                    size_t which)
{
    size_t before = live_bytes;
    peak_bytes = live_bytes;
    if (try_file(opened))
        tally->opened++;
    else
        tally->refused++;
    size_t used = peak_bytes - before;
    tally->peak = used > tally->peak ? used : tally->peak;
    if (used > size + MEMORY_BYTES)
        fail_msg("%s: %s %zu: %zu bytes of memory for a file of %zu", opened, what, which, used,
                 size);
    if (live_bytes != before)
        fail_msg("%s: %s %zu: %zd bytes were not freed", opened, what, which,
                 (ssize_t)(live_bytes - before));
}

/* Damage `file`, a copy of it is put back; `opened` is the path given to weights_open. */
static void check_file(const char *file, const char *opened)
{
    bool all = getenv("MILLRACE_LONG") != NULL;
    struct buffer whole = {0};
    struct tally flips = {0}, cuts = {0};
    struct status st = {0};

    if (!bytes_read_file(&whole, file, (size_t)1 << 20, &st))
        fail_msg("%s", st.text);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(try_file(opened));
    size_t header = whole.size < HEADER_BYTES_MAX ? whole.size : HEADER_BYTES_MAX;
    for (size_t bit = 0; bit < header * 8; bit += all ? 1 : STRIDE) {
        size_t at = all ? bit : bit + next_random(&seed) % STRIDE;
        at = at < header * 8 ? at : header * 8 - 1;
        uint8_t byte = whole.data[at / 8] ^ (uint8_t)(1u << at % 8);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(at / 8)), 1);
        try_one(&flips, opened, whole.size, "bit", at);
        assert_int_equal(pwrite(fd, &whole.data[at / 8], 1, (off_t)(at / 8)), 1);
    }
    for (size_t i = 0, size = whole.size; size > 0; i++) {
        size = all ? size - 1 : size - 1 - next_random(&seed) % (2 * whole.size / CUTS);
        if (size > whole.size)
            break;
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        try_one(&cuts, opened, whole.size, "cut at", size);
    }
    assert_int_equal(pwrite(fd, whole.data, whole.size, 0), (ssize_t)whole.size);
    assert_true(try_file(opened));
    (void)close(fd);
    print_message(
        "%s: %zu bits flipped: %zu loaded, %zu refused; %zu cuts: %zu loaded; at most %zu "
        "bytes of memory\n",
        file + strlen(files_path("")), flips.opened + flips.refused, flips.opened, flips.refused,
        cuts.opened + cuts.refused, cuts.opened, flips.peak > cuts.peak ? flips.peak : cuts.peak);
    assert_true(flips.refused > 0 && cuts.refused > 0);
    buffer_clear(&whole);
}

static void check(const char *file, const char *opened)
{
    files_need();
    print_message("seed %u\n", seed);
    check_file(files_path(file), files_path(opened));
}

static void test_gguf(void **state)
{
    with_vocabulary = true;
    (void)state;
    check("corpus/gguf/f32", "corpus/gguf/f32");
}

static void test_mmproj(void **state)
{
    with_vocabulary = false;
    (void)state;
    check("corpus/mmproj/f32", "corpus/mmproj/f32");
}

static void test_safetensors(void **state)
{
    with_vocabulary = false;
    (void)state;
    check("folder/f32/model.safetensors", "folder/f32");
}

static void test_config(void **state)
{
    with_vocabulary = false;
    (void)state;
    check("folder/f32/config.json", "folder/f32");
}

static void test_index(void **state)
{
    with_vocabulary = false;
    (void)state;
    check("folder/bf16-split/model.safetensors.index.json", "folder/bf16-split");
}

static void test_tokenizer(void **state)
{
    with_vocabulary = true;
    (void)state;
    check("folder/f32/tokenizer.json", "folder/f32");
}

/* As many pieces and merges as may be, as short as they can be: what is made from the file grows
 * most beyond it. */
static void test_largest_vocabulary(void **state)
{
    enum { PIECES = 1 << 19, MERGES = 1 << 20 };
    char path[250], opened[200];
    struct buffer text = {0}, before = {0};
    struct tally tally = {0};
    struct status st = {0};

    (void)state;
    files_need();
    with_vocabulary = true;
    (void)snprintf(opened, sizeof opened, "%s", files_path("folder/f32"));
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", opened);
    if (!bytes_read_file(&before, path, (size_t)1 << 20, &st))
        fail_msg("%s", st.text);
    buffer_append_text(&text, "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{");
    for (int i = 0; i < PIECES; i++)
        buffer_printf(&text, "%s\"%x\":%d", i ? "," : "", (unsigned)i, i);
    buffer_append_text(&text, "},\"merges\":[");
    for (int i = 0; i < MERGES; i++)
        buffer_append_text(&text, i ? ",\"a b\"" : "\"a b\"");
    buffer_append_text(&text, "]}}");
    int fd = open(path, O_RDWR | O_CLOEXEC | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, text.data, text.size, 0), (ssize_t)text.size);
    try_one(&tally, opened, text.size, "vocabulary", 0);
    print_message("%zu bytes: at most %zu bytes of memory\n", text.size, tally.peak);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, before.data, before.size, 0), (ssize_t)before.size);
    (void)close(fd);
    buffer_clear(&text);
    buffer_clear(&before);
}

static int make_files(void **state)
{
    return files_make(state, SCRIPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_mmproj),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_largest_vocabulary),
    };
    return cmocka_run_group_tests(tests, make_files, files_folder_remove);
}
