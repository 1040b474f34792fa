/* Memory of pages: side by side, only where they are written, and given back one by one. */
#include "engine/model/kv_pages.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N ((size_t)150)
#define HUGE_BYTES ((size_t)2 << 20)

static size_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    size_t all = 0, resident = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%zu %zu", &all, &resident), 2);
    assert_int_equal(fclose(file), 0);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void fill(struct kv_page *page, size_t size_bytes, size_t i)
{
    memset(page->data, (int)(i + 1), size_bytes);
}

static void assert_filled(const struct kv_page *page, size_t size_bytes, size_t i)
{
    assert_int_equal(page->data[0], i + 1);
    assert_memory_equal(page->data, page->data + 1, size_bytes - 1);
}

/* Whatever their size, pages do not touch each other, also when some are given and taken again. */
static void test_apart(void **state)
{
    static const size_t sizes[] = {640, 300032, 528384};
    struct kv_page *page[N];

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct kv_pages pages = {0};
        size_t size = sizes[s], n = size < 300000 ? N : N / 10;
        for (size_t i = 0; i < n; i++) {
            page[i] = kv_pages_take(&pages, size);
            assert_int_equal((uintptr_t)page[i]->data % 64, 0);
            fill(page[i], size, i);
        }
        for (size_t i = 0; i < n; i += 3)
            kv_pages_give(&pages, page[i], size);
        for (size_t i = 0; i < n; i++)
            if (i % 3 != 0)
                assert_filled(page[i], size, i);
        for (size_t i = 0; i < n; i += 3) {
            page[i] = kv_pages_take(&pages, size);
            fill(page[i], size, i);
        }
        for (size_t i = 0; i < n; i++) {
            assert_filled(page[i], size, i);
            kv_pages_give(&pages, page[i], size);
        }
        kv_pages_clear(&pages, size);
        assert_null(pages.slabs);
    }
}

static void test_side_by_side(void **state)
{
    struct kv_pages pages = {0};
    struct kv_page *page[N];
    size_t size = (size_t)1 << 20, begin, taken, written;

    (void)state;
    begin = resident_bytes();
    for (size_t i = 0; i < N; i++)
        page[i] = kv_pages_take(&pages, size);
    taken = resident_bytes();
    assert_true(taken - begin < 8 * HUGE_BYTES); /* nothing is written yet */
    for (size_t i = 0; i + 1 < 64; i += 2) {
        assert_int_equal((uintptr_t)page[i]->data % HUGE_BYTES, 0);
        assert_ptr_equal(page[i]->data + size, page[i + 1]->data);
    }
    for (size_t i = 0; i < N; i++)
        fill(page[i], size, i);
    written = resident_bytes();
    assert_true(written - taken > N * size / 8 * 7); /* the system counts roughly */
    for (size_t i = 0; i < N; i++)
        kv_pages_give(&pages, page[i], size);
    assert_true(written - resident_bytes() > N * size / 8 * 7);
    page[0] = kv_pages_take(&pages, size); /* without a new mapping */
    assert_ptr_equal(page[0], page[N - 1]);
    kv_pages_give(&pages, page[0], size);
    kv_pages_clear(&pages, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
