/* The pipeline file: what is refused, with its line; what is read. */
#include "engine/base/config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static bool load(const char *yaml, struct config *config, struct status *st)
{
    char path[] = "/tmp/millrace-config-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
    (void)close(fd);
    config_defaults(config);
    bool ok = config_load(config, path, st);
    (void)unlink(path);
    return ok;
}

static void test_refusals_name_line_and_key(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *says;
    } cases[] = {
        {"", "empty"},
        {"- a\n", "mapping"},
        {"modle: {}\n", "line 1: pipeline file: 'modle'"},
        {"model:\n  weigths: a\n", "line 2: model: 'weigths'"},
        {"model: { context: many }\n", "line 1: context: a number from 16"},
        {"model: { context: 1 }\n", "context"},
        {"gateway: { memory: 4 parsecs }\n", "memory"},
        {"stages:\n  infer: { threads: -1 }\n", "line 2: threads"},
        {"stages:\n  infer: { exact: maybe }\n", "true or false"},
        {"pipelines: { chat: infer }\n", "a list of stages"},
        {"model: [\n", "line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct config config;
        struct status st = {0};
        assert_false(load(cases[i].yaml, &config, &st));
        if (!strstr(st.text, cases[i].says))
            fail_msg("case %zu: '%s' lacks '%s'", i, st.text, cases[i].says);
    }
}

static void test_reads_the_example_of_the_design(void **state)
{
    (void)state;
    static struct config config;
    struct status st = {0};

    assert_true(
        load("model:    { weights: a.gguf, media: /b.gguf, drafter: d.gguf, context: 32768 }\n"
             "gateway:  { listen: 127.0.0.1:9090, memory: 2GiB }\n"
             "pipelines:\n  chat:    [ingest, encode, infer, format]\n"
             "  private: [ingest, redact, encode, infer, format]\n"
             "stages:\n  ingest: { replicas: 2 }\n"
             "  infer:  { threads: 8, kv_bytes: 4GiB, draft_tokens: 2, kv_type: q8, exact: true }\n"
             "  redact: { program: ./redact.py }\n",
             &config, &st));
    assert_true(config_check(&config, &st));
    assert_string_equal(config.weights, "/tmp/a.gguf");
    assert_string_equal(config.media, "/b.gguf");
    assert_string_equal(config.drafter, "/tmp/d.gguf");
    assert_int_equal(config_stage(&config, "infer")->draft_tokens, 2);
    assert_int_equal(config.context, 32768);
    assert_int_equal(config.memory_bytes, UINT64_C(2) << 30);
    assert_int_equal(config.n_pipelines, 2);
    assert_string_equal(config.pipelines[1].steps[1], "redact");
    assert_int_equal(config_stage(&config, "ingest")->replicas, 2);
    assert_int_equal(config_stage(&config, "infer")->kv_bytes, UINT64_C(4) << 30);
    assert_string_equal(config_stage(&config, "infer")->kv_type, "q8");
    assert_true(config_stage(&config, "infer")->exact);
    assert_string_equal(config_stage(&config, "redact")->program, "/tmp/./redact.py");
}

static void test_a_stage_needs_a_program(void **state)
{
    (void)state;
    static struct config config;
    struct status st = {0};

    assert_true(load("model: { weights: a }\npipelines: { x: [redact] }\n", &config, &st));
    assert_false(config_check(&config, &st));
    assert_non_null(strstr(st.text, "redact"));
    config_defaults(&config);
    assert_false(config_check(&config, &st));
    assert_non_null(strstr(st.text, "--model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_line_and_key),
        cmocka_unit_test(test_reads_the_example_of_the_design),
        cmocka_unit_test(test_a_stage_needs_a_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
