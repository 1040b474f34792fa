/* model.h - what the fuzz targets share: findings, bytes as a file, and a look at everything in a
 * model. */
#pragma once
#include "engine/weights/weights.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What always holds: a finding when it does not. */
void fuzz_must(bool good);

/* A path that holds these bytes until the next call. */
const char *fuzz_file(const uint8_t *data, size_t size);
/* Write a file into the folder $MILLRACE_FUZZ_FOLDER, which the driver has filled. */
void fuzz_put(const char *name, const uint8_t *data, size_t size);
void fuzz_remove(const char *name);
const char *fuzz_folder(void);

/* Every tensor's first and last byte and every key, as `inspect` shows them. */
void fuzz_touch(const struct weights *w);
/* Whatever of these the file allows: decoder, tokenizer, projector. */
void fuzz_decoder(const struct weights *w);
void fuzz_tokenizer(const struct weights *w);
void fuzz_projector(const struct weights *w);
