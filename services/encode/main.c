#include "services/encode/encode.h"
#include "services/stage/stage.h"

int main(int argc, char **argv)
{
    static const struct stage_option_row options[] = {
        {"model", "PATH", "the decoder (GGUF or a checkpoint's folder): its tokenizer is used"},
        {"media", "FILE", "the projectors (mmproj); without it media are refused"},
        {"manifest", "FILE", "SHA-256 and name of the media file, as sha256sum writes them"},
        {0},
    };
    static const struct stage stage = {
        .name = "encode",
        .about = "Turns a chat and its frames into a prompt: token ids, soft tokens, cut points.",
        .options = options,
        .open = encode_open,
        .job = encode_job,
        .cancel = encode_cancel,
        .tick = encode_tick,
        .close = encode_close,
    };
    return stage_main(&stage, argc, argv);
}
