/* gain.h - whether drafting pays: measured costs against the guesses that were right.
 *
 * It decides what is worth the time, never which token comes; so it may go by the clock. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GAIN_ANSWERS_MAX 64

/* What drafts were worth so far. Zeroed is the beginning. */
struct gain_record {
    double right;       /* drafts a round that were accepted, smoothed */
    uint32_t rounds;    /* that were judged; counted up to 8 */
    uint32_t trial;     /* rounds left in which there are drafts, whatever comes of it */
    uint32_t rest;      /* rounds left in which there are none */
    uint32_t rest_next; /* how long the next rest will be */
};

/* What rounds cost, by the number of answers in them. Zeroed is the beginning. */
struct gain {
    struct gain_cost {
        double plain_us; /* of a round without drafts; 0: not known */
        double
            drafts_us;   /* that it takes longer, for each answer that is drafted; < 0: no longer */
        uint32_t plains; /* rounds without drafts that were measured */
        uint32_t others; /* rounds since the last of them */
    } cost[GAIN_ANSWERS_MAX + 1];
    struct gain_record all; /* of all answers: what a new one may expect */
};

/* Whether a round of n answers may have drafts: sometimes one must go without, to be measured. */
bool gain_may_draft(struct gain *g, size_t n);

/* Whether an answer, one of n, is drafted in a round that may have drafts. When it has not been
 * worth it for some rounds it rests, longer each time, and is then tried again. */
bool gain_wants(const struct gain *g, struct gain_record *r, size_t n);

/* A round is over: n answers, of which `drafted` had drafts, took so long, drafting included. */
void gain_measured(struct gain *g, size_t n, size_t drafted, int64_t elapsed_us);
/* An answer's drafts were judged. */
void gain_judged(struct gain *g, struct gain_record *r, size_t right);
