#include "services/infer/infer.h"
#include "services/stage/stage.h"

int main(int argc, char **argv)
{
    static const struct stage_option_row options[] = {
        {"model", "PATH", "the decoder (GGUF, or a checkpoint's folder)"},
        {"drafter", "FILE", "its drafter (GGUF): the same answers, sooner"},
        {"draft-tokens", "N", "tokens it guesses at once, 1 to 8 (3)"},
        {"manifest", "FILE", "SHA-256 and name of every model file, as sha256sum writes them"},
        {"threads", "N", "threads that compute; 0, the default, is one a core"},
        {"context", "N", "tokens of a request, prompt and answer together (8192)"},
        {"slots", "N", "requests in one batch (4)"},
        {"kv-bytes", "N", "memory for keys and values (1 GiB)"},
        {"kv-type", "f16|q8|f32", "how keys and values are kept (f16; f32 with exact)"},
        {"exact", "yes|no", "activations stay float32 instead of 8 bits (no)"},
        {0},
    };
    static const struct stage stage = {
        .name = "infer",
        .about = "Runs the model: prompts in, tokens out, one step for many requests at once.",
        .options = options,
        .open = infer_open,
        .job = infer_job,
        .cancel = infer_cancel,
        .tick = infer_tick,
        .running = infer_running,
        .close = infer_close,
    };
    return stage_main(&stage, argc, argv);
}
