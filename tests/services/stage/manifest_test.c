/* Manifests: what is refused, naming line or file, then what agrees. */
#include "engine/base/hash.h"
#include "engine/weights/weights.h"
#include "services/stage/manifest.h"
#include "services/stage/warm.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/nano-q4_0.gguf"

static char path[] = "/tmp/millrace-manifest-XXXXXX";
static char model_hash[HASH_TEXT_BYTES];

static bool check(const char *text, struct status *st)
{
    struct weights *w = NULL;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    assert_true(weights_open(&w, MODEL, st));
    bool ok = manifest_check(path, w, st);
    weights_close(w);
    return ok;
}

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

static void test_refused(void **state)
{
    (void)state;
    char two[300];
    (void)snprintf(two, sizeof two, "%s  nano-q4_0.gguf\n" ZEROS "  nano-q4_0.gguf\n", model_hash);
    const struct {
        const char *text, *why;
    } bad[] = {
        {"", "'nano-q4_0.gguf' is not in it"},
        {ZEROS "  other.gguf\n", "'nano-q4_0.gguf' is not in it"},
        {"hello\n", "line 1: a SHA-256, two blanks and a name are wanted"},
        {ZEROS "  a\n\n" ZEROS " nano-q4_0.gguf\n", "line 3: a SHA-256"},
        {ZEROS "  \n", "line 1: a SHA-256"},
        {ZEROS "0  nano-q4_0.gguf\n", "line 1: a SHA-256"},
        {ZEROS "  nano-q4_0.gguf\n", "nano-q4_0.gguf' has SHA-256"},
        {two, "line 2: 'nano-q4_0.gguf' has another hash above"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct status st = {0};
        assert_false(check(bad[i].text, &st));
        if (!strstr(st.text, bad[i].why) || !strstr(st.text, path))
            fail_msg("'%s' does not say '%s'", st.text, bad[i].why);
    }
    struct weights *w = NULL;
    struct status st = {0};
    assert_true(weights_open(&w, MODEL, &st));
    assert_false(manifest_check("/nowhere", w, &st));
    assert_non_null(strstr(st.text, "/nowhere"));
    weights_close(w);
}

static void test_agrees(void **state)
{
    (void)state;
    static const char *const forms[] = {"%s  nano-q4_0.gguf", "%s *nano-q4_0.gguf\r\n",
                                        ZEROS "  a\n%s  a folder/nano-q4_0.gguf\n"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char text[300];
        struct status st = {0};
        const char *at = strstr(forms[i], "%s");
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - forms[i]), forms[i], model_hash,
                       at + 2);
        if (!check(text, &st))
            fail_msg("%s", st.text);
    }
}

static int make(void **state)
{
    uint8_t hash[HASH_BYTES];
    struct status st = {0};
    (void)state;
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0 || !warm_read(MODEL, hash, &st))
        return -1;
    hash_write(hash, model_hash);
    return 0;
}

static int clean(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_agrees)};
    return cmocka_run_group_tests(tests, make, clean);
}
