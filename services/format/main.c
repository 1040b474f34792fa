#include "services/format/format.h"
#include "services/stage/stage.h"

int main(int argc, char **argv)
{
    static const struct stage_option_row options[] = {
        {"model", "PATH", "the decoder (GGUF or a checkpoint's folder): its tokenizer is used"},
        {0},
    };
    static const struct stage stage = {
        .name = "format",
        .about = "Turns tokens into the bytes of the answer: text, thoughts, tool calls.",
        .options = options,
        .open = format_open,
        .job = format_job,
        .more = format_more,
        .cancel = format_cancel,
        .close = format_close,
    };
    return stage_main(&stage, argc, argv);
}
