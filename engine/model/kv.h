/* kv.h - keys and values of the tokens read so far, in counted pages of 64 positions.
 *
 * There are two kinds of pages: one holds 64 positions of all sliding layers, the other of all full
 * layers. A page of the sliding kind is let go when it is out of every window. Within a page each
 * layer has its keys, then its values, as engine/kernels/attend.h wants them. */
#pragma once
#include "engine/base/status.h"
#include "engine/kernels/attend.h" /* attend_place */
#include "engine/quant/quant.h"
#include <stddef.h>

#define KV_PAGE_TOKENS 64

enum kv_kind { KV_SLIDING, KV_FULL, KV_KINDS };

struct kv;      /* opaque: the pages of all sequences of a model, and their budget */
struct kv_line; /* opaque: the pages of one sequence */
struct hparams; /* engine/model/hparams.h, must outlive kv */

/* How keys and values are kept, by the names that options and `numerics` have: "f16"; "q8", 8 bits
 * and a scale for each key and head; "f32". "" is f32 with `exact`, the mode of reference, and else
 * f16. STATUS_INVALID for any other. */
MUST_CHECK bool kv_type_read(enum dtype *out, const char *name, bool exact, struct status *st);
const char *kv_type_name(enum dtype type);

/* type: as attend_shape has it. budget_bytes: of all lines and snapshots together. */
struct kv *kv_new(const struct hparams *hp, enum dtype type, size_t budget_bytes);
void kv_free(struct kv *kv); /* no line and no snapshot may be left */

enum dtype kv_type(const struct kv *kv);
/* One page of that kind; 0 when the model has no layer of it. */
size_t kv_page_bytes(const struct kv *kv, enum kv_kind kind);
/* One position in all layers of that kind; and what `tokens` positions hold in them: all in full
 * layers, the last window of them in sliding ones (spec model.md section 6.2). */
size_t kv_token_bytes(const struct kv *kv, enum kv_kind kind);
size_t kv_held_bytes(const struct kv *kv, enum kv_kind kind, size_t tokens);
/* What a line for tokens_max positions reserves: pages for all of them in full layers, for a window
 * and what 64 rows may add to it in sliding ones. */
size_t kv_line_bytes(const struct kv *kv, size_t tokens_max);
size_t kv_reserved_bytes(const struct kv *kv); /* of lines and snapshots */
/* Whether a line for tokens_max positions fits now; and whether it would if there were no snapshots
 * (nearly: pages that a running line shares stay). */
bool kv_fits(const struct kv *kv, size_t tokens_max);
bool kv_could(const struct kv *kv, size_t tokens_max);
/* Pages of that kind that hold something now. */
size_t kv_pages_used(const struct kv *kv, enum kv_kind kind);

/* Beyond the budget: sliding pages that a pass of up to `rows` rows needs beside what its lines
 * have reserved. Each kv_widen is undone by kv_narrow with the same number. */
void kv_widen(struct kv *kv, size_t rows);
void kv_narrow(struct kv *kv, size_t rows);

/* STATUS_BUSY when its reservation exceeds what is left of the budget. The only calls that take
 * heap memory are kv_new, kv_widen, kv_snapshot_new and this one. */
MUST_CHECK bool kv_line_new(struct kv_line **out, struct kv *kv, size_t tokens_max,
                            struct status *st);
void kv_line_free(struct kv_line *line);

/* Make room to write positions from `begin`, the line's length, to before `end`, end <= tokens_max.
 * A page that is begun and shared is copied. */
void kv_line_extend(struct kv_line *line, size_t begin, size_t end);

/* Where keys and values of a position go that there is room for. */
struct attend_place kv_line_place(const struct kv_line *line, size_t layer, size_t position);

/* How attention looks at a layer's pages. */
struct attend_shape kv_shape(const struct kv *kv, size_t layer);

/* Pages of a layer by number, for attend_query; NULL where there is none. Valid until the next
 * extend or trim. */
const void *const *kv_line_keys(const struct kv_line *line, size_t layer);
const void *const *kv_line_values(const struct kv_line *line, size_t layer);

/* Let go of pages that only hold positions from `length` on, or that no query at `oldest` or later
 * can see; oldest <= length, and less when the line may yet be taken back to it. */
void kv_line_trim(struct kv_line *line, size_t length, size_t oldest);

/* The pages that queries at `length` or later see, kept beside their line and beyond its end. */
struct kv_snapshot;
/* Of positions before `length`, which the line has read; what a query there sees must still be
 * there
 * (`oldest` of the last trim). STATUS_BUSY when it does not fit into what lines have left of the
 * budget. What it counts there: pages of sliding layers in full, since the line will fill as many
 * again; those of full layers once, however many lines and snapshots look at them. */
size_t kv_snapshot_need(const struct kv_line *line, size_t length); /* in bytes */
MUST_CHECK bool kv_snapshot_new(struct kv_snapshot **out, struct kv_line *line, size_t length,
                                struct status *st);
void kv_snapshot_free(struct kv_snapshot *s); /* lines that share its pages go on */
size_t kv_snapshot_length(const struct kv_snapshot *s);
/* What kv_snapshot_free would give back to the budget now. */
size_t kv_snapshot_bytes(const struct kv_snapshot *s);
/* Let an empty line begin with the snapshot's positions. Takes no memory and cannot fail; the line
 * must hold as many positions. */
void kv_line_share(struct kv_line *line, const struct kv_snapshot *s);
