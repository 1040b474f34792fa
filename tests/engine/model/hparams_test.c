/* Hyperparameters: each number that contradicts the file is refused by its name. */
#include "engine/base/bytes.h"
#include "engine/model/hparams.h"
#include "engine/weights/weights.h"
#include "tests/engine/model/damaged.h"
#include "tests/engine/model/golden.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/nano-q4_0.gguf"

static int read_model(void **state)
{
    (void)state;
    damaged_read(MODEL);
    return 0;
}

static int forget_model(void **state)
{
    (void)state;
    damaged_forget();
    return 0;
}

/* Write the bytes to a file, and read the hyperparameters and the whole model from there. */
static bool open_changed(struct hparams *hp, struct status *st)
{
    char path[] = "/tmp/millrace-hparams-XXXXXX";
    struct weights *w = NULL;
    struct model *m = NULL;
    const struct model_options options = {.context_max = 100, .kv_bytes = 1000};
    bool ok;

    damaged_write(path);
    if (!weights_open(&w, path, st)) {
        fail_msg("%s", st->text);
        return false;
    }
    ok = hparams_read(hp, w, "gemma4", st);
    if (ok) {
        ok = model_open(&m, w, NULL, &options, st);
        model_close(m);
    }
    weights_close(w);
    (void)unlink(path);
    return ok;
}

static void refuse(enum status_code code, const char *text)
{
    struct hparams hp = {0};
    struct status st = {0};

    assert_false(open_changed(&hp, &st));
    if (st.code != code || !strstr(st.text, text))
        fail_msg("expected %s '%s': %s '%s'", status_name(code), text, status_name(st.code),
                 st.text);
}

/* Put another 32-bit value in the place of a key's; refused with that text. */
static void refuse_value(const char *name, uint32_t value, enum status_code code, const char *text)
{
    char key[96];
    uint8_t old[4], *place;

    (void)snprintf(key, sizeof key, "gemma4.%s", name);
    place = damaged_find(key) + strlen(key) + 4; /* after the type */
    memcpy(old, place, 4);
    memcpy(place, &value, 4);
    refuse(code, text);
    memcpy(place, old, 4);
}

static void refuse_element(const char *name, size_t at, size_t size, uint32_t value,
                           const char *text)
{
    char key[96];
    uint8_t old[4], *place;

    (void)snprintf(key, sizeof key, "gemma4.%s", name);
    place = damaged_find(key) + strlen(key) + 4 + 4 + 8 + at * size;
    memcpy(old, place, 4);
    memcpy(place, &value, size);
    refuse(STATUS_CORRUPT, text);
    memcpy(place, old, 4);
}

/* Give a key or tensor another name of the same length: it is then missing. */
static void refuse_without(const char *name, enum status_code code, const char *text)
{
    uint8_t *place = damaged_find(name);

    place[0] = 'X';
    refuse(code, text);
    place[0] = (uint8_t)name[0];
}

static void test_values_refused(void **state)
{
    const uint32_t nan_bits = 0x7fc00000;

    (void)state;
    refuse_value("block_count", 0, STATUS_CORRUPT, "block_count: 0");
    refuse_value("block_count", 300, STATUS_CORRUPT, "block_count: 300");
    refuse_value("block_count", 7, STATUS_CORRUPT, "head_count_kv: 6 elements for 7");
    refuse_value("embedding_length", 32, STATUS_CORRUPT, "token_embd.weight");
    refuse_value("embedding_length", 0xffffffff, STATUS_CORRUPT, "embedding_length");
    refuse_value("attention.head_count", 3, STATUS_CORRUPT, "does not divide 3 heads");
    refuse_value("attention.head_count", 8, STATUS_CORRUPT, "attn_q");
    refuse_value("attention.key_length", 33, STATUS_CORRUPT, "33 is odd");
    refuse_value("attention.value_length", 16, STATUS_UNSUPPORTED, "differs from");
    refuse_value("attention.sliding_window", 0, STATUS_CORRUPT, "sliding_window: 0");
    refuse_value("attention.layer_norm_rms_epsilon", nan_bits, STATUS_CORRUPT, "epsilon");
    refuse_value("rope.freq_base", 0, STATUS_CORRUPT, "freq_base");
    refuse_value("final_logit_softcapping", 0xbf800000, STATUS_CORRUPT, "softcapping");
    refuse_value("feed_forward_length", 64, STATUS_CORRUPT, "ffn_gate");
    refuse_value("context_length", 50, STATUS_LIMIT, "100 tokens, the model was made for 50");
    refuse_element("attention.head_count_kv", 2, 4, 3, "head_count_kv[2]");
    refuse_element("attention.head_count_kv", 5, 4, 0, "head_count_kv[5]");
}

static void test_variants_refused(void **state)
{
    (void)state;
    refuse_value("embedding_length_per_layer_input", 256, STATUS_UNSUPPORTED,
                 "per-layer embeddings of E2B and E4B are not built in");
    refuse_value("attention.shared_kv_layers", 2, STATUS_UNSUPPORTED, "share keys and values");
}

static void test_missing_refused(void **state)
{
    (void)state;
    refuse_without("gemma4.block_count", STATUS_CORRUPT, "block_count");
    refuse_without("gemma4.attention.sliding_window_pattern", STATUS_CORRUPT, "pattern");
    refuse_without("gemma4.rope.freq_base_swa", STATUS_CORRUPT, "freq_base_swa");
    refuse_without("token_embd.weight", STATUS_CORRUPT, "token_embd.weight");
    refuse_without("output_norm.weight", STATUS_CORRUPT, "output_norm.weight");
    refuse_without("blk.3.attn_k_norm.weight", STATUS_CORRUPT, "blk.3.attn_k_norm.weight");
    refuse_without("blk.5.ffn_down.weight", STATUS_CORRUPT, "blk.5.ffn_down.weight");
}

static void test_experts(void **state)
{
    struct hparams hp = {0};
    struct status st = {0};
    uint8_t *place;

    (void)state;
    damaged_read("tests/golden/models/nano-moe-q4_0.gguf");
    refuse_value("expert_count", 0, STATUS_CORRUPT, "'blk.0.ffn_gate_inp.weight' is there");
    refuse_value("expert_count", 4, STATUS_CORRUPT, "ffn_gate_inp");
    refuse_value("expert_count", 0xffffffff, STATUS_CORRUPT, "expert_count");
    refuse_value("expert_used_count", 0, STATUS_CORRUPT, "expert_used_count: 0");
    refuse_value("expert_used_count", 9, STATUS_CORRUPT, "expert_used_count: 9");
    refuse_value("expert_feed_forward_length", 64, STATUS_CORRUPT, "ffn_gate_up_exps");
    refuse_without("gemma4.expert_used_count", STATUS_CORRUPT, "expert_used_count");
    refuse_without("blk.1.ffn_down_exps.weight", STATUS_CORRUPT, "blk.1.ffn_down_exps.weight");
    refuse_without("blk.1.ffn_down_exps.scale", STATUS_CORRUPT, "blk.1.ffn_down_exps.scale");
    refuse_without("blk.3.post_ffw_norm_2.weight", STATUS_CORRUPT, "blk.3.post_ffw_norm_2.weight");
    assert_true(open_changed(&hp, &st));
    assert_true(hp.experts == 8 && hp.experts_used == 2 && hp.expert_ff == 96);
    /* A layer without a router is a plain one. */
    place = damaged_find("blk.2.ffn_gate_inp.weight");
    place[0] = 'X';
    assert_true(open_changed(&hp, &st));
    damaged_read(MODEL);
}

static void test_reads(void **state)
{
    struct hparams hp = {0};
    struct status st = {0};
    uint8_t *place;

    (void)state;
    assert_true(open_changed(&hp, &st));
    assert_true(hp.layers == 6 && hp.width == 64 && hp.ff == 128 && hp.heads == 4);
    assert_true(hp.vocabulary == 512 && hp.window == 16 && hp.context == 8192);
    assert_true(hp.layer[4].sliding && hp.layer[4].kv_heads == 2 && hp.layer[4].head_dim == 16);
    assert_true(!hp.layer[5].sliding && hp.layer[5].kv_heads == 1 && hp.layer[5].head_dim == 32);
    assert_true(hp.layer[4].value_own && !hp.layer[5].value_own);
    assert_true(hp.n_suppressed == 2 && hp.suppressed[0] == 509 && hp.suppressed[1] == 510);
    /* Without the list the two ids are found by name; without a soft-cap there is none. */
    place = damaged_find("tokenizer.ggml.suppress_tokens");
    place[0] = 'X';
    assert_true(open_changed(&hp, &st));
    assert_true(hp.n_suppressed == 2 && hp.suppressed[0] == 509 && hp.suppressed[1] == 510);
    place[0] = 't';
    place = damaged_find("gemma4.final_logit_softcapping");
    place[0] = 'X';
    assert_true(open_changed(&hp, &st) && hp.soft_cap == 0);
    place[0] = 'g';
    place = damaged_find("rope_freqs.weight");
    place[0] = 'X';
    assert_true(open_changed(&hp, &st));
    place[0] = 'r';
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_refused),  cmocka_unit_test(test_variants_refused),
        cmocka_unit_test(test_missing_refused), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_reads),
    };
    return cmocka_run_group_tests(tests, read_model, forget_model);
}
