#include "engine/base/hash.h"
#include "engine/base/heap.h"
#include <sodium/crypto_hash_sha256.h>
#include <stdio.h>

_Static_assert(HASH_BYTES == crypto_hash_sha256_BYTES, "the size of the library's");

struct hash {
    crypto_hash_sha256_state state;
};

struct hash *hash_new(void)
{
    struct hash *hash = heap_new(1, sizeof *hash);
    (void)crypto_hash_sha256_init(&hash->state);
    return hash;
}

void hash_add(struct hash *hash, const void *data, size_t size)
{
    (void)crypto_hash_sha256_update(&hash->state, data, size);
}

void hash_end_take(struct hash *hash, uint8_t out[HASH_BYTES])
{
    (void)crypto_hash_sha256_final(&hash->state, out);
    heap_free(hash);
}

void hash_write(const uint8_t hash[HASH_BYTES], char out[HASH_TEXT_BYTES])
{
    for (size_t i = 0; i < HASH_BYTES; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

bool hash_read(struct span text, uint8_t out[HASH_BYTES])
{
    if (text.size != (size_t)2 * HASH_BYTES)
        return false;
    for (size_t i = 0; i < HASH_BYTES; i++) {
        int high = hex_digit(text.data[2 * i]);
        int low = hex_digit(text.data[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}
