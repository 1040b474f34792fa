#include "tests/engine/model/damaged.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE_MAX_BYTES ((size_t)1 << 20)

struct buffer damaged;

void damaged_read(const char *path)
{
    struct status st = {0};

    buffer_clear(&damaged);
    if (!bytes_read_file(&damaged, path, SIZE_MAX_BYTES, &st))
        fail_msg("%s", st.text);
}

void damaged_forget(void)
{
    buffer_clear(&damaged);
}

uint8_t *damaged_find(const char *text)
{
    size_t size = strlen(text);

    for (size_t at = 0; at + size <= damaged.size; at++)
        if (memcmp(damaged.data + at, text, size) == 0)
            return damaged.data + at;
    fail_msg("'%s' is not in the file", text);
    return NULL;
}

void damaged_write(char *path)
{
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, damaged.data, damaged.size), damaged.size);
    (void)close(fd);
}
