#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct span span_of(const void *data, size_t size)
{
    return (struct span){.data = data, .size = size};
}

struct span span_text(const char *text)
{
    return span_of(text, strlen(text));
}

bool span_equal(struct span a, struct span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

bool span_is(struct span a, const char *text)
{
    return span_equal(a, span_text(text));
}

bool span_number(struct span digits, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < digits.size; i++) {
        uint64_t digit = digits.data[i] - (uint64_t)'0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (digits.size == 0 || value < min || value > max)
        return false;
    *out = value;
    return true;
}

int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void buffer_clear(struct buffer *buffer)
{
    heap_free(buffer->data);
    *buffer = (struct buffer){0};
}

void buffer_reset(struct buffer *buffer)
{
    buffer->size = 0;
}

void buffer_reserve(struct buffer *buffer, size_t capacity)
{
    if (capacity <= buffer->capacity)
        return;
    size_t grown = buffer->capacity + buffer->capacity / 2 + 64;
    if (grown < capacity)
        grown = capacity;
    buffer->data = heap_resize(buffer->data, grown, 1);
    buffer->capacity = grown;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    if (size == 0)
        return;
    buffer_reserve(buffer, buffer->size + size);
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void buffer_append_text(struct buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

void buffer_append_byte(struct buffer *buffer, uint8_t byte)
{
    buffer_append(buffer, &byte, 1);
}

void buffer_printf(struct buffer *buffer, const char *format, ...)
{
    va_list args;
    va_list again;

    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    assert(size >= 0);
    buffer_reserve(buffer, buffer->size + (size_t)size + 1);
    (void)vsnprintf((char *)buffer->data + buffer->size, (size_t)size + 1, format, again);
    buffer->size += (size_t)size;
    va_end(again);
    va_end(args);
}

struct span buffer_span(const struct buffer *buffer)
{
    return span_of(buffer->data, buffer->size);
}

static bool read_all(int fd, struct buffer *out, size_t limit_bytes, struct status *st)
{
    uint8_t piece[65536];

    for (;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return status_fail_sys(st, errno, "read");
        if (n == 0)
            return true;
        if (out->size + (size_t)n > limit_bytes)
            return status_fail(st, STATUS_TOO_LARGE, "larger than %zu bytes", limit_bytes);
        buffer_append(out, piece, (size_t)n);
    }
}

bool bytes_read_file(struct buffer *out, const char *path, size_t limit_bytes, struct status *st)
{
    struct buffer all = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return status_fail_sys(st, errno, "open '%s'", path);
    bool ok = read_all(fd, &all, limit_bytes, st);
    (void)close(fd);
    if (!ok) {
        buffer_clear(&all);
        return status_wrap(st, "'%s'", path);
    }
    buffer_clear(out);
    *out = all;
    return true;
}

size_t utf8_decode(const uint8_t *data, size_t size, uint32_t *out)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};

    if (size == 0)
        return 0;
    uint8_t first = data[0];
    if (first < 0x80) {
        *out = first;
        return 1;
    }
    size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || size < length)
        return 0;
    uint32_t code = first & (0x7FU >> length);
    for (size_t i = 1; i < length; i++) {
        if ((data[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (data[i] & 0x3FU);
    }
    if (code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0;
    *out = code;
    return length;
}

size_t utf8_valid_prefix(const uint8_t *data, size_t size)
{
    size_t at = 0;
    uint32_t code;

    while (at < size) {
        size_t n = utf8_decode(data + at, size - at, &code);
        if (n == 0)
            break;
        at += n;
    }
    return at;
}

size_t utf8_encode(uint32_t code_point, uint8_t out[4])
{
    assert(code_point <= 0x10FFFF);
    if (code_point < 0x80) {
        out[0] = (uint8_t)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    out[0] = (uint8_t)((0xF00U >> length & 0xFF) | code_point);
    return length;
}
