#include "services/stage/manifest.h"
#include "engine/base/bytes.h"
#include "engine/base/hash.h"
#include "engine/weights/weights.h"
#include "services/stage/warm.h"
#include <string.h>

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The next line of `rest`, which moves behind it; an end of line of either kind is left out. */
static struct span next_line(struct span *rest)
{
    const uint8_t *end = memchr(rest->data, '\n', rest->size);
    struct span line = span_of(rest->data, end ? (size_t)(end - rest->data) : rest->size);
    size_t taken = line.size + (end != NULL);
    *rest = span_of(rest->data + taken, rest->size - taken);
    if (line.size && line.data[line.size - 1] == '\r')
        line.size--;
    return line;
}

/* "<64 digits>  <name>", or " *" between them; the name without folders. */
static bool read_line(struct span line, uint8_t hash[HASH_BYTES], struct span *out_name)
{
    const size_t digits = (size_t)2 * HASH_BYTES;
    if (line.size < digits + 3 || line.data[digits] != ' ' ||
        (line.data[digits + 1] != ' ' && line.data[digits + 1] != '*') ||
        !hash_read(span_of(line.data, digits), hash))
        return false;
    size_t start = digits + 2;
    for (size_t i = start; i < line.size; i++)
        if (line.data[i] == '/')
            start = i + 1;
    *out_name = span_of(line.data + start, line.size - start);
    return true;
}

/* The hash that the manifest gives for that name. */
static bool find_hash(struct span text, const char *name, uint8_t out[HASH_BYTES],
                      struct status *st)
{
    bool found = false;
    for (size_t number = 1; text.size; number++) {
        struct span line = next_line(&text);
        struct span line_name;
        uint8_t hash[HASH_BYTES];
        if (line.size == 0)
            continue;
        if (!read_line(line, hash, &line_name))
            return status_fail(st, STATUS_INVALID,
                               "line %zu: a SHA-256, two blanks and a name are wanted", number);
        if (!span_is(line_name, name))
            continue;
        if (found && memcmp(hash, out, HASH_BYTES) != 0)
            return status_fail(st, STATUS_INVALID, "line %zu: '%s' has another hash above", number,
                               name);
        memcpy(out, hash, HASH_BYTES);
        found = true;
    }
    return found || status_fail(st, STATUS_NOT_FOUND, "'%s' is not in it", name);
}

static bool check_file(struct span text, const char *file, struct status *st)
{
    uint8_t wanted[HASH_BYTES], found[HASH_BYTES];
    char words[2][HASH_TEXT_BYTES];

    if (!find_hash(text, base_name(file), wanted, st) || !warm_read(file, found, st))
        return false;
    if (memcmp(wanted, found, HASH_BYTES) == 0)
        return true;
    hash_write(wanted, words[0]);
    hash_write(found, words[1]);
    return status_fail(st, STATUS_CORRUPT, "'%s' has SHA-256 %.16s..., wanted is %.16s...", file,
                       words[1], words[0]);
}

bool manifest_check(const char *path, const struct weights *w, struct status *st)
{
    struct buffer text = {0};
    bool ok = bytes_read_file(&text, path, MANIFEST_BYTES_MAX, st);

    for (size_t i = 0; ok && i < weights_files(w); i++)
        ok = check_file(buffer_span(&text), weights_file(w, i), st) ||
             status_wrap(st, "manifest '%s'", path);
    buffer_clear(&text);
    return ok;
}
