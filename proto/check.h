/* check.h - walks untrusted msgpack bytes before anything unpacks them. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"

#define CHECK_DEPTH_MAX 8
#define CHECK_NODES_MAX 4096

/* One msgpack value, complete and without trailing bytes: known types only (nil, bool, integers,
 * floats, str with valid UTF-8, bin, array, map), no extension types, depth <= CHECK_DEPTH_MAX, at
 * most nodes_max nodes, every length within the bytes that are left, map keys short text and not
 * twice in a map. Allocates nothing. */
MUST_CHECK bool check_msgpack(struct span bytes, size_t nodes_max, struct status *st);
