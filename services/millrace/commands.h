/* commands.h - what people type: one row of main.c, one file each. */
#pragma once

/* Each takes its own arguments (argv[0] is its name) and returns the exit status: 0, 1 for a
 * failure that was said, 2 for a command line that makes no sense. */
int ask_main(int argc, char **argv);
int up_main(int argc, char **argv);
int inspect_main(int argc, char **argv);
int doctor_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int conform_main(int argc, char **argv);
