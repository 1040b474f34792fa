/* files.h - a folder for a test's own files, in memory where there is such a place, and the files.
 */
#pragma once
#include "engine/weights/weights.h"

/* Set up and tear down of a group of tests; one folder a program. */
int files_folder_make(void **state);
int files_folder_remove(void **state);
/* The folder, and in it what a Python script of ours makes, which is given the folder. */
int files_make(void **state, const char *script);
/* Skips the test that calls it when there was no Python (with numpy) to run the script. */
void files_need(void);

const char *files_path(const char *name); /* in the folder; until the fourth call from here */
void files_write(const char *name, const void *data, size_t size);
/* Write the bytes to case.gguf and open that. */
bool files_open(const struct buffer *b, struct weights **out, struct status *st);
/* Look at everything an opened file offers. */
void files_touch(const struct weights *w);

/* The parts of a GGUF file. */
void gguf_put(struct buffer *b, uint64_t value, size_t bytes);
void gguf_string(struct buffer *b, const char *text);
void gguf_head(struct buffer *b, uint64_t tensors, uint64_t keys);
void gguf_u32(struct buffer *b, const char *key, uint32_t value);
void gguf_tensor(struct buffer *b, const char *name, uint64_t width, uint64_t rows, uint32_t type,
                 uint64_t offset);
void gguf_pad(struct buffer *b);
/* A small file with a value of every kind. */
void gguf_sample(struct buffer *b);
