#include "pace.h"

#include <errno.h>
#include <time.h>

#define SECOND 1000000000u

void ic_pace_set(struct ic_pace *pace, uint32_t rate)
{
	__atomic_store_n(&pace->interval, rate ? SECOND / rate : 0, __ATOMIC_RELEASE);
}

void ic_pace_wait(struct ic_pace *pace, uint64_t now)
{
	uint64_t interval = pace ? __atomic_load_n(&pace->interval, __ATOMIC_ACQUIRE) : 0;
	uint64_t due, start;
	struct timespec until;

	if (!interval)
		return;
	due = __atomic_load_n(&pace->due, __ATOMIC_RELAXED);
	do
		start = due > now ? due : now;
	while (!__atomic_compare_exchange_n(&pace->due, &due, start + interval, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	if (start - now <= SECOND)
		return;
	start -= SECOND;
	until = (struct timespec){.tv_sec = (time_t)(start / SECOND), .tv_nsec = (long)(start % SECOND)};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0) == EINTR)
		;
}
