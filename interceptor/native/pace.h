/* How many calls a second a container may make of us, on average over a second: what comes faster waits here, before it is
 * looked at. Shared by the sessions of a container. One number and no lock: the time at which the next call is due, which
 * each call moves on by an interval (the generic cell rate algorithm, ITU-T I.371); a call that is due more than a second
 * from now waits until it is no more.
 */
#ifndef INTERCEPTOR_PACE_H
#define INTERCEPTOR_PACE_H

#include <stdint.h>

struct ic_pace {
	uint64_t interval; /* ns from one call to the next; 0: no bound */
	uint64_t due;      /* CLOCK_MONOTONIC, ns */
};

/* `rate` is calls a second; 0: no bound. On any thread, at any time. */
void ic_pace_set(struct ic_pace *pace, uint32_t rate);
/* A call that was received `now` (CLOCK_MONOTONIC, ns): waits for its turn. */
void ic_pace_wait(struct ic_pace *pace, uint64_t now);

#endif
