/* codec.h - heads (head.c), a stage's own values (codec.c, which alone speaks to msgpack-c) and
 * chats (turns.c) to msgpack and back. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "proto/msg.h"

/* Append the head as one msgpack map; the fields of its kind only. */
void head_pack(const struct head *head, struct buffer *out);

/* Check, unpack and validate a head frame: kind known, required fields of that kind there, unknown
 * keys refused, every number in its range. out->fields points into `frame`. */
MUST_CHECK bool head_unpack(struct head *out, struct span frame, struct status *st);

/* Write a `fields` map: begin, then entries, then end. Keys are literals. */
struct fields_writer {
    struct buffer body;
    size_t n;
};
void fields_int(struct fields_writer *w, const char *key, int64_t value);
void fields_float(struct fields_writer *w, const char *key, double value);
void fields_bool(struct fields_writer *w, const char *key, bool value);
void fields_text(struct fields_writer *w, const char *key, struct span value);
void fields_texts(struct fields_writer *w, const char *key, const struct span *values, size_t n);
void fields_finish(struct fields_writer *w, struct buffer *out); /* appends the map; clears w */

/* Read from a checked map (head.fields). False when the key is missing or of another type; then
 * *out is untouched, so that a default stands. Spans are borrowed from the map. */
bool field_int(struct span fields, const char *key, int64_t *out);
bool field_float(struct span fields, const char *key, double *out); /* integers too */
bool field_bool(struct span fields, const char *key, bool *out);
bool field_text(struct span fields, const char *key, struct span *out);
/* An array of texts: at most max of them are written to out; returns how many there are. */
size_t field_texts(struct span fields, const char *key, struct span *out, size_t max);

/* The turns of a chat as they travel from gateway to encode (blob "turns"). */
#define TURNS_MESSAGES_MAX 4096
#define TURNS_PARTS_MAX 8192
enum turn_role { TURN_SYSTEM, TURN_USER, TURN_ASSISTANT, TURN_TOOL };
enum turn_part_kind { TURN_TEXT, TURN_IMAGE, TURN_VIDEO, TURN_AUDIO }; /* media in order of blobs */
struct turn_part {
    enum turn_part_kind kind;
    struct span text;
};
struct turn_call {
    struct span id, name, arguments; /* arguments: JSON text */
};
struct turn {
    enum turn_role role;
    bool is_list; /* the content was a list of parts */
    struct turn_part *parts;
    size_t n_parts;
    struct turn_call *calls;
    size_t n_calls;
    struct span reasoning, tool_call_id, name;
};
struct turns {
    struct turn *items;
    size_t n;
};
void turns_pack(const struct turns *turns, struct buffer *out);
/* The spans point into `bytes`; turns_clear frees the arrays. */
MUST_CHECK bool turns_unpack(struct turns *out, struct span bytes, struct status *st);
void turns_clear(struct turns *turns);
