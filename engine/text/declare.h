/* declare.h - tool declarations of a prompt (spec chat.md section 4).
 */
#pragma once
#include "engine/base/status.h"
#include "engine/text/writer.h"

/* All tools of a list, nothing between them. Fails, naming the place, on what is no list of
 * functions with names, or has a list or an object replaced by something else. */
MUST_CHECK bool declare_tools(struct writer *w, const struct json_value *tools, struct status *st);
