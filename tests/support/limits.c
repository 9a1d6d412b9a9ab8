/* limits ABI: calls that set resource limits, one line each, and what the program and its child have afterwards. Each is made
 * by a process whose limits were 1024 and 4096 descriptors, 4096 and 8192 bytes of locked memory, no core.
 *
 * limits ABI PID: raises the hard limit of that process's descriptors.
 */
#include "pointers.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define UP_TO 65536ul /* the ceiling */

static pid_t child;

static void show(const char *whose, pid_t pid)
{
	struct rlimit files = {0}, locked = {0};

	prlimit(pid, RLIMIT_NOFILE, 0, &files);
	prlimit(pid, RLIMIT_MEMLOCK, 0, &locked);
	printf("%s %ld/%ld %ld/%ld", whose, (long)files.rlim_cur, (long)files.rlim_max, (long)locked.rlim_cur, (long)locked.rlim_max);
}

static void clean_up(int nr64, long result)
{
	const unsigned long *old = (void *)(low + 4 * PAGE);

	(void)nr64;
	(void)result;
	show(" ", 0);
	show(", child", child);
	printf(", before %ld/%ld\n", (long)old[0], (long)old[1]);
	fflush(stdout);
}

static void try_in_child(const char *name, const char *variant, int nr64, int nr32, const word *a, word of_child)
{
	word args[6];
	pid_t pid = fork();

	if (pid == 0) {
		child = fork();
		if (!child)
			for (;;)
				pause();
		memcpy(args, a, sizeof args);
		if (of_child)
			args[0] = (word)child;
		try_call(name, variant, nr64, nr32, args);
		kill(child, SIGKILL);
		waitpid(child, 0, 0);
		exit(0);
	}
	waitpid(pid, 0, 0);
}

/* A struct rlimit as the ABI has it, at `at`. */
static word plain(char *at, unsigned long soft, unsigned long hard)
{
	if (abi == 64) {
		const unsigned long limits[2] = {soft, hard};

		return (word)memcpy(at, limits, sizeof limits);
	}
	const unsigned limits[2] = {(unsigned)soft, (unsigned)hard};

	return (word)memcpy(at, limits, sizeof limits);
}

static word wide(unsigned long soft, unsigned long hard)
{
	const unsigned long limits[2] = {soft, hard};

	return (word)memcpy(low + PAGE, limits, sizeof limits);
}

#define SET(variant, resource, limits) \
	do { \
		const word a[6] = {(resource), (limits), 0xdead, 0xbeef}; \
		try_in_child("setrlimit", variant, SYS_setrlimit, 75, a, 0); \
	} while (0)
#define PR(variant, pid, resource, limits, old, of_child) \
	do { \
		const word a[6] = {(pid), (resource), (limits), (old), 0xdead}; \
		try_in_child("prlimit64", variant, SYS_prlimit64, 340, a, of_child); \
	} while (0)

int main(int argc, char **argv)
{
	const word old = 4 * PAGE;
	size_t size;

	begin(argc, argv);
	if (argc > 2) {
		const word a[6] = {(word)atoi(argv[2]), RLIMIT_NOFILE, wide(100, UP_TO), 0};

		report("prlimit64", "of a process", call(SYS_prlimit64, 340, a));
		return 0;
	}
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, 4096});
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){4096, 8192});
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	size = abi == 64 ? 16 : 8;

	SET("lowered", RLIMIT_NOFILE, plain(low, 100, 2000));
	SET("soft up to hard", POISON | RLIMIT_NOFILE, plain(low, 4096, 4096));
	SET("raised", POISON | RLIMIT_NOFILE, plain(low, 5000, 9000));
	SET("raised, soft is lowered", RLIMIT_NOFILE, plain(low, 3, 9000));
	SET("raised up to the ceiling, at the end of a page", RLIMIT_NOFILE, plain(low + 8 * PAGE - size, 0, UP_TO));
	SET("beyond", RLIMIT_NOFILE, plain(low, 0, UP_TO + 1));
	SET("without bound", RLIMIT_NOFILE, plain(low, 0, ~0ul));
	SET("of locked memory, without bound", RLIMIT_MEMLOCK, plain(low, ~0ul, ~0ul));
	SET("soft above hard", RLIMIT_NOFILE, plain(low, 9001, 9000));
	SET("of what has no ceiling", RLIMIT_CORE, plain(low, 0, 1));
	SET("of nothing", 99, plain(low, 0, 1));
	SET("NULL", RLIMIT_NOFILE, 0);
	SET("unreadable", RLIMIT_NOFILE, 0x1000);
	SET("half unreadable", RLIMIT_NOFILE, (word)(low + 8 * PAGE - size + 1));

	PR("asked", 0, RLIMIT_NOFILE, 0, (word)low + old, 0);
	PR("lowered", 0, RLIMIT_NOFILE, wide(100, 2000), (word)low + old, 0);
	PR("raised", POISON, POISON | RLIMIT_NOFILE, wide(5000, 9000), 0, 0);
	PR("raised, and what it was", 0, RLIMIT_NOFILE, wide(5000, 9000), (word)low + old, 0);
	PR("raised, and what it was has no place", 0, RLIMIT_NOFILE, wide(5000, 9000), 0x1000, 0);
	PR("lowered of the child", 0, RLIMIT_NOFILE, wide(100, 2000), (word)low + old, 1);
	PR("raised of the child", 0, RLIMIT_NOFILE, wide(100, UP_TO), (word)low + old, 1);
	PR("beyond, of the child", 0, RLIMIT_NOFILE, wide(100, UP_TO + 1), (word)low + old, 1);
	PR("of locked memory, without bound", 0, RLIMIT_MEMLOCK, wide(1, ~0ul), 0, 0);
	PR("of locked memory, 4 GiB", 0, RLIMIT_MEMLOCK, wide(1, 0xffffffff), 0, 0);
	PR("soft above hard", 0, RLIMIT_NOFILE, wide(9001, 9000), 0, 0);
	PR("of nobody", 99999, RLIMIT_NOFILE, wide(5000, 9000), 0, 0);
	PR("of a negative number", (word)-1, RLIMIT_NOFILE, wide(5000, 9000), 0, 0);
	PR("of what has no ceiling", 0, RLIMIT_CORE, wide(0, 1), 0, 0);
	PR("of nothing", 0, 99, wide(0, 1), 0, 0);
	PR("unreadable", 0, RLIMIT_NOFILE, 0x1000, 0, 0);
	return 0;
}
