/* options.h - the command line of a stage: ours, the stage's own, --help. Only stage.c needs it. */
#pragma once
#include "engine/base/status.h"
#include "proto/link.h"
#include "services/stage/stage.h"

/* What every stage is told. */
struct stage_settings {
    char bus[LINK_ADDRESS_MAX];
    char seat[SEAT_MAX];
    uint64_t start;
    bool supervised; /* --start was given: whoever gave it looks after us */
    bool help;       /* was asked for and printed */
};

/* Refuses options that neither we nor the stage know, options without a value, and other words. */
MUST_CHECK bool stage_settings_read(struct stage_settings *out, const struct stage *stage,
                                    const struct stage_options *options, struct status *st);
