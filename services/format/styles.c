#include "services/format/styles.h"

static const struct style_row *const rows[] = {
    &style_chat,
};

const struct style_row *style_find(struct span name)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (span_is(name, rows[i]->name))
            return rows[i];
    return NULL;
}
