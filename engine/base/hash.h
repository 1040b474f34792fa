/* hash.h - SHA-256 of bytes that come in pieces; the only file that speaks libsodium for it. */
#pragma once
#include "engine/base/bytes.h"

#define HASH_BYTES 32
#define HASH_TEXT_BYTES (2 * HASH_BYTES + 1) /* lower-case hexadecimal digits and a zero */

struct hash; /* opaque */

struct hash *hash_new(void);
void hash_add(struct hash *hash, const void *data, size_t size);
/* The hash of all that was added; `hash` is freed. */
void hash_end_take(struct hash *hash, uint8_t out[HASH_BYTES]);

void hash_write(const uint8_t hash[HASH_BYTES], char out[HASH_TEXT_BYTES]);
/* False unless text is exactly 64 hexadecimal digits, of either case. */
bool hash_read(struct span text, uint8_t out[HASH_BYTES]);
