#include "services/millrace/client.h"
#include <curl/curl.h>
#include <string.h>

#define BODY_BYTES_MAX ((size_t)1 << 20)
#define LINE_BYTES_MAX ((size_t)64 << 20)

struct transfer {
    CURL *curl;
    client_line *line;
    void *context;
    struct buffer pending; /* a line that has not ended */
    struct buffer *body;   /* where whole bodies go */
};

static size_t take_body(char *data, size_t one, size_t n, void *context)
{
    struct buffer *body = context;

    if (body->size + one * n > BODY_BYTES_MAX)
        return 0;
    buffer_append(body, data, one * n);
    return one * n;
}

/* Hands on each whole line; false when the receiver has had enough. */
static bool cut_lines(struct transfer *t)
{
    size_t begin = 0;
    uint8_t *end;

    while ((end = memchr(t->pending.data + begin, '\n', t->pending.size - begin))) {
        size_t size = (size_t)(end - t->pending.data) - begin;
        if (!t->line(t->context, span_of(t->pending.data + begin, size)))
            return false;
        begin += size + 1;
    }
    memmove(t->pending.data, t->pending.data + begin, t->pending.size - begin);
    t->pending.size -= begin;
    return true;
}

static size_t take_lines(char *data, size_t one, size_t n, void *context)
{
    struct transfer *t = context;
    long http = 0;

    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &http);
    if (http != 200)
        return take_body(data, one, n, t->body);
    buffer_append(&t->pending, data, one * n);
    if (t->pending.size > LINE_BYTES_MAX)
        return 0;
    return cut_lines(t) ? one * n : 0;
}

static CURL *start(const char *url, struct status *st)
{
    CURL *curl = curl_easy_init();

    if (!curl) {
        (void)status_fail(st, STATUS_INTERNAL, "libcurl does not start");
        return NULL;
    }
    (void)curl_easy_setopt(curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 5L);
    (void)curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* nothing leaves the house by accident */
    return curl;
}

static bool finish(CURL *curl, const char *url, long *out_http, struct status *st)
{
    CURLcode code = curl_easy_perform(curl);

    (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, out_http);
    curl_easy_cleanup(curl);
    if (code == CURLE_OK)
        return true;
    if (code == CURLE_COULDNT_CONNECT)
        return status_fail(st, STATUS_UNAVAILABLE, "nobody listens at %.120s", url);
    return status_fail(st, STATUS_UNAVAILABLE, "%.120s: %s", url, curl_easy_strerror(code));
}

bool client_get(const char *url, struct buffer *out, long *out_http, struct status *st)
{
    CURL *curl = start(url, st);

    if (!curl)
        return false;
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, 5L);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, out);
    return finish(curl, url, out_http, st);
}

bool client_post(const char *url, struct span json, client_line *line, void *context,
                 long *out_http, struct buffer *error_body, struct status *st)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    struct transfer t = {.line = line, .context = context, .body = error_body};

    t.curl = start(url, st);
    if (!t.curl) {
        curl_slist_free_all(headers);
        return false;
    }
    (void)curl_easy_setopt(t.curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(t.curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)json.size);
    (void)curl_easy_setopt(t.curl, CURLOPT_POSTFIELDS, json.data);
    (void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, take_lines);
    (void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &t);
    bool ok = finish(t.curl, url, out_http, st);
    if (ok && t.pending.size)
        (void)line(context, buffer_span(&t.pending));
    buffer_clear(&t.pending);
    curl_slist_free_all(headers);
    return ok;
}
