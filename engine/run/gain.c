#include "engine/run/gain.h"
#include <assert.h>

#define PLAINS_FIRST 2   /* rounds that are measured before the first draft */
#define PLAIN_EVERY 64   /* rounds after which the cost without drafts is measured again */
#define TRIAL_ROUNDS 8   /* in which an answer is drafted before it is asked whether that paid */
#define REST_FIRST 16    /* rounds of the first rest; each is twice as long as the one before */
#define REST_MAX 256     /* so what never pays is tried in 3 % of the rounds */
#define ROUNDS_KNOWN 8   /* judged rounds after which the mean is a running one */
#define SMOOTH (1.0 / 8) /* weight of the newest value */
/* A round that took longer than this times what is usual met something else on the machine. */
#define USUAL_MAX 3.0

static double smooth(double old, double value)
{
    return old + SMOOTH * (value - old);
}

bool gain_may_draft(struct gain *g, size_t n)
{
    struct gain_cost *c = &g->cost[n];

    assert(n <= GAIN_ANSWERS_MAX);
    return c->plains >= PLAINS_FIRST && c->others < PLAIN_EVERY;
}

/* A draft that is right saves an answer's share of a plain round. */
static bool pays(const struct gain *g, const struct gain_record *r, size_t n)
{
    const struct gain_cost *c = &g->cost[n];

    return r->right * c->plain_us / (double)n > c->drafts_us;
}

bool gain_wants(const struct gain *g, struct gain_record *r, size_t n)
{
    assert(n >= 1 && n <= GAIN_ANSWERS_MAX);
    if (r->rest > 0) {
        r->rest--;
        return false;
    }
    if (r->rest_next == 0) { /* a new one */
        r->rest_next = REST_FIRST;
        r->trial = TRIAL_ROUNDS;
        if (g->all.rounds == ROUNDS_KNOWN && !pays(g, &g->all, n)) {
            r->rest = REST_FIRST - 1;
            return false;
        }
    }
    if (r->trial > 0) {
        r->trial--;
        return true;
    }
    if (pays(g, r, n)) {
        r->rest_next = REST_FIRST;
        return true;
    }
    r->rest = r->rest_next;
    r->rest_next = 2 * r->rest_next < REST_MAX ? 2 * r->rest_next : REST_MAX;
    r->trial = TRIAL_ROUNDS;
    return false;
}

void gain_measured(struct gain *g, size_t n, size_t drafted, int64_t elapsed_us)
{
    struct gain_cost *c = &g->cost[n];
    double us = (double)elapsed_us, each;

    assert(n >= 1 && n <= GAIN_ANSWERS_MAX && drafted <= n);
    if (drafted == 0) {
        us = c->plains > 0 && us > USUAL_MAX * c->plain_us ? USUAL_MAX * c->plain_us : us;
        /* The first ones touch cold memory: the faster one counts. */
        if (c->plains < PLAINS_FIRST)
            c->plain_us = c->plains == 0 || us < c->plain_us ? us : c->plain_us;
        else
            c->plain_us = smooth(c->plain_us, us);
        c->plains += c->plains < PLAINS_FIRST;
        c->others = 0;
        return;
    }
    each = (us - c->plain_us) / (double)drafted;
    if (each > USUAL_MAX * c->plain_us)
        each = USUAL_MAX * c->plain_us;
    c->drafts_us = c->drafts_us == 0 ? each : smooth(c->drafts_us, each);
    c->others++;
}

static void judge(struct gain_record *r, size_t right)
{
    r->rounds += r->rounds < ROUNDS_KNOWN;
    r->right += ((double)right - r->right) / (double)r->rounds;
}

void gain_judged(struct gain *g, struct gain_record *r, size_t right)
{
    judge(r, right);
    judge(&g->all, right);
}
