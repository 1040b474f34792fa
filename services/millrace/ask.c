/* ask: a question, with media files, to a running line; the answer as it streams. */
#include "engine/base/bytes.h"
#include "engine/base/heap.h"
#include "services/millrace/client.h"
#include "services/millrace/commands.h"
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)

static const char usage[] =
    "usage: millrace ask \"QUESTION\" [OPTIONS]\n"
    "  Sends the question to a running line and prints the answer as it comes.\n\n"
    "  --image FILE        a picture (PNG, JPEG, WebP); may be given several times\n"
    "  --video FILE        a video with its sound (MP4, MOV, WebM, MKV); likewise\n"
    "  --audio FILE        a sound of up to 30 s (WAV, FLAC, MP3, Ogg, M4A); likewise\n"
    "  --system TEXT       how the model should behave\n"
    "  --tools FILE        a JSON array of tools the model may call\n"
    "  --thinking          let it think first; the thought is shown dimmed\n"
    "  --temperature T     0 is the likeliest answer; default 1\n"
    "  --seed N            makes a sampled answer repeatable\n"
    "  --max-tokens N      longest answer\n"
    "  --model NAME        pipeline to ask (chat)\n"
    "  --url URL           where the line listens (http://127.0.0.1:8080)\n";

struct question {
    json_t *media; /* array of parts */
    json_t *body;
    const char *text, *system, *url;
};

/* What has been printed. */
struct answer {
    bool terminal, in_thought, failed, ended, cut;
};

/* ------------------------------------------------------------------ the request */

static void append_base64(struct buffer *out, struct span in)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    buffer_reserve(out, out->size + in.size / 3 * 4 + 4);
    for (size_t i = 0; i < in.size; i += 3) {
        size_t n = in.size - i < 3 ? in.size - i : 3;
        uint32_t bits = (uint32_t)in.data[i] << 16 | (n > 1 ? (uint32_t)in.data[i + 1] << 8 : 0) |
                        (n > 2 ? in.data[i + 2] : 0);
        for (size_t k = 0; k < 4; k++)
            buffer_append_byte(out, k <= n ? (uint8_t)digits[bits >> (18 - 6 * k) & 63] : '=');
    }
}

/* type: of the part, "image_url", "video_url" or "input_audio". */
static bool add_file(struct question *q, const char *path, const char *type)
{
    bool sound = strcmp(type, "input_audio") == 0;
    struct buffer file = {0};
    struct buffer text = {0};
    struct status st = {0};

    if (!bytes_read_file(&file, path, FILE_BYTES_MAX, &st)) {
        (void)fprintf(stderr, "ask: %s\n", st.text);
        return false;
    }
    if (!sound)
        buffer_append_text(&text, "data:application/octet-stream;base64,");
    append_base64(&text, buffer_span(&file));
    json_t *data = json_stringn((const char *)text.data, text.size);
    json_t *part =
        sound ? json_pack("{s:s, s:{s:o, s:s}}", "type", type, type, "data", data, "format", "wav")
              : json_pack("{s:s, s:{s:o}}", "type", type, type, "url", data);
    (void)json_array_append_new(q->media, part);
    buffer_clear(&text);
    buffer_clear(&file);
    return true;
}

static bool add_tools(struct question *q, const char *path)
{
    json_error_t error;
    json_t *tools = json_load_file(path, JSON_ALLOW_NUL, &error);

    if (!tools) {
        (void)fprintf(stderr, "ask: %s: line %d: %s\n", path, error.line, error.text);
        return false;
    }
    (void)json_object_set_new(q->body, "tools", tools);
    return true;
}

static bool add_number(struct question *q, const char *key, const char *text, bool whole)
{
    char *end;
    errno = 0;
    json_t *value = whole ? json_integer(strtoll(text, &end, 10)) : json_real(strtod(text, &end));

    if (!value || end == text || *end || errno == ERANGE) {
        (void)fprintf(stderr, "ask: %s '%s': a %snumber is wanted\n", key, text,
                      whole ? "whole " : "");
        json_decref(value);
        return false;
    }
    (void)json_object_set_new(q->body, key, value);
    return true;
}

static bool take_option(struct question *q, int option, const char *value)
{
    switch (option) {
    case 'i':
        return add_file(q, value, "image_url");
    case 'v':
        return add_file(q, value, "video_url");
    case 'a':
        return add_file(q, value, "input_audio");
    case 's':
        q->system = value;
        return true;
    case 'o':
        return add_tools(q, value);
    case 'k':
        (void)json_object_set_new(q->body, "reasoning_effort", json_string("medium"));
        return true;
    case 't':
        return add_number(q, "temperature", value, false);
    case 'e':
        return add_number(q, "seed", value, true);
    case 'n':
        return add_number(q, "max_tokens", value, true);
    case 'm':
        (void)json_object_set_new(q->body, "model", json_string(value));
        return true;
    case 'u':
        q->url = value;
        return true;
    default:
        return false;
    }
}

/* -1: go on; else the exit status. */
static int read_arguments(struct question *q, int argc, char **argv)
{
    static const struct option options[] = {
        {"image", required_argument, NULL, 'i'},
        {"audio", required_argument, NULL, 'a'},
        {"video", required_argument, NULL, 'v'},
        {"system", required_argument, NULL, 's'},
        {"tools", required_argument, NULL, 'o'},
        {"thinking", no_argument, NULL, 'k'},
        {"temperature", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 'e'},
        {"max-tokens", required_argument, NULL, 'n'},
        {"model", required_argument, NULL, 'm'},
        {"url", required_argument, NULL, 'u'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            return 0;
        }
        if (!take_option(q, option, optarg))
            return 2;
    }
    if (optind + 1 != argc) {
        (void)fprintf(stderr, "ask: one question in quotes is wanted\n\n%s", usage);
        return 2;
    }
    q->text = argv[optind];
    return -1;
}

static void finish_body(struct question *q)
{
    json_t *messages = json_array();

    if (q->system)
        (void)json_array_append_new(
            messages, json_pack("{s:s, s:s}", "role", "system", "content", q->system));
    (void)json_array_append_new(q->media, json_pack("{s:s, s:s}", "type", "text", "text", q->text));
    (void)json_array_append_new(messages,
                                json_pack("{s:s, s:O}", "role", "user", "content", q->media));
    (void)json_object_set_new(q->body, "messages", messages);
    (void)json_object_set_new(q->body, "stream", json_true());
    if (!json_object_get(q->body, "model"))
        (void)json_object_set_new(q->body, "model", json_string("chat"));
}

/* ------------------------------------------------------------------ the answer */

static void show_thought(struct answer *a, bool thought)
{
    if (a->in_thought == thought)
        return;
    a->in_thought = thought;
    if (a->terminal)
        (void)fputs(thought ? "\033[2m" : "\033[0m\n", stdout);
    else
        (void)fputs(thought ? "(thought) " : "\n", stdout);
}

static void show_call(const json_t *call)
{
    const json_t *function = json_object_get(call, "function");
    const char *name = json_string_value(json_object_get(function, "name"));
    const char *arguments = json_string_value(json_object_get(function, "arguments"));

    (void)printf("[calls %s %s]\n", name ? name : "?", arguments ? arguments : "");
}

static void show_delta(struct answer *a, const json_t *delta)
{
    const char *content = json_string_value(json_object_get(delta, "content"));
    const char *thought = json_string_value(json_object_get(delta, "reasoning_content"));
    const json_t *calls = json_object_get(delta, "tool_calls");
    size_t i;
    json_t *call;

    if (thought) {
        show_thought(a, true);
        (void)fputs(thought, stdout);
    }
    if (content && *content) {
        show_thought(a, false);
        (void)fputs(content, stdout);
    }
    if (calls)
        show_thought(a, false);
    json_array_foreach(calls, i, call) show_call(call);
    (void)fflush(stdout);
}

/* What of the media was looked at, beside the answer. */
static void show_media(const json_t *media)
{
    size_t i;
    json_t *m;

    json_array_foreach(media, i, m)
    {
        const char *left_out = json_string_value(json_object_get(m, "left_out"));
        (void)fprintf(stderr,
                      "ask: video %lld of %.1f s: %lld of %lld frames, %.1f s of sound%s%s\n",
                      (long long)json_integer_value(json_object_get(m, "number")),
                      json_number_value(json_object_get(m, "length_ms")) / 1000,
                      (long long)json_integer_value(json_object_get(m, "frames")),
                      (long long)json_integer_value(json_object_get(m, "frames_in_file")),
                      json_number_value(json_object_get(m, "sound_ms")) / 1000,
                      left_out ? "; " : "", left_out ? left_out : "");
    }
}

static void show_error(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *param = json_string_value(json_object_get(error, "param"));

    (void)fprintf(stderr, "ask: %s%s%s\n", param ? param : "", param ? ": " : "",
                  message ? message : "the line gave no reason");
}

static bool take_line(void *context, struct span line)
{
    struct answer *a = context;

    if (line.size < 6 || memcmp(line.data, "data: ", 6) != 0)
        return true;
    line = span_of(line.data + 6, line.size - 6);
    if (span_is(line, "[DONE]")) {
        a->ended = true;
        return true;
    }
    json_t *root = json_loadb((const char *)line.data, line.size, JSON_ALLOW_NUL, NULL);
    if (json_object_get(root, "error")) {
        show_thought(a, false);
        (void)fputc('\n', stdout);
        show_error(root);
        a->failed = true;
    } else {
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
        show_media(json_object_get(json_object_get(root, "millrace"), "media"));
        show_delta(a, json_object_get(choice, "delta"));
        a->cut = a->cut || (finish && strcmp(finish, "length") == 0);
    }
    json_decref(root);
    return true;
}

/* Where the line listens; what people copy may end in / or in the path that clients of OpenAI's are
 * given. */
static void address(char *out, size_t size, const char *url)
{
    size_t n = strlen(url);

    while (n > 0 && url[n - 1] == '/')
        n--;
    if (n > 3 && strncmp(url + n - 3, "/v1", 3) == 0)
        n -= 3;
    (void)snprintf(out, size, "%.*s/v1/chat/completions", (int)n, url);
}

static int ask(struct question *q)
{
    struct answer a = {.terminal = isatty(STDOUT_FILENO) == 1};
    struct buffer error_body = {0};
    struct status st = {0};
    char url[512];
    long http = 0;

    address(url, sizeof url, q->url);
    char *body = json_dumps(q->body, JSON_COMPACT);
    bool ok = client_post(url, span_text(body), take_line, &a, &http, &error_body, &st);
    free(body);
    if (!ok) {
        (void)fprintf(stderr, "ask: %s\n     is the line up? start it: millrace up --model FILE\n",
                      st.text);
    } else if (http != 200) {
        json_t *root = json_loadb((const char *)error_body.data, error_body.size, 0, NULL);
        show_error(root);
        json_decref(root);
    } else {
        show_thought(&a, false);
        (void)fputc('\n', stdout);
        (void)fflush(stdout); /* before what stderr has to add */
        if (a.cut)
            (void)fprintf(stderr, "(cut off: the longest answer allowed; see --max-tokens)\n");
        if (!a.ended && !a.failed)
            (void)fprintf(stderr, "ask: the line closed the stream before its end\n");
    }
    buffer_clear(&error_body);
    return ok && http == 200 && a.ended && !a.failed ? 0 : 1;
}

int ask_main(int argc, char **argv)
{
    struct question q = {
        .media = json_array(), .body = json_object(), .url = "http://127.0.0.1:8080"};
    int exit_status = read_arguments(&q, argc, argv);

    if (exit_status < 0) {
        finish_body(&q);
        exit_status = ask(&q);
    }
    json_decref(q.media);
    json_decref(q.body);
    return exit_status;
}
