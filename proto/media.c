#include "proto/media.h"

bool media_budget_known(uint64_t budget)
{
    static const uint64_t budgets[] = {70, 140, 280, 560, 1120};

    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++)
        if (budget == budgets[i])
            return true;
    return false;
}
