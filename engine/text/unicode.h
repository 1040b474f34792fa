/* unicode.h - the little of Python's text rules that the chat format rests on.
 */
#pragma once
#include "engine/base/bytes.h"
#include <stdint.h>

/* White space as str.strip() sees it: Unicode spaces, U+0085, U+001C to U+001F. */
bool unicode_is_space(uint32_t code_point);

/* text without white space at its ends (or its end only). Well-formed UTF-8. */
struct span unicode_strip(struct span text);
struct span unicode_strip_end(struct span text);

/* The lower-case form where that is one character. str.lower() differs in U+0130 (two characters)
 * and in a capital sigma at the end of a word. */
uint32_t unicode_lower(uint32_t code_point);

/* The character whose lower-case form this is. str.upper() differs in letters that become several
 * (as U+00DF) and in a few that share a capital. */
uint32_t unicode_upper(uint32_t code_point);
