/* reader.h - numbers out of untrusted bytes; every read is checked against the end. */
#pragma once
#include "engine/base/bytes.h"

/* 0 beyond the end: a caller that must tell the two apart asks reader_has first. */
static inline bool reader_has(struct span b, size_t at, size_t n)
{
    return at <= b.size && n <= b.size - at;
}

static inline uint32_t reader_be(struct span b, size_t at, size_t n)
{
    uint32_t value = 0;
    if (reader_has(b, at, n))
        for (size_t i = 0; i < n; i++)
            value = value << 8 | b.data[at + i];
    return value;
}

static inline uint32_t reader_le(struct span b, size_t at, size_t n)
{
    uint32_t value = 0;
    if (reader_has(b, at, n))
        for (size_t i = n; i-- > 0;)
            value = value << 8 | b.data[at + i];
    return value;
}

static inline uint64_t reader_be64(struct span b, size_t at)
{
    return (uint64_t)reader_be(b, at, 4) << 32 | reader_be(b, at + 4, 4);
}

/* The bytes [at, at + n), cut at the end. */
static inline struct span reader_part(struct span b, size_t at, size_t n)
{
    if (at > b.size)
        at = b.size;
    return span_of(b.data + at, n < b.size - at ? n : b.size - at);
}
