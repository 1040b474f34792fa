#include <setjmp.h>

#include "cmocka.h"

static jmp_buf runner;
static int ended; /* 0: well, 1: failed, 2: skipped */

_Noreturn void stand_in_end(int skipped)
{
    ended = skipped ? 2 : 1;
    longjmp(runner, 1);
}

static int run_one(const struct CMUnitTest *test, void **state)
{
    static const char *const verdicts[] = {"[       OK ]", "[  FAILED  ]", "[  SKIPPED ]"};

    print_message("[ RUN      ] %s\n", test->name);
    ended = 0;
    if (setjmp(runner) == 0)
        test->run(state);
    print_message("%s %s\n", verdicts[ended], test->name);
    return ended;
}

int stand_in_run(const struct CMUnitTest *tests, size_t n, int (*setup)(void **state),
                 int (*teardown)(void **state))
{
    int count[3] = {0};
    void *state = NULL;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (setup && setup(&state) != 0)
        count[1] = 1;
    else
        for (size_t i = 0; i < n; i++)
            count[run_one(&tests[i], &state)]++;
    count[1] += teardown && teardown(&state) != 0;
    print_message("[  PASSED  ] %d test(s).\n", count[0]);
    if (count[1])
        print_message("[  FAILED  ] %d test(s).\n", count[1]);
    if (count[2])
        print_message("[  SKIPPED ] %d test(s).\n", count[2]);
    return count[1];
}
