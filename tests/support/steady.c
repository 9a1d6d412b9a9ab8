/* Mounts and unmounts for a while, each of which must succeed, exactly once, however often the supervisor dies meanwhile.
 * usage: steady SECONDS TYPE TARGET. Prints "rounds N errors N double N missing N p99-us N longest-ms N"; details on stderr. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>

#define ROUNDS_MAX (1 << 20)

static unsigned taken[ROUNDS_MAX]; /* microseconds of each round; p99 is of the last ones */

static int by_size(const void *a, const void *b)
{
	const unsigned one = *(const unsigned *)a, other = *(const unsigned *)b;
	return one < other ? -1 : one > other;
}

static unsigned p99(long rounds)
{
	size_t count = rounds < ROUNDS_MAX ? (size_t)rounds : ROUNDS_MAX;
	qsort(taken, count, sizeof *taken, by_size);
	return count ? taken[count * 99 / 100] : 0;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* How often something is mounted exactly at `target`: proc_pid_mountinfo(5), fifth field. */
static int mounted_at(const char *target)
{
	char line[8192], point[4096];
	int found = 0;
	FILE *table = fopen("/proc/self/mountinfo", "re");
	while (table && fgets(line, sizeof line, table))
		if (sscanf(line, "%*s %*s %*s %*s %4095s", point) == 1 && strcmp(point, target) == 0)
			found++;
	if (table)
		fclose(table);
	return found;
}

int main(int argc, char **argv)
{
	long rounds = 0, errors = 0, twice = 0, missing = 0;
	double longest = 0, end = now() + (argc == 4 ? atof(argv[1]) : 0);
	if (argc != 4)
		return 2;
	for (; now() < end; rounds++) {
		double begin = now();
		if (mount("steady", argv[3], argv[2], 0, NULL)) {
			fprintf(stderr, "round %ld: mount: %s\n", rounds, strerror(errno));
			errors++;
		}
		int there = mounted_at(argv[3]);
		twice += there > 1;
		missing += there < 1;
		for (; there > 0; there--)
			if (umount2(argv[3], 0)) {
				fprintf(stderr, "round %ld: umount2: %s\n", rounds, strerror(errno));
				errors++;
			}
		begin = now() - begin;
		taken[rounds % ROUNDS_MAX] = (unsigned)(begin * 1e6);
		if (begin > longest)
			longest = begin;
	}
	printf("rounds %ld errors %ld double %ld missing %ld p99-us %u longest-ms %ld\n", rounds, errors, twice, missing, p99(rounds),
	       (long)(longest * 1000));
	return errors || twice || missing;
}
