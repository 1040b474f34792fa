#include "tests/proto/golden.h"
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

const char *const golden_names[] = {
    "hello",     "hello-least", "welcome",   "refuse", "credit", "job",
    "job-least", "more",        "more-last", "result", "failed", "cancel",
    "beat",      "beat-idle",   "gone",      "drain",  "bye",    "turns",
};
const size_t golden_n = sizeof golden_names / sizeof *golden_names;

struct buffer golden_read(const char *name)
{
    struct status st = {0};
    struct buffer text = {0};
    struct buffer out = {0};
    char path[96];
    int high = -1;

    (void)snprintf(path, sizeof path, "tests/golden/wire/%s.hex", name);
    if (!bytes_read_file(&text, path, 1 << 20, &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < text.size; i++) {
        int value = hex_digit(text.data[i]);
        if (text.data[i] == '\n')
            continue;
        if (value < 0)
            fail_msg("%s: not hexadecimal", path);
        if (high >= 0)
            buffer_append_byte(&out, (uint8_t)(high * 16 + value));
        high = high >= 0 ? -1 : value;
    }
    buffer_clear(&text);
    return out;
}

uint64_t golden_seed(void)
{
    const char *wish = getenv("MILLRACE_SEED");
    uint64_t seed = wish ? strtoull(wish, NULL, 10) : 20261124;

    print_message("seed %" PRIu64 " (MILLRACE_SEED chooses another)\n", seed);
    return seed;
}

uint64_t golden_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15U;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
}

/* Only there when the address sanitizer is. It sees what libmsgpackc asks for, too. */
extern int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *,
                                                                       size_t),
                                                     void (*on_free)(const volatile void *))
    __attribute__((weak));

static atomic_size_t counted;

static void on_malloc(const volatile void *block, size_t size)
{
    (void)block;
    atomic_fetch_add(&counted, size);
}

static void on_free(const volatile void *block)
{
    (void)block;
}

bool golden_counts(void)
{
    static bool installed;

    if (!installed && __sanitizer_install_malloc_and_free_hooks)
        installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) != 0;
    return installed;
}

void golden_count_reset(void)
{
    atomic_store(&counted, 0);
}

size_t golden_counted(void)
{
    return atomic_load(&counted);
}
