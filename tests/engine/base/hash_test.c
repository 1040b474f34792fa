/* SHA-256 of published examples, in one piece and in many; its text. */
#include "engine/base/hash.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_text(void **state)
{
    (void)state;
    uint8_t hash[HASH_BYTES];
    char digits[80];
    memset(digits, 'a', sizeof digits);
    assert_false(hash_read(span_of(digits, 63), hash));
    assert_false(hash_read(span_of(digits, 65), hash));
    assert_true(hash_read(span_of(digits, 64), hash));
    digits[63] = 'g';
    assert_false(hash_read(span_of(digits, 64), hash));
    digits[63] = 'F';
    assert_true(hash_read(span_of(digits, 64), hash));
    assert_int_equal(hash[31], 0xaf);
    char text[HASH_TEXT_BYTES];
    hash_write(hash, text);
    assert_int_equal(strlen(text), 64);
    assert_string_equal(text + 60, "aaaf");
}

/* FIPS 180-2, appendix B. */
static void test_examples(void **state)
{
    (void)state;
    static const struct {
        const char *text, *hash;
    } examples[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        for (size_t step = 1; step <= 64; step += 21) {
            struct hash *hash = hash_new();
            uint8_t out[HASH_BYTES];
            char text[HASH_TEXT_BYTES];
            size_t size = strlen(examples[i].text);
            for (size_t at = 0; at < size; at += step)
                hash_add(hash, examples[i].text + at, size - at < step ? size - at : step);
            hash_end_take(hash, out);
            hash_write(out, text);
            assert_string_equal(text, examples[i].hash);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_examples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
