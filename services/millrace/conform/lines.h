/* lines.h - one line of a JSON case file. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/text/json_text.h"
#include "engine/text/tokenizer.h"
#include <stdio.h>

struct line_case {
    const struct tokenizer *tokenizer;
    const struct json_value *root;
    bool specials; /* of a tokenizer case: control names are recognised */
    char why[256]; /* first failure; "": none */
};

#define line_fail(c, ...)                                                                          \
    ((c)->why[0] ? (void)0 : (void)snprintf((c)->why, sizeof(c)->why, __VA_ARGS__))

/* A list of numbers, appended; false when it is none. */
bool line_ids(const struct json_value *list, struct ids *out);
/* Compare with the member "ids". */
bool line_same_ids(struct line_case *c, const struct ids *got);
bool line_same_text(struct line_case *c, const char *what, struct span got,
                    const struct json_value *wanted);

/* A chat (messages, tools, options) to its prompt. */
void line_chat(struct line_case *c);
