/* rehearsal.h - a stage ("test") in a child process that does what its job's field "do" says, and
 * the words to tell it and to expect of it. */
#pragma once
#include "tests/proto/fake_gateway.h"

#define REHEARSAL_SLOTS 3

/* The child runs stage_main with these options (the last one is NULL) and that standard output
 * (negative: none), and ends without the parent's exit handlers: what it leaks is the parent's. */
pid_t rehearsal_start(const char *const *options, int stdout_fd);
/* Negative: it was killed by that signal; -1000: by us, since it did not end. */
int rehearsal_exit_status(pid_t pid);

/* For cmocka: a stage at `here/test/0` and its gateway. */
int rehearsal_setup(void **state);
int rehearsal_teardown(void **state);

struct rid rid_of(uint8_t n);
void tell_kind(enum msg_kind kind);
void tell_refuse(enum status_code code);
void tell_job(uint8_t n, uint32_t epoch, const char *what, int64_t ms_left);
void tell_more(uint8_t n, uint32_t seq, bool last);
void expect_result(uint8_t n, uint32_t epoch, uint32_t seq, bool last, const char *text);
void expect_failed(uint8_t n, enum status_code code, enum fault fault);
void expect_credit(uint32_t n);
