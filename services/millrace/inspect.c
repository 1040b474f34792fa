/* inspect: what is in a model file, and does it fit this machine. */
#include "engine/base/hash.h"
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/weights/weights.h"
#include "services/millrace/commands.h"
#include "services/millrace/fit.h"
#include "services/stage/warm.h"
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char usage[] = "usage: millrace inspect PATH [--keys] [--tensors] [--hash]\n"
                            "  Shows what is in a model file, how large its parts are, and which "
                            "context fits this machine.\n\n"
                            "  --keys      every metadata key with its value\n"
                            "  --tensors   every tensor with its type, shape and size\n"
                            "  --hash      only SHA-256 and name of every file it is made of, as "
                            "sha256sum writes them\n"
                            "              (for up --manifest)\n";

/* Parts of a decoder or projector by words in tensor names; the first that matches counts. */
static const struct {
    const char *word, *part;
} parts[] = {
    {"token_embd", "embedding and head"},
    {"attn", "attention"},
    {"exps", "experts"},
    {"ffn", "MLP"},
    {"v.", "picture projector"},
    {"mm.a", "sound projector"},
    {"mm.", "picture projector"},
    {"nextn", "drafter projections"},
    {"", "norms and the rest"},
};
#define PARTS (sizeof parts / sizeof *parts)
#define TYPES_MAX 64

static size_t part_of(const char *name)
{
    for (size_t i = 0; i < PARTS; i++) {
        bool prefix = parts[i].word[0] && parts[i].word[strlen(parts[i].word) - 1] == '.';
        if (prefix ? strncmp(name, parts[i].word, strlen(parts[i].word)) == 0
                   : strstr(name, parts[i].word) != NULL)
            return i;
    }
    return PARTS - 1;
}

/* Sums that share a label are printed together. */
static void print_sums(const char *title, const char *const *labels, const uint64_t *sums,
                       const size_t *counts, size_t n)
{
    (void)printf("%s\n", title);
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = sums[i];
        size_t count = counts[i];
        bool seen = false;
        for (size_t k = 0; k < n; k++) {
            if (k == i || strcmp(labels[k], labels[i]) != 0)
                continue;
            seen = seen || k < i;
            bytes += sums[k];
            count += counts[k];
        }
        if (count && !seen)
            (void)printf("  %-22s %5zu tensors  %12s\n", labels[i], count, fit_bytes(bytes));
    }
}

static void print_parts(const struct weights *w)
{
    const char *labels[PARTS];
    uint64_t sums[PARTS] = {0};
    size_t counts[PARTS] = {0};
    const char *types[TYPES_MAX];
    uint64_t type_sums[TYPES_MAX] = {0};
    size_t type_counts[TYPES_MAX] = {0};
    size_t n_types = 0;

    for (size_t i = 0; i < PARTS; i++)
        labels[i] = parts[i].part;
    for (size_t i = 0; i < weights_tensors(w); i++) {
        const struct tensor_view *t = weights_at(w, i);
        size_t part = part_of(t->name);
        size_t k = 0;
        sums[part] += t->size_bytes;
        counts[part]++;
        while (k < n_types && strcmp(types[k], t->type->name) != 0)
            k++;
        if (k == n_types && n_types < TYPES_MAX)
            types[n_types++] = t->type->name;
        if (k < n_types) {
            type_sums[k] += t->size_bytes;
            type_counts[k]++;
        }
    }
    print_sums("parts", labels, sums, counts, PARTS);
    print_sums("storage types", types, type_sums, type_counts, n_types);
}

static void print_keys(const struct weights *w)
{
    (void)printf("metadata\n");
    for (size_t i = 0; i < weights_keys(w); i++) {
        const char *key;
        char value[160];
        weights_show_key(w, i, &key, value, sizeof value);
        (void)printf("  %-46s %s\n", key, value);
    }
}

static void print_tensors(const struct weights *w)
{
    (void)printf("tensors (contiguous dimension first)\n");
    for (size_t i = 0; i < weights_tensors(w); i++) {
        const struct tensor_view *t = weights_at(w, i);
        char shape[96];
        size_t at = 0;
        for (size_t d = 0; d < t->n_dims && at < sizeof shape; d++)
            at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%zu", d ? " x " : "",
                                   t->dims[d]);
        (void)printf("  %-36s %-6s %-22s %12s\n", t->name, t->type->name, shape,
                     fit_bytes(t->size_bytes));
    }
}

/* Beside the file, work space, gateway and what a picture needs. */
static void print_largest(const char *path, const struct fit *fit, const char *kv_type)
{
    uint64_t largest = fit_context(path, kv_type, fit->available_bytes);

    if (largest)
        (void)printf("  largest context, %-4s  %14" PRIu64 " tokens, one request at a time%s\n",
                     kv_type, largest,
                     largest >= fit->context / 1024 * 1024 ? " (all the model has)" : "");
    else
        (void)printf("  with %-4s it does not fit\n", kv_type);
}

/* The arithmetic of memory, for a decoder that this program runs. */
static void print_fit(const char *path)
{
    struct fit *fit = heap_new(1, sizeof *fit);
    struct status st = {0};

    if (!fit_read(fit, path, "", 1024, "", &st)) {
        (void)printf("this machine\n  cannot run it as a decoder: %s\n", st.text);
        heap_free(fit);
        return;
    }
    (void)printf("keys and values of one request (float16)\n");
    (void)printf("  full layers          %12" PRIu64 " bytes a token\n", fit->kv.full_token);
    (void)printf("  sliding layers       %12" PRIu64 " bytes a token, of the last %" PRIu64 "\n",
                 fit->kv.sliding_token, fit->kv.window);
    static const uint64_t contexts[] = {8192, 32768, 131072, 262144};
    uint64_t picture = fit->kv.picture;
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        struct fit at = {0}, small = {0};
        if (contexts[i] <= fit->context && fit_read(&at, path, "", contexts[i], "f16", &st) &&
            fit_read(&small, path, "", contexts[i], "q8", &st)) {
            picture = at.kv.picture;
            (void)printf("  context %7" PRIu64 " %12" PRIu64 " + %" PRIu64 " = %" PRIu64
                         " bytes; in pages %s, with q8 %s\n",
                         contexts[i], at.kv.sliding, at.kv.full, at.kv.sliding + at.kv.full,
                         fit_bytes(at.kv.request), fit_bytes(small.kv.request));
        }
    }
    (void)printf("  while the largest picture is read, %s more\n", fit_bytes(picture));
    (void)printf("this machine\n  memory free            %14s\n", fit_bytes(fit->available_bytes));
    print_largest(path, fit, "f16");
    print_largest(path, fit, "q8");
    heap_free(fit);
}

/* What it is a drafter for. */
static void print_drafter(const struct weights *w)
{
    struct hparams *hp = heap_new(1, sizeof *hp);
    struct status st = {0};
    bool kinds[2] = {false, false};

    if (!hparams_read(hp, w, HPARAMS_DRAFTER, &st)) {
        (void)printf("this drafter cannot be used: %s\n", st.text);
        heap_free(hp);
        return;
    }
    (void)printf("drafts for a model of\n  width %zu, vocabulary %zu, window %zu\n", hp->width_out,
                 hp->vocabulary, hp->window);
    for (size_t i = 0; i < hp->layers; i++) {
        const struct hparams_layer *layer = &hp->layer[i];
        if (!kinds[layer->sliding])
            (void)printf("  %zu key heads of %zu in %s layers\n", layer->kv_heads, layer->head_dim,
                         layer->sliding ? "sliding" : "full");
        kinds[layer->sliding] = true;
    }
    heap_free(hp);
}

/* One line a file; how far it is goes to standard error. */
static int print_hashes(const struct weights *w)
{
    for (size_t i = 0; i < weights_files(w); i++) {
        const char *file = weights_file(w, i);
        const char *slash = strrchr(file, '/');
        uint8_t hash[HASH_BYTES];
        char text[HASH_TEXT_BYTES];
        struct status st = {0};
        if (!warm_read(file, hash, &st)) {
            (void)fprintf(stderr, "inspect: %s\n", st.text);
            return 1;
        }
        hash_write(hash, text);
        (void)printf("%s  %s\n", text, slash ? slash + 1 : file);
        (void)fflush(stdout);
    }
    return 0;
}

static int inspect(const char *path, bool keys, bool tensors, bool hash)
{
    struct weights *w = NULL;
    struct status st = {0};
    struct span arch = span_text("?");
    struct span name = span_text("");

    if (!weights_open(&w, path, &st)) {
        (void)fprintf(stderr, "inspect: %s\n", st.text);
        return 1;
    }
    if (hash) {
        int exit_status = print_hashes(w);
        weights_close(w);
        return exit_status;
    }
    (void)!weights_string(w, "general.architecture", &arch, &st);
    if (weights_has(w, "general.name"))
        (void)!weights_string(w, "general.name", &name, &st);
    (void)printf("%s\n  architecture %.*s, %s, %zu tensors, %zu keys\n  %.*s\n", path,
                 (int)arch.size, (const char *)arch.data, fit_bytes(weights_size_bytes(w)),
                 weights_tensors(w), weights_keys(w), (int)name.size, (const char *)name.data);
    print_parts(w);
    if (keys)
        print_keys(w);
    if (tensors)
        print_tensors(w);
    if (span_is(arch, HPARAMS_DRAFTER))
        print_drafter(w);
    bool decoder = span_is(arch, "gemma4");
    weights_close(w);
    if (decoder)
        print_fit(path);
    return 0;
}

int inspect_main(int argc, char **argv)
{
    static const struct option options[] = {{"keys", no_argument, NULL, 'k'},
                                            {"tensors", no_argument, NULL, 't'},
                                            {"hash", no_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    bool keys = false;
    bool tensors = false;
    bool hash = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return 0;
        }
        if (option == '?')
            return 2;
        keys = keys || option == 'k';
        tensors = tensors || option == 't';
        hash = hash || option == 's';
    }
    if (optind + 1 != argc) {
        (void)fprintf(stderr, "inspect: one file is wanted\n\n%s", usage);
        return 2;
    }
    return inspect(argv[optind], keys, tensors, hash);
}
