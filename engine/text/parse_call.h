/* parse_call.h - reads one tool call as the model writes it (spec chat.md section 6).
 */
#pragma once
#include "engine/base/bytes.h"

/* Stands for the quote token in the collected text of a call; no UTF-8 has this byte. */
#define PARSE_QUOTE 0xff

#define PARSE_CALL_DEPTH_MAX 60 /* brackets in brackets; within JSON_SCAN_DEPTH_MAX */

/* `text` without the two markers: name, and arguments as compact JSON. False when it does not fit
 * the grammar; the outputs then hold nothing of use. */
bool parse_call_read(struct span text, struct span *out_name, struct buffer *out_arguments);
