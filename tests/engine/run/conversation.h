/* conversation.h - a conversation of random tokens, pictures and a sound, and ways to read it. */
#pragma once
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include <stdint.h>

#define CONVERSATION_ROWS_MAX 600

struct conversation {
    struct model_input inputs[CONVERSATION_ROWS_MAX];
    size_t n;
    float *soft; /* [n][width]; of slots only */
};

/* Text, a picture that lies across pages and is longer than the window, text, a sound, text, and a
 * picture that touches nothing. The caller frees `soft`. */
void conversation_make(struct conversation *c, const struct hparams *hp, size_t n, uint32_t seed);

/* One who reads a conversation. */
struct reader {
    struct conversation c;
    struct sequence *sequence;
    size_t at;
};

/* All ways: logits [n][vocabulary]. Here alone, in chunks of so many tokens (0: at once), which are
 * never cut inside a picture. */
void reader_alone(struct model *m, struct reader *r, size_t chunk, float *logits);
/* Again and again another sequence goes on from a snapshot of what the one before had read; it was
 * taken somewhere in the last chunk, but not inside a picture. */
void reader_from_snapshots(struct model *m, struct reader *r, float *logits, uint32_t seed);
/* Three others come, read some, and go, before, behind and between; all in the same passes. */
void reader_in_company(struct model *m, struct reader *r, float *logits, uint32_t seed);
