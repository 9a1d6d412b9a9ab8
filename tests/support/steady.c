/* Mounts and unmounts for a while, each of which must succeed, exactly once, however often the supervisor dies meanwhile.
 * usage: steady SECONDS TYPE TARGET [new]: by mount(2), or by fsopen(2) to move_mount(2). Prints "rounds N errors N double N missing N p99-us N longest-ms N"; details on stderr. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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

/* NULL, or the call that failed. */
static const char *mount_old(const char *type, const char *target)
{
	return mount("steady", target, type, 0, NULL) ? "mount" : NULL;
}

/* Not by the C library: an older one has no such functions. */
static const char *mount_new(const char *type, const char *target)
{
	const char *failed = NULL;
	int context = (int)syscall(SYS_fsopen, type, 1 /* FSOPEN_CLOEXEC */), mount = -1;

	if (context < 0)
		return "fsopen";
	if (syscall(SYS_fsconfig, context, 1 /* FSCONFIG_SET_STRING */, "source", "steady", 0))
		failed = "fsconfig of the source";
	else if (syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
		failed = "fsconfig to create";
	else if ((mount = (int)syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, 0)) < 0)
		failed = "fsmount";
	else if (syscall(SYS_move_mount, mount, "", -100 /* AT_FDCWD */, target, 4 /* MOVE_MOUNT_F_EMPTY_PATH */))
		failed = "move_mount";
	int saved = errno;
	close(mount);
	close(context);
	errno = saved;
	return failed;
}

int main(int argc, char **argv)
{
	const char *(*make)(const char *, const char *) = argc == 5 && !strcmp(argv[4], "new") ? mount_new : mount_old;
	const char *failed;
	long rounds = 0, errors = 0, twice = 0, missing = 0;
	double longest = 0, end = now() + (argc >= 4 ? atof(argv[1]) : 0);
	if (argc != 4 && make == mount_old)
		return 2;
	for (; now() < end; rounds++) {
		double begin = now();
		if ((failed = make(argv[2], argv[3]))) {
			fprintf(stderr, "round %ld: %s: %s\n", rounds, failed, strerror(errno));
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
