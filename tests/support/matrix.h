/* The matrix: small probes, each of which asks the kernel for one thing and says what it answered.
 *
 * A family is one program, tests/support/matrix_FAMILY.c, that includes this file and has one PROBE for each row of
 * tests/data/matrix/FAMILY.txt:
 *
 *	PROBE("mount tmpfs")
 *	{
 *		return mount("none", "mnt", "tmpfs", 0, 0);
 *	}
 *
 * A probe returns what a system call of the C library returns: negative for a failure with errno, and then the line is
 * that errno's name, else "ok"; say("…") prints another answer. Each runs in a child and in a mount namespace of its own,
 * in a directory that holds an empty directory "mnt" and belongs to it alone, so that nothing has to be undone.
 */
#ifndef MATRIX_H
#define MATRIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct probe {
	const char *name;
	long (*run)(void);
};

static struct probe probes[512];
static unsigned probe_count;
static char said[256];

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PROBE(name) PROBE_(name, JOIN(probe_, __COUNTER__))
#define PROBE_(what, function) \
	static long function(void); \
	static void __attribute__((constructor)) JOIN(register_, function)(void) \
	{ \
		probes[probe_count++] = (struct probe){what, function}; \
	} \
	static long function(void)

/* The probe's answer in its own words. */
static inline long __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(said, sizeof said, format, list);
	va_end(list);
	return 0;
}

/* What a probe needs before it asks: a failure is an answer of its own, which no table expects. */
#define MUST(what) \
	do { \
		if ((what) < 0) \
			return say("%s: %s", #what, strerrorname_np(errno)); \
	} while (0)

/* Whether this is no container: what would change the machine is not tried there. */
static inline int is_host(void)
{
	unsigned inside, outside, count;
	FILE *map = fopen("/proc/self/uid_map", "r");
	int whole = map && fscanf(map, "%u %u %u", &inside, &outside, &count) == 3 && count == 4294967295u;

	if (map)
		fclose(map);
	return whole;
}

#define NOT_ON_THE_HOST \
	do { \
		if (is_host()) \
			return say("not tried"); \
	} while (0)

static void report(const struct probe *probe, unsigned number)
{
	char directory[32];
	long result;

	snprintf(directory, sizeof directory, "probe%u", number);
	if (mkdir(directory, 0755) || chdir(directory) || mkdir("mnt", 0755)) {
		perror(directory);
		_exit(1);
	}
	umask(0);
	if (unshare(CLONE_NEWNS) || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0))
		perror("a mount namespace");
	result = probe->run();
	if (result < 0)
		say("%s", strerrorname_np(errno));
	printf("%s | %s\n", probe->name, *said ? said : "ok");
	fflush(stdout);
	_exit(0);
}

/* matrix_FAMILY DIRECTORY: all probes, below a directory that exists. */
int main(int count, char **arguments)
{
	if (count != 2 || chdir(arguments[1])) {
		fprintf(stderr, "usage: %s DIRECTORY\n", arguments[0]);
		return 2;
	}
	for (unsigned number = 0; number < probe_count; number++) {
		pid_t child = fork();
		int status;

		if (child == 0)
			report(&probes[number], number);
		if (child < 0 || waitpid(child, &status, 0) != child)
			return 1;
		if (WIFSIGNALED(status))
			printf("%s | killed by %s\n", probes[number].name, sigabbrev_np(WTERMSIG(status)));
		else if (WEXITSTATUS(status))
			return 1;
		fflush(stdout);
	}
	return 0;
}

#endif
