/* White space and letter case as Python sees them. */
#include "engine/text/unicode.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_strip(void **state)
{
    (void)state;
    assert_true(span_is(unicode_strip(span_text("")), ""));
    assert_true(
        span_is(unicode_strip(span_text(" \t\r\n\x1c\x1f\xc2\x85\xc2\xa0\xe3\x80\x80")), ""));
    assert_true(span_is(unicode_strip(span_text("\xe2\x80\xa8 a b \xe2\x80\xaf\n")), "a b"));
    assert_true(span_is(unicode_strip_end(span_text(" a ")), " a"));
    /* Zero-width space, byte order mark and other controls stay. */
    static const char *const stay[] = {"\xe2\x80\x8b", "\xef\xbb\xbf", "\x1b", "\x7f", "\xc2\x84"};
    for (size_t i = 0; i < sizeof(stay) / sizeof(stay[0]); i++)
        assert_true(span_is(unicode_strip(span_text(stay[i])), stay[i]));
}

static void test_case(void **state)
{
    (void)state;
    static const uint32_t pairs[][2] = {
        {'A', 'a'},         {'Z', 'z'},         {0xc4, 0xe4},       {0x0100, 0x0101},
        {0x0178, 0xff},     {0x0391, 0x03b1},   {0x0410, 0x0430},   {0x0401, 0x0451},
        {0x0531, 0x0561},   {0x10a0, 0x2d00},   {0x1e00, 0x1e01},   {0x1f08, 0x1f00},
        {0x2160, 0x2170},   {0xa7b3, 0xab53},   {0xff21, 0xff41},   {0x10400, 0x10428},
        {0x1e900, 0x1e922}, {0x10570, 0x10597}, {0x10571, 0x10598},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        assert_int_equal(unicode_lower(pairs[i][0]), pairs[i][1]);
        assert_int_equal(unicode_lower(pairs[i][1]), pairs[i][1]);
        assert_int_equal(unicode_upper(pairs[i][1]), pairs[i][0]);
        assert_int_equal(unicode_upper(pairs[i][0]), pairs[i][0]);
    }
    static const uint32_t same[] = {0, '@', '[', '`', '{', 0x80, 0xd7, 0xdf, 0x3042, 0x10ffff};
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        assert_int_equal(unicode_lower(same[i]), same[i]);
    size_t n = 0;
    for (uint32_t c = 0; c < 0x110000; c++)
        n += unicode_lower(c) != c;
    assert_int_equal(n, 1432); /* as many as Python 3.11 has */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_strip), cmocka_unit_test(test_case)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
