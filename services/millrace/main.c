/* millrace - the command that people type. */
#include "services/millrace/commands.h"
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
};

static const struct command commands[] = {
    {"up", up_main, "start the line on this machine and watch over it"},
    {"ask", ask_main, "ask a running line a question, with pictures and sound"},
    {"inspect", inspect_main, "what is in a model file, and does it fit this machine"},
    {"conform", conform_main, "golden cases through the real code: how far is each off?"},
    {"bench", bench_main, "how fast is it here, and how near to the machine's limits?"},
    {"doctor", doctor_main, "is everything here that the line needs?"},
};

static void usage(FILE *to)
{
    (void)fprintf(to,
                  "millrace: a multimodal language model that stays in the house\n\n"
                  "usage: millrace COMMAND [OPTIONS]    (millrace COMMAND --help says more)\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        (void)fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].about);
    (void)fprintf(to, "\nfirst steps:\n"
                      "  millrace up --model MODEL.gguf --media MMPROJ.gguf\n"
                      "  millrace ask \"what is on this picture?\" --image photo.jpg\n");
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    (void)fprintf(stderr, "millrace: '%s' is no command\n\n", argv[1]);
    usage(stderr);
    return 2;
}
