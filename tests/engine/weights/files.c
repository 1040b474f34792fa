#include "tests/engine/weights/files.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[40];
static bool made;

int files_folder_make(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s/millrace-weights-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

int files_folder_remove(void **state)
{
    char command[80];

    (void)state;
    (void)snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) == 0 ? 0 : -1;
}

int files_make(void **state, const char *script)
{
    char command[160];

    if (files_folder_make(state) != 0)
        return -1;
    made = system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") == 0;
    (void)snprintf(command, sizeof command, "/usr/bin/python3 %s %s", script, folder);
    return made && system(command) != 0 ? -1 : 0;
}

void files_need(void)
{
    if (made)
        return;
    print_message("skipped: /usr/bin/python3 with numpy is not there\n");
    skip();
}

const char *files_path(const char *name)
{
    static char paths[4][200];
    static size_t next;
    char *path = paths[next++ % 4];

    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void files_write(const char *name, const void *data, size_t size)
{
    FILE *file = fopen(files_path(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

bool files_open(const struct buffer *b, struct weights **out, struct status *st)
{
    files_write("case.gguf", b->data, b->size);
    return weights_open(out, files_path("case.gguf"), st);
}

void files_touch(const struct weights *w)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < weights_tensors(w); i++) {
        const struct tensor_view *t = weights_at(w, i);
        const uint8_t *data = t->data;
        assert_ptr_equal(weights_find(w, t->name), t);
        sum = (uint8_t)(sum + data[0] + data[t->size_bytes - 1]);
    }
    for (size_t i = 0; i < weights_keys(w); i++) {
        char value[40];
        const char *key;
        struct status st = {0};
        struct span text;
        weights_show_key(w, i, &key, value, sizeof value);
        assert_true(strlen(value) < sizeof value);
        assert_true(weights_has(w, key));
        if (weights_string(w, key, &text, &st) && text.size)
            sum = (uint8_t)(sum + text.data[text.size - 1]);
    }
}

/* ---- GGUF ---- */

void gguf_put(struct buffer *b, uint64_t value, size_t bytes)
{
    buffer_append(b, &value, bytes); /* little-endian */
}

void gguf_string(struct buffer *b, const char *text)
{
    gguf_put(b, strlen(text), 8);
    buffer_append_text(b, text);
}

void gguf_head(struct buffer *b, uint64_t tensors, uint64_t keys)
{
    buffer_append_text(b, "GGUF");
    gguf_put(b, 3, 4);
    gguf_put(b, tensors, 8);
    gguf_put(b, keys, 8);
}

void gguf_u32(struct buffer *b, const char *key, uint32_t value)
{
    gguf_string(b, key);
    gguf_put(b, 4, 4);
    gguf_put(b, value, 4);
}

void gguf_tensor(struct buffer *b, const char *name, uint64_t width, uint64_t rows, uint32_t type,
                 uint64_t offset)
{
    gguf_string(b, name);
    gguf_put(b, 2, 4);
    gguf_put(b, width, 8);
    gguf_put(b, rows, 8);
    gguf_put(b, type, 4);
    gguf_put(b, offset, 8);
}

void gguf_pad(struct buffer *b)
{
    while (b->size % 32)
        buffer_append_byte(b, 0);
}

void gguf_sample(struct buffer *b)
{
    gguf_head(b, 3, 8);
    gguf_string(b, "general.architecture");
    gguf_put(b, 8, 4);
    gguf_string(b, "sample");
    gguf_u32(b, "general.alignment", 32);
    gguf_string(b, "a.signed");
    gguf_put(b, 5, 4);
    gguf_put(b, (uint32_t)-7, 4);
    gguf_string(b, "a.float");
    gguf_put(b, 6, 4);
    gguf_put(b, 0x3fc00000, 4); /* 1.5 */
    gguf_string(b, "a.bool");
    gguf_put(b, 7, 4);
    gguf_put(b, 1, 1);
    gguf_string(b, "a.bools");
    gguf_put(b, 9, 4);
    gguf_put(b, 7, 4);
    gguf_put(b, 3, 8);
    gguf_put(b, 0x010001, 3);
    gguf_string(b, "a.strings");
    gguf_put(b, 9, 4);
    gguf_put(b, 8, 4);
    gguf_put(b, 3, 8);
    gguf_string(b, "one");
    gguf_string(b, "");
    gguf_string(b, "three\n");
    gguf_string(b, "a.large");
    gguf_put(b, 10, 4);
    gguf_put(b, UINT64_MAX, 8);
    gguf_tensor(b, "vector", 3, 1, DTYPE_F32, 0);
    gguf_tensor(b, "matrix", 64, 2, DTYPE_Q8_0, 32);
    gguf_tensor(b, "bytes", 5, 1, DTYPE_I8, 192);
    gguf_pad(b);
    for (int i = 0; i < 3; i++)
        gguf_put(b, 0x40000000, 4); /* 2.0 */
    gguf_pad(b);
    for (int i = 0; i < 2 * 2 * 34; i++)
        gguf_put(b, (uint64_t)i & 255, 1);
    gguf_pad(b);
    gguf_put(b, 0x0504030201, 5);
}
