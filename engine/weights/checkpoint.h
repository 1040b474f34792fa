/* checkpoint.h - what a published checkpoint means, in the keys and names of GGUF; inside this
 * folder only. The one place that knows both spellings (spec weights.md sections 1, 3 and 4). */
#pragma once
#include "engine/base/json_scan.h"
#include "engine/weights/container.h"

#define CHECKPOINT_CONFIG_BYTES_MAX ((size_t)1 << 20)
#define CHECKPOINT_TOKENIZER_BYTES_MAX ((size_t)64 << 20) /* 12B has 32 MB */
#define CHECKPOINT_PIECES_MAX ((size_t)1 << 19)           /* of the vocabulary */
#define CHECKPOINT_MERGES_MAX ((size_t)1 << 20)
#define CHECKPOINT_TEXT_BYTES_MAX ((size_t)24 << 20) /* pieces and merges; 12B has 12 MB */
#define CHECKPOINT_LAYERS_MAX 1024

/* All tensors are read and have the names of the checkpoint. Renames them, says which change of
 * layout each needs, and adds keys from the files in `folder` ("" or ending with '/'): config.json,
 * and where they are there generation_config.json and tokenizer.json. */
MUST_CHECK bool checkpoint_read(struct weights *w, const char *folder, struct status *st);

/* The parts of it, one file each: names, config.json, tokenizer.json. */
MUST_CHECK bool checkpoint_names(struct weights *w, struct status *st);
MUST_CHECK bool checkpoint_config(struct weights *w, struct span text, struct status *st);
MUST_CHECK bool checkpoint_tokenizer(struct weights *w, struct span text, struct status *st);
