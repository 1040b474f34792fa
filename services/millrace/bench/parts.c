/* Everything is timed right beside what it is compared with, and ratios are of such pairs: what
 * this machine gives changes within seconds when neighbours share it. */
#include "services/millrace/bench/parts.h"
#include "engine/run/batch.h"
#include <stdio.h>

#define STEPS 12 /* of one answer in a round */
#define PAIRS 6  /* of anything else that is short */
#define ROWS 4
#define GUESSES_RIGHT 0.7 /* of those that come behind right ones only */

/* ------------------------------------------------------------------ the machine */

static double bandwidth(struct run *run)
{
    double rate = machine_bytes_per_s(run->machine);
    report_add(report_row(&run->report, "bandwidth_bytes_per_s", "memory, reading", "GB/s", 1e-9),
               rate, 0);
    return rate;
}

static double int8_products(struct run *run)
{
    double rate = machine_int8_products_per_s(run->machine);
    report_add(report_row(&run->report, "int8_ops_per_s", "8-bit operations", "Gop/s", 1e-9),
               2 * rate, 0);
    return rate;
}

static double float_products(struct run *run)
{
    double rate = machine_float_products_per_s(run->machine);
    report_add(report_row(&run->report, "float_ops_per_s", "float operations", "Gop/s", 1e-9),
               2 * rate, 0);
    return rate;
}

/* ------------------------------------------------------------------ answers */

static void decode(struct run *run)
{
    struct report_row *row =
        report_row(&run->report, "decode_tokens_per_s", "answer, one stream", "tokens/s", 1);
    double before;

    (void)bench_step_s(run->b, 1); /* what was measured before has left the caches */
    before = bandwidth(run);
    report_of(row, "decode_of_limit", "of bandwidth");
    for (size_t i = 0; i < STEPS; i++) {
        double s = bench_step_s(run->b, 1);
        double after = bandwidth(run);
        report_add(row, 1 / s, bench_step_bytes(run->b) / s / ((before + after) / 2));
        before = after;
    }
}

/* A step of so many rows that took s, beside the larger of what this machine needs at least to read
 * the weights once and to multiply all rows with them. */
static void add_limits(struct run *run, const char *what, size_t rows, double s)
{
    char key[REPORT_NAME_BYTES], ratio_key[REPORT_NAME_BYTES];
    double bytes_s = bench_step_bytes(run->b) / bandwidth(run);
    double products_s = (double)rows * bench_step_products(run->b) / int8_products(run);

    (void)snprintf(key, sizeof key, "%s_step_s", what);
    (void)snprintf(ratio_key, sizeof ratio_key, "%s_of_limit", what);
    struct report_row *row = report_row(&run->report, key, "  a step", "ms", 1e3);
    report_of(row, ratio_key, "of the larger of");
    report_add(row, s, (bytes_s > products_s ? bytes_s : products_s) / s);
    (void)snprintf(key, sizeof key, "%s_bytes_s", what);
    report_add(report_row(&run->report, key, "    its weights, reading", "ms", 1e3), bytes_s, 0);
    (void)snprintf(key, sizeof key, "%s_products_s", what);
    report_add(report_row(&run->report, key, "    its products", "ms", 1e3), products_s, 0);
}

/* Answers of so many streams, beside one stream that takes one_s for a token. */
static void streams(struct run *run, size_t n, const char *what, const char *label, double one_s)
{
    char key[REPORT_NAME_BYTES], ratio_key[REPORT_NAME_BYTES];
    double s = bench_step_s(run->b, n);

    (void)snprintf(key, sizeof key, "%s_tokens_per_s", what);
    (void)snprintf(ratio_key, sizeof ratio_key, "%s_of_one", what);
    struct report_row *row = report_row(&run->report, key, label, "tokens/s", 1);
    report_of(row, ratio_key, "x one stream");
    report_add(row, (double)n / s, (double)n * one_s / s);
    add_limits(run, what, n, s);
}

static void batch(struct run *run)
{
    for (size_t i = 0; i < PAIRS; i++) {
        double one_s = bench_step_s(run->b, 1);
        streams(run, 4, "batch4", "answers, four streams", one_s);
        streams(run, 8, "batch8", "answers, eight streams", one_s);
    }
}

static void verify(struct run *run)
{
    struct report_row *row =
        report_row(&run->report, "verify4_s", "four rows of one answer", "ms", 1e3);
    struct bench_sequence *s = bench_sequence_new(run->b, 1);

    if (!s)
        return;
    report_of(row, "verify4_of_one", "x one row");
    (void)bench_rows_s(s, ROWS); /* memory is touched for the first time */
    for (size_t i = 0; i < PAIRS; i++) {
        double one = bench_rows_s(s, 1);
        double four = bench_rows_s(s, ROWS);
        report_add(row, four, four / one);
        add_limits(run, "verify4", ROWS, four);
    }
    bench_sequence_free(s);
}

static void drafted(struct run *run)
{
    double plain, with;

    if (!bench_drafted_s(run->b, GUESSES_RIGHT, &plain, &with))
        return;
    struct report_row *row =
        report_row(&run->report, "drafted_tokens_per_s", "answer, drafted", "tokens/s", 1);
    report_of(row, "drafted_of_plain", "x without a drafter");
    report_add(row, 1 / with, plain / with);
}

/* ------------------------------------------------------------------ depth */

static void say_no_room(const char *what, size_t tokens)
{
    (void)fprintf(stderr,
                  "bench: %s %zu is not measured: the model's context or free memory ends before\n",
                  what, tokens);
}

static void add_s(struct run *run, size_t depth, const char *what, const char *label, double s)
{
    char key[REPORT_NAME_BYTES], text[REPORT_NAME_BYTES];

    (void)snprintf(key, sizeof key, "depth%zu_%s", depth, what);
    (void)snprintf(text, sizeof text, "%s", label);
    report_add(report_row(&run->report, key, text, "ms", 1e3), s, 0);
}

/* A token behind `depth` others takes longer by so much. */
static void depth(struct run *run, struct bench_sequence *near, size_t tokens)
{
    struct bench_sequence *far = bench_sequence_new(run->b, tokens);
    char key[REPORT_NAME_BYTES], ratio_key[REPORT_NAME_BYTES], label[REPORT_NAME_BYTES];

    if (!far) {
        say_no_room("a token after", tokens);
        return;
    }
    (void)snprintf(key, sizeof key, "depth%zu_added_s", tokens);
    (void)snprintf(ratio_key, sizeof ratio_key, "depth%zu_of_limit", tokens);
    (void)snprintf(label, sizeof label, "a token after %zu, added", tokens);
    struct report_row *row = report_row(&run->report, key, label, "ms", 1e3);
    report_of(row, ratio_key, "x the larger of");
    (void)bench_rows_s(far, 1);
    for (size_t i = 0; i < PAIRS; i++) {
        /* Between two others: what is left is small, and memory changes its speed meanwhile. */
        double one = bench_rows_s(near, 1) / 2;
        double all = bench_rows_s(far, 1);
        double added = all - one - bench_rows_s(near, 1) / 2;
        double rate =
            bench_attends_in_integers(run->b) ? int8_products(run) / 2 : float_products(run);
        double bytes_s = bench_kv_bytes(run->b, tokens) / bandwidth(run);
        double products_s = bench_attend_products(run->b, tokens) / rate;
        report_add(row, added, added / (bytes_s > products_s ? bytes_s : products_s));
        add_s(run, tokens, "bytes_s", "  its keys and values, reading", bytes_s);
        add_s(run, tokens, "products_s", "  its products", products_s);
    }
    bench_sequence_free(far);
}

static void depths(struct run *run)
{
    struct bench_sequence *near = bench_sequence_new(run->b, 1);

    if (!near)
        return;
    (void)bench_rows_s(near, 1);
    for (size_t i = 0; i < run->n_depths; i++)
        depth(run, near, run->depths[i]);
    bench_sequence_free(near);
}

/* ------------------------------------------------------------------ prompts */

static double prompt(struct run *run, size_t n, const char *key, const char *label,
                     const char *ratio_key)
{
    struct report_row *row = report_row(&run->report, key, label, "tokens/s", 1);
    double before = int8_products(run);
    double s = bench_prefill_s(run->b, n);
    double limit = (before + int8_products(run)) / 2;

    report_of(row, ratio_key, "of 8-bit operations");
    report_add(row, (double)n / s, (double)n / s * bench_token_products(run->b) / limit);
    return s;
}

static void prompts(struct run *run)
{
    (void)prompt(run, 128, "prefill_tokens_per_s", "prompt of 128", "prefill128_of_limit");
    (void)prompt(run, 512, "prefill512_tokens_per_s", "prompt of 512", "prefill_of_limit");
}

/* A piece of a prompt in the middle of such a place, from those that were timed: the work of a
 * token grows with the tokens before it, in a line up to the sliding window and in another behind
 * it. */
struct place {
    double middle, s;
};

static double piece_at(const struct place *p, size_t n, double middle)
{
    size_t i = 1;

    while (i + 1 < n && p[i].middle < middle)
        i++;
    if (middle <= p[0].middle)
        return p[0].s;
    return p[i - 1].s +
           (p[i].s - p[i - 1].s) * (middle - p[i - 1].middle) / (p[i].middle - p[i - 1].middle);
}

/* -1: there is no room. */
static double piece_s(struct run *run, size_t before)
{
    struct bench_sequence *s = bench_sequence_new(run->b, before);
    double took = s ? bench_piece_s(s) : -1;

    bench_sequence_free(s);
    return took;
}

static double long_prompt_s(struct run *run, double short_s)
{
    enum { PIECE = BATCH_CHUNK_TOKENS, FAR = PARTS_LONG_TOKENS - PIECE, NEAR = 1024 };
    const struct place p[] = {
        {PARTS_PROMPT_TOKENS / 2.0, short_s * PIECE / (double)PARTS_PROMPT_TOKENS},
        {NEAR + PIECE / 2.0, piece_s(run, NEAR)},
        {FAR + PIECE / 2.0, piece_s(run, FAR)}};
    double sum = 0;

    if (p[1].s < 0 || p[2].s < 0)
        return -1;
    for (size_t at = 0; at < PARTS_LONG_TOKENS; at += PIECE)
        sum += piece_at(p, 3, (double)at + PIECE / 2.0);
    return sum;
}

static void long_prompt(struct run *run)
{
    double short_s = bench_prefill_s(run->b, PARTS_PROMPT_TOKENS);
    double s =
        run->whole ? bench_prefill_s(run->b, PARTS_LONG_TOKENS) : long_prompt_s(run, short_s);
    struct report_row *row;

    if (s < 0) {
        say_no_room("a prompt of", PARTS_LONG_TOKENS);
        return;
    }
    double rate = (double)PARTS_LONG_TOKENS / s;
    row = report_row(&run->report, "prefill8k_tokens_per_s",
                     run->whole ? "prompt of 8192" : "prompt of 8192, from pieces", "tokens/s", 1);
    report_of(row, "prefill8k_of_512", "of that of 512");
    report_add(row, rate, rate * short_s / (double)PARTS_PROMPT_TOKENS);
}

/* ------------------------------------------------------------------ media */

static void projected(struct run *run, const char *kind, const char *label, double s, size_t tokens)
{
    char key[REPORT_NAME_BYTES], ratio_key[REPORT_NAME_BYTES];
    double rate = report_find(&run->report, "prefill512_tokens_per_s");

    if (s < 0)
        return;
    if (rate == 0)
        rate = (double)PARTS_PROMPT_TOKENS / bench_prefill_s(run->b, PARTS_PROMPT_TOKENS);
    (void)snprintf(key, sizeof key, "%s_projection_s", kind);
    (void)snprintf(ratio_key, sizeof ratio_key, "%s_of_prefill", kind);
    struct report_row *row = report_row(&run->report, key, label, "ms", 1e3);
    report_of(row, ratio_key, "of its prefill");
    report_add(row, s, s * rate / (double)tokens);
}

static void media(struct run *run)
{
    size_t tokens = 0;
    double s = bench_picture_s(run->b, &tokens);

    projected(run, "picture", "projection of a picture", s, tokens);
    s = bench_sound_s(run->b, &tokens);
    projected(run, "sound", "projection of 30 s of sound", s, tokens);
}

/* ------------------------------------------------------------------ start */

/* A model is opened once, whatever the rounds. */
static void start(struct run *run)
{
    struct report_row *row = report_row(&run->report, "start_s", "start", "s", 1);
    double bytes = bench_lay_out_bytes(run->b);

    if (row->n > 0)
        return;
    report_add(row, bench_start_s(run->b), 0);
    if (bytes == 0)
        return;
    row = report_row(&run->report, "lay_out_s", "  of it laying weights out", "s", 1);
    /* What must be moved at least: each byte read once and written once. That the system clears
     * fresh memory first, and copies from its cache of files, is part of the time, not of this. */
    report_of(row, "lay_out_of_bandwidth", "of bandwidth: (read + written) / time");
    report_add(row, bench_lay_out_s(run->b), 2 * bytes / bench_lay_out_s(run->b) / bandwidth(run));
}

const struct part parts[] = {{"start", "opening the file, and laying weights out", start},
                             {"decode", "one answer", decode},
                             {"prefill", "prompts of 128 and 512 tokens", prompts},
                             {"media", "projection, with --media", media},
                             {"batch", "4 and 8 answers at once", batch},
                             {"verify", "four rows of one answer", verify},
                             {"depth", "a token of an answer at --depth", depths},
                             {"long", "a prompt of 8192 tokens", long_prompt},
                             {"drafter", "an answer with --drafter", drafted}};
const size_t parts_n = sizeof parts / sizeof *parts;
