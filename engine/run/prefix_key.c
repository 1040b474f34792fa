#include "engine/run/prefix_key.h"
#include <assert.h>
#include <sodium.h>
#include <string.h>

/* The library's type stays here. */
static_assert(sizeof(crypto_generichash_state) == sizeof(struct prefix_hash), "state");
static_assert(alignof(crypto_generichash_state) <= alignof(struct prefix_hash), "alignment");
static_assert(crypto_generichash_KEYBYTES == PREFIX_KEY_BYTES, "key");
static_assert(crypto_generichash_BYTES == PREFIX_KEY_BYTES, "hash");

bool prefix_key_equal(const struct prefix_key *a, const struct prefix_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

bool prefix_secret_new(struct prefix_key *out, struct status *st)
{
    if (sodium_init() < 0)
        return status_fail(st, STATUS_SYSTEM, "no random numbers: sodium_init failed");
    randombytes_buf(out->bytes, sizeof out->bytes);
    return true;
}

static crypto_generichash_state *state_of(struct prefix_hash *h)
{
    return (crypto_generichash_state *)(void *)h->state;
}

void prefix_hash_begin(struct prefix_hash *h, const struct prefix_key *secret)
{
    (void)crypto_generichash_init(state_of(h), secret->bytes, sizeof secret->bytes,
                                  PREFIX_KEY_BYTES);
}

void prefix_hash_add(struct prefix_hash *h, const void *bytes, size_t n)
{
    if (n > 0)
        (void)crypto_generichash_update(state_of(h), bytes, n);
}

struct prefix_key prefix_hash_key(const struct prefix_hash *h)
{
    struct prefix_hash copy = *h; /* what is finished takes no more */
    struct prefix_key key;

    (void)crypto_generichash_final(state_of(&copy), key.bytes, sizeof key.bytes);
    return key;
}
