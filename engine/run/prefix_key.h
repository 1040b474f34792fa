/* prefix_key.h - names for beginnings of prompts: a hash under a key of this process, so that
 * nobody outside can make two beginnings with one name (libsodium). */
#pragma once
#include "engine/base/status.h"
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>

#define PREFIX_KEY_BYTES 32

struct prefix_key {
    uint8_t bytes[PREFIX_KEY_BYTES];
};
bool prefix_key_equal(const struct prefix_key *a, const struct prefix_key *b);

/* Random; the machine must have random numbers to give. */
MUST_CHECK bool prefix_secret_new(struct prefix_key *out, struct status *st);

/* A hash under way: it may be copied, and goes on after a key was taken. */
struct prefix_hash {
    alignas(64) uint8_t state[384];
};
void prefix_hash_begin(struct prefix_hash *h, const struct prefix_key *secret);
void prefix_hash_add(struct prefix_hash *h, const void *bytes, size_t n);
struct prefix_key prefix_hash_key(const struct prefix_hash *h); /* of all that was added so far */
