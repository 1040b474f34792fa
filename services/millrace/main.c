/* millrace - the command that people type. */
#include "services/millrace/commands.h"
#include <errno.h>
#include <stdbool.h>
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
    (void)fprintf(to, "millrace: a multimodal language model that stays in the house\n\n"
                      "usage: millrace COMMAND [OPTIONS]    (millrace help COMMAND says more)\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        (void)fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].about);
    (void)fprintf(to, "\nfirst steps:\n"
                      "  millrace up --model MODEL.gguf --media MMPROJ.gguf\n"
                      "  millrace ask \"what is on this picture?\" --image photo.jpg\n");
}

static int run(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].run(argc, argv);
    (void)fprintf(stderr, "millrace: '%s' is no command\n\n", argv[0]);
    usage(stderr);
    return 2;
}

/* Of a full disk a program that only prints would not hear. */
static bool is_written(void)
{
    int sys = 0;

    if (ferror(stdout)) /* the flush that failed took its reason along: one byte more finds it */
        (void)fputc('\n', stdout);
    if (fflush(stdout) != 0)
        sys = errno;
    if (!ferror(stdout))
        return true;
    (void)fprintf(stderr, "millrace: the answer cannot be written: %s\n",
                  sys ? strerror(sys) : "a part of it is missing");
    return false;
}

int main(int argc, char **argv)
{
    const char *first = argc > 1 ? argv[1] : "";
    bool help = strcmp(first, "help") == 0;
    int exit_status = 0;

    if (help && argc > 2)
        exit_status = run(2, (char *[]){argv[2], (char[]){"--help"}, NULL});
    else if (help || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        usage(stdout);
    else if (strcmp(first, "--version") == 0)
        (void)printf("millrace %s\n", MILLRACE_VERSION);
    else if (argc > 1)
        exit_status = run(argc - 1, argv + 1);
    else {
        usage(stderr);
        exit_status = 2;
    }
    return is_written() || exit_status ? exit_status : 1;
}
