/* What the programs of the benchmarks share: the time, and the median of durations. */
#ifndef TIMING_H
#define TIMING_H

#include <stdlib.h>
#include <time.h>

/* CLOCK_MONOTONIC in nanoseconds. */
static inline unsigned long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long)t.tv_sec * 1000000000ul + (unsigned long)t.tv_nsec;
}

static inline int ascending(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return x < y ? -1 : x > y;
}

/* Of COUNT values, which are sorted by it. */
static inline unsigned median(unsigned *values, long count)
{
	qsort(values, (size_t)count, sizeof *values, ascending);
	return values[count / 2];
}

#endif
