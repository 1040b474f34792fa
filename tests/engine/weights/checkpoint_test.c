/* Checkpoints as they are published: what is refused, then the same bits as from GGUF files of the
 * same values. checkpoint.py makes both. */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "tests/engine/model/golden.h"
#include "tests/engine/weights/files.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SCRIPT "tests/engine/weights/checkpoint.py"
#define N 60 /* tokens: beyond three windows of the nano model */

static struct weights *open_path(const char *path)
{
    struct weights *w = NULL;
    struct status st = {0};
    if (!weights_open(&w, path, &st))
        fail_msg("%s", st.text);
    return w;
}

/* ---- refused ---- */

static void write_header(const char *header, size_t data_bytes)
{
    struct buffer b = {0};
    uint64_t n = (strlen(header) + 7) / 8 * 8; /* values lie at multiples of their size */
    buffer_append(&b, &n, sizeof n);
    buffer_append_text(&b, header);
    while (b.size < sizeof n + n)
        buffer_append_byte(&b, ' ');
    for (size_t i = 0; i < data_bytes; i++)
        buffer_append_byte(&b, 0);
    files_write("case.safetensors", b.data, b.size);
    buffer_clear(&b);
}

#define F32(name, shape, offsets)                                                                  \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void refuse(const char *header, size_t data_bytes, const char *why)
{
    struct weights *w = NULL;
    struct status st = {0};
    write_header(header, data_bytes);
    assert_false(weights_open(&w, files_path("case.safetensors"), &st));
    if (!strstr(st.text, why))
        fail_msg("'%s' does not say '%s' (%s)", st.text, why, header);
}

static void test_headers_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header, *why;
    } bad[] = {
        {"{", "a string was expected"},
        {"{}x", "text after the end"},
        {"{\"\":1}", "name: 0 bytes"},
        {"{\"a\":1}", "tensor 'a': byte 5: an object was expected"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "data_offsets is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}", "shape is missing"},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}", "dtype is missing"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[16],\"data_offsets\":[0,16]}}",
         "tensor 'a': dtype F8_E4M3 is not read"},
        {"{" F32("a", "[5]", "[0,16]") "}", "shape and dtype make 20 bytes"},
        {"{" F32("a", "[4]", "[16,0]") "}", "data_offsets 16 to 0"},
        {"{" F32("a", "[4]", "[0,16,17]") "}", "more than 2 numbers"},
        {"{" F32("a", "[4]", "[-16,0]") "}", "'-16' is no whole number"},
        {"{" F32("a", "[4]", "[0,1.6e1]") "}", "'1.6e1' is no whole number"},
        {"{" F32("a", "[4]", "[0,99999999999999999999]") "}", "is no whole number"},
        {"{" F32("a", "[1,1,1,1,4]", "[0,16]") "}", "shape: more than 4"},
        {"{" F32("a", "[0]", "[0,0]") "}", "an axis of 0"},
        {"{" F32("a", "[4611686018427387904,4]", "[0,16]") "}", "an axis of"},
        {"{" F32("a", "[4]", "[4,20]") "}", "expected from 0 on, within 16"},
        {"{" F32("a", "[3]", "[0,12]") "}", "the tensors take the first 12"},
        {"{" F32("a", "[3]", "[0,12]") "," F32("b", "[2]", "[8,16]") "}", "expected from 12"},
        {"{" F32("a", "[2]", "[0,8]") "," F32("b", "[1]", "[12,16]") "}", "expected from 8"},
        {"{" F32("a", "[4]", "[0,16]") "}", "config.json' is not there"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i].header, 16, bad[i].why);
    struct buffer deep = {0};
    buffer_append_text(&deep, "{\"__metadata__\":");
    for (size_t i = 0; i < 100000; i++)
        buffer_append_byte(&deep, '[');
    buffer_append_byte(&deep, 0);
    refuse((const char *)deep.data, 16, "nested more than");
    buffer_clear(&deep);
    files_write("case.safetensors", "\xff\xff\xff\xff\0\0\0\0{", 9);
    struct weights *w = NULL;
    struct status st = {0};
    assert_false(weights_open(&w, files_path("case.safetensors"), &st));
}

/* A folder whose config.json differs in one place from a good one. */
static void refuse_config(const char *from, const char *to, const char *why)
{
    struct buffer text = {0}, changed = {0};
    struct weights *w = NULL;
    struct status st = {0};
    if (!bytes_read_file(&text, files_path("f16/config.json"), 1 << 20, &st))
        fail_msg("%s", st.text);
    buffer_append_byte(&text, 0);
    const char *at = strstr((const char *)text.data, from);
    assert_non_null(at);
    buffer_append(&changed, text.data, (size_t)(at - (const char *)text.data));
    buffer_append_text(&changed, to);
    buffer_append_text(&changed, at + strlen(from));
    files_write("f16/config.json", (const char *)changed.data, changed.size);
    bool opened = weights_open(&w, files_path("f16"), &st);
    struct model *m = NULL;
    const struct model_options options = {.context_max = 64, .kv_bytes = 1 << 20};
    if (opened && model_open(&m, w, NULL, &options, &st))
        fail_msg("'%s' instead of '%s' was not refused", to, from);
    if (!strstr(st.text, why))
        fail_msg("'%s' does not say '%s'", st.text, why);
    weights_close(w);
    files_write("f16/config.json", (const char *)text.data, text.size - 1);
    buffer_clear(&text);
    buffer_clear(&changed);
}

static void test_configs_refused(void **state)
{
    (void)state;
    files_need();
    refuse_config("\"num_hidden_layers\"", "\"x\"", "config.json: num_hidden_layers is missing");
    refuse_config("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7", "layer_types: 6 of them");
    refuse_config("\"hidden_size\": 64", "\"hidden_size\": \"64\"", "hidden_size: a number");
    refuse_config("\"hidden_size\": 64", "\"hidden_size\": 64.5", "hidden_size: a whole number");
    refuse_config("\"full_attention\"", "\"linear_attention\"", "'linear_attention' is not known");
    refuse_config("gelu_pytorch_tanh", "silu", "hidden_activation: 'silu'");
    refuse_config("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias");
    refuse_config("\"proportional\"", "\"yarn\"", "rope_type: 'yarn'");
    refuse_config("\"partial_rotary_factor\": 0.25", "\"partial_rotary_factor\": 2",
                  "partial_rotary_factor: a number from 0 to 1");
    refuse_config("gemma4_unified_text", "llama", "'llama' is not supported");
    refuse_config("\"num_kv_shared_layers\": 0", "\"num_kv_shared_layers\": 2", "shared_kv_layers");
    refuse_config("\"head_dim\": 16", "\"head_dim\": 32", "attn_q");
    refuse_config("{", "[", "config.json: byte 0: an object was expected");
}

static void test_indices_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index, *why;
    } bad[] = {
        {"{   }", "weight_map is missing"},
        {"{\"weight_map\":[]}", "an object was expected"},
        {"{\"weight_map\":{\"a\":\"../case.safetensors\"}}", "is no name of a file"},
        {"{\"weight_map\":{\"a\":\"case.bin\"}}", "is no name of a file"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", "none.safetensors' is not there"},
        {"{\"weight_map\":{\"b\":\"case.safetensors\"}}",
         "tensor 'b' is not in 'case.safetensors'"},
        {"{\"weight_map\":{}}", "config.json' is not there"},
        {"{\"weight_map\":{\"a\":\"case.safetensors\"}}", "1 tensors, the files hold 2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct weights *w = NULL;
        struct status st = {0};
        write_header("{" F32("a", "[2]", "[0,8]") "," F32("c", "[2]", "[8,16]") "}", 16);
        files_write("case.index.json", bad[i].index, strlen(bad[i].index));
        assert_false(weights_open(&w, files_path("case.index.json"), &st));
        if (!strstr(st.text, bad[i].why))
            fail_msg("'%s' does not say '%s'", st.text, bad[i].why);
    }
    (void)unlink(files_path("case.index.json"));
    (void)unlink(files_path("case.safetensors"));
}

/* ---- read ---- */

/* Logits of N tokens [N][vocabulary], from a seed. */
static float *logits_of(const struct weights *w, size_t *out_n)
{
    struct model *m = NULL;
    struct status st = {0};
    const struct model_options options = {.context_max = 256, .kv_bytes = (size_t)16 << 20};
    struct model_input inputs[N];
    uint32_t random = 7;

    if (!model_open(&m, w, NULL, &options, &st))
        fail_msg("%s", st.text);
    size_t vocabulary = model_hparams(m)->vocabulary;
    float *logits = heap_array(float, N *vocabulary);
    for (size_t i = 0; i < N; i++)
        inputs[i] =
            (struct model_input){.id = (int32_t)(next_random(&random) % vocabulary), .block = -1};
    golden_read(m, &(struct golden_reading){.inputs = inputs, .n = N, .budget_us = 1000000},
                logits);
    model_close(m);
    *out_n = N * vocabulary;
    return logits;
}

static void check_same_decoder(const char *checkpoint, const char *gguf)
{
    struct weights *w[2] = {open_path(files_path(checkpoint)), open_path(files_path(gguf))};
    struct hparams *hp[2] = {heap_new(1, sizeof *hp[0]), heap_new(1, sizeof *hp[0])};
    struct tokenizer *t[2] = {NULL, NULL};
    float *logits[2];
    size_t n[2];
    struct status st = {0};

    for (int i = 0; i < 2; i++) {
        if (!hparams_read(hp[i], w[i], "gemma4", &st) || !tokenizer_new(&t[i], w[i], &st))
            fail_msg("%s", st.text);
        logits[i] = logits_of(w[i], &n[i]);
    }
    assert_memory_equal(hp[0], hp[1], sizeof *hp[0]);
    assert_true(hp[0]->n_suppressed > 0 || strncmp(checkpoint, "experts", 7) == 0);
    assert_int_equal(n[0], n[1]);
    if (memcmp(logits[0], logits[1], n[0] * sizeof(float)) != 0)
        fail_msg("%s and %s: the logits differ by %g", checkpoint, gguf,
                 golden_distance(logits[0], logits[1], n[0]));
    assert_true(tokenizer_hash(t[0]) == tokenizer_hash(t[1]));
    for (int i = 0; i < 2; i++) {
        heap_free(logits[i]);
        heap_free(hp[i]);
        tokenizer_free(t[i]);
        weights_close(w[i]);
    }
}

static void test_same_decoder(void **state)
{
    (void)state;
    files_need();
    check_same_decoder("f32", "f32.gguf");
    check_same_decoder("f32/model.safetensors", "f32.gguf");
    check_same_decoder("f16", "f16.gguf");
    check_same_decoder("bf16", "bf16.gguf");
    check_same_decoder("bf16/model.safetensors.index.json", "bf16.gguf");
    check_same_decoder("bf16/model-00002-of-00003.safetensors", "bf16.gguf");
    check_same_decoder("experts-f32", "experts-f32.gguf");
    check_same_decoder("experts-bf16", "experts-bf16.gguf");
}

/* A drafter's folder: the numbers and every tensor of the GGUF file. */
static void test_same_drafter(void **state)
{
    (void)state;
    files_need();
    struct weights *w[2] = {open_path(files_path("drafter-f32")),
                            open_path(files_path("drafter-f32.gguf"))};
    struct hparams *hp[2] = {heap_new(1, sizeof *hp[0]), heap_new(1, sizeof *hp[0])};
    struct status st = {0};
    for (int i = 0; i < 2; i++)
        if (!hparams_read(hp[i], w[i], HPARAMS_DRAFTER, &st))
            fail_msg("%s", st.text);
    assert_memory_equal(hp[0], hp[1], sizeof *hp[0]);
    assert_int_equal(weights_tensors(w[0]), weights_tensors(w[1]));
    for (size_t i = 0; i < weights_tensors(w[1]); i++) {
        const struct tensor_view *b = weights_at(w[1], i), *a;
        if (!weights_borrow(w[0], b->name, b->dims, WEIGHTS_DIMS_MAX, &a, &st))
            fail_msg("%s", st.text);
        assert_ptr_equal(a->type, b->type);
        assert_memory_equal(a->data, b->data, b->size_bytes);
    }
    for (int i = 0; i < 2; i++) {
        heap_free(hp[i]);
        weights_close(w[i]);
    }
}

static void check_same_media(const char *checkpoint, const char *gguf)
{
    enum { SIDE = 36, SAMPLES = 1500 };
    const char *paths[2] = {files_path(checkpoint), files_path(gguf)};
    float soft[2][12 * 64] = {{0}};
    uint8_t rgb[SIDE * SIDE * 3];
    float samples[SAMPLES];

    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 37 + i / 91);
    for (size_t i = 0; i < SAMPLES; i++)
        samples[i] = (float)(i % 17) / 20.0F - 0.4F;
    for (int i = 0; i < 2; i++) {
        struct weights *w = open_path(paths[i]);
        struct projector *p = NULL;
        struct status st = {0};
        if (!projector_open(&p, w, 64, &st) || !image_embed(p, soft[i], rgb, SIDE, SIDE, 0, 9, &st))
            fail_msg("%s: %s", paths[i], st.text);
        assert_int_equal(projector_shape(p)->patch_px, 12);
        assert_int_equal(audio_tokens(projector_shape(p), SAMPLES), 3);
        audio_embed(p, soft[i] + (size_t)9 * 64, samples, SAMPLES);
        projector_close(p);
        weights_close(w);
    }
    assert_memory_equal(soft[0], soft[1], sizeof soft[0]);
}

static void test_same_media(void **state)
{
    (void)state;
    files_need();
    check_same_media("f32", "media-f32.gguf");
    check_same_media("bf16", "media-bf16.gguf");
    struct weights *w = open_path(files_path("f16"));
    struct projector *p = NULL;
    struct status st = {0};
    assert_false(projector_open(&p, w, 64, &st));
    assert_non_null(strstr(st.text, "clip.vision.projector_type"));
    weights_close(w);
}

static void test_files(void **state)
{
    (void)state;
    files_need();
    struct weights *w = open_path(files_path("bf16"));
    assert_int_equal(weights_files(w), 7); /* index, three pieces, config, generation, tokenizer */
    assert_non_null(strstr(weights_file(w, 1), "model-00001-of-00003.safetensors"));
    assert_non_null(strstr(weights_file(w, 6), "tokenizer.json"));
    weights_close(w);
}

/* 262,144 pieces and 514,906 merges out of a file of 32 MB. */
static void test_real_vocabulary(void **state)
{
    (void)state;
    char path[GOLDEN_PATH_MAX], command[2 * GOLDEN_PATH_MAX];
    struct tokenizer *t[2] = {NULL, NULL};
    struct status st = {0};

    files_need();
    if (!golden_path(path, "gemma-4-vocab.gguf")) {
        print_message("skipped: 'gemma-4-vocab.gguf' is in neither $MILLRACE_GOLDEN nor "
                      "../shared/golden\n");
        skip();
    }
    (void)snprintf(command, sizeof command, "/usr/bin/python3 " SCRIPT " --tokenizer %s %s", path,
                   files_path("vocabulary"));
    assert_int_equal(system(command), 0);
    struct weights *w[2] = {open_path(files_path("vocabulary")), open_path(path)};
    for (int i = 0; i < 2; i++) {
        if (!tokenizer_new(&t[i], w[i], &st))
            fail_msg("%s", st.text);
        weights_close(w[i]);
    }
    assert_int_equal(tokenizer_size(t[0]), 262144);
    assert_true(tokenizer_hash(t[0]) == tokenizer_hash(t[1]));
    tokenizer_free(t[0]);
    tokenizer_free(t[1]);
}

static int make_files(void **state)
{
    return files_make(state, SCRIPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_refused), cmocka_unit_test(test_configs_refused),
        cmocka_unit_test(test_indices_refused), cmocka_unit_test(test_same_decoder),
        cmocka_unit_test(test_same_media),      cmocka_unit_test(test_files),
        cmocka_unit_test(test_same_drafter),    cmocka_unit_test(test_real_vocabulary),
    };
    return cmocka_run_group_tests(tests, make_files, files_folder_remove);
}
