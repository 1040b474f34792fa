/* weights.h - a model file, mapped read-only: metadata by key, tensors by name and expected shape.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/quant/quant.h"
#include <stddef.h>
#include <stdint.h>

#define WEIGHTS_DIMS_MAX 4

struct weights; /* opaque: one file, or all the pieces of a split one, or a checkpoint folder */

/* A tensor; dims[0] is the contiguous axis. Valid until weights_close. `data` may be NULL until
 * weights_borrow has lent it: some tensors of a checkpoint are stored in another type or order and
 * are made when they are asked for. */
struct tensor_view {
    const char *name;
    const struct quant_row *type;
    size_t n_dims;
    size_t dims[WEIGHTS_DIMS_MAX]; /* 1 beyond n_dims */
    const void *data;
    size_t size_bytes;
};

/* Map a model and check every count, offset, name and type in it. `path` is
 *   - a GGUF file, of a split one the first piece;
 *   - a checkpoint as it is published: its folder, its index or one of its safetensors files, with
 *     config.json (and tokenizer.json, generation_config.json where there are) beside it. Its keys
 *     and names are given as a GGUF file would have them (spec weights.md sections 1 and 3).
 * The error names the field. *out is untouched on failure. */
MUST_CHECK bool weights_open(struct weights **out, const char *path, struct status *st);
void weights_close(struct weights *w); /* NULL does nothing */

const char *weights_path(const struct weights *w);
size_t weights_size_bytes(const struct weights *w); /* of all pieces that hold tensors */

/* The files that it was read from, those without tensors too. */
size_t weights_files(const struct weights *w);
const char *weights_file(const struct weights *w, size_t index); /* until weights_close */

/* Tensors. weights_find gives NULL when there is none of that name. weights_borrow fails unless the
 * tensor is there with exactly these dims, the contiguous axis first. Not from two threads. */
size_t weights_tensors(const struct weights *w);
const struct tensor_view *weights_at(const struct weights *w, size_t index);
const struct tensor_view *weights_find(const struct weights *w, const char *name);
MUST_CHECK bool weights_borrow(const struct weights *w, const char *name, const size_t *dims,
                               size_t n_dims, const struct tensor_view **out, struct status *st);
/* The same for a float32 vector of n values. */
MUST_CHECK bool weights_borrow_f32(const struct weights *w, const char *name, size_t n,
                                   const float **out, struct status *st);

/* Bytes at .. at + size - 1 of a lent tensor, read from its file and not through the mapping: for
 * who makes something else of it and has no use for its pages. A tensor in no file of `w` (NULL:
 * no file at all) is copied from where it stands. From several threads too. STATUS_CORRUPT when the
 * file ends before, since it was opened. */
MUST_CHECK bool weights_read(const struct weights *w, const struct tensor_view *view, size_t at,
                             size_t size, void *out, struct status *st);

/* Metadata. `weights_has` tells whether a key is there. The getters fail (STATUS_CORRUPT) when the
 * key is missing or its value does not convert without loss; any integer type is taken for u64. */
bool weights_has(const struct weights *w, const char *key);
MUST_CHECK bool weights_u64(const struct weights *w, const char *key, uint64_t *out,
                            struct status *st);
MUST_CHECK bool weights_f64(const struct weights *w, const char *key, double *out,
                            struct status *st);
MUST_CHECK bool weights_bool(const struct weights *w, const char *key, bool *out,
                             struct status *st);
MUST_CHECK bool weights_string(const struct weights *w, const char *key, struct span *out,
                               struct status *st);

/* Arrays. weights_array_length: 0 when missing or no array (weights_is_array tells which).
 * Element getters: index < length is the caller's duty; strings are O(1). */
bool weights_is_array(const struct weights *w, const char *key);
size_t weights_array_length(const struct weights *w, const char *key);
MUST_CHECK bool weights_array_i64(const struct weights *w, const char *key, size_t n, int64_t *out,
                                  struct status *st);
MUST_CHECK bool weights_array_f64(const struct weights *w, const char *key, size_t n, double *out,
                                  struct status *st);
MUST_CHECK bool weights_array_strings(const struct weights *w, const char *key, size_t n,
                                      struct span *out, struct status *st);

/* Listing for `inspect`: the metadata keys in file order, each value shown in at most `size` bytes.
 */
size_t weights_keys(const struct weights *w);
void weights_show_key(const struct weights *w, size_t index, const char **out_key, char *out_value,
                      size_t size);
