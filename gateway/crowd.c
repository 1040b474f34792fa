#include "gateway/crowd.h"
#include <assert.h>
#include <sys/socket.h>

void crowd_init(struct crowd *crowd)
{
    crowd->ends = (struct crowd_member){&crowd->ends, &crowd->ends, -1};
}

void crowd_add(struct crowd *crowd, struct crowd_member *member, int socket)
{
    assert(socket >= 0);
    *member = (struct crowd_member){crowd->ends.before, &crowd->ends, socket};
    member->before->after = member;
    crowd->ends.before = member;
}

void crowd_remove(struct crowd_member *member)
{
    if (member->socket < 0)
        return;
    member->before->after = member->after;
    member->after->before = member->before;
    *member = (struct crowd_member){.socket = -1};
}

void crowd_shut_oldest(struct crowd *crowd)
{
    struct crowd_member *oldest = crowd->ends.after;
    int socket = oldest->socket;

    if (oldest == &crowd->ends)
        return;
    crowd_remove(oldest);
    (void)shutdown(socket, SHUT_RDWR);
}
