/* crowd.h - connections that have not yet sent a whole request, and who of them goes when there are
 * too many: whoever has kept us waiting longest. So nobody is kept out by callers that say nothing.
 */
#pragma once
#include <stddef.h>

/* One connection; memory of the caller. */
struct crowd_member {
    struct crowd_member *before, *after;
    int socket; /* -1: it does not wait */
};
struct crowd {
    struct crowd_member ends; /* a ring through here: the oldest is ends.after */
};

void crowd_init(struct crowd *crowd);

/* It waits from now on; socket is its own. It must not wait already. */
void crowd_add(struct crowd *crowd, struct crowd_member *member, int socket);
/* It waits no more. Does nothing when it does not wait. */
void crowd_remove(struct crowd_member *member);

/* Shut the socket of the one that has waited longest, if there is one; it waits no more. The owner
 * of the socket hears of it as if the client had hung up. */
void crowd_shut_oldest(struct crowd *crowd);
