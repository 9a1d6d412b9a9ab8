/* Intercepted calls against memory, paths and processes that change while they are decided.
 *
 * races MODE ROUNDS: prints "calls N succeeded N" and what the mode counts. Run as the container's root, in a directory
 * of its own; needs CAP_SYS_ADMIN. The modes:
 *   type      the filesystem type flips between tmpfs, proc and ext4 while mount(2) runs
 *   target    a component of the target flips between a directory and a symbolic link that climbs out of the root
 *   exchange  the same by renameat2(RENAME_EXCHANGE), with an absolute link to `out`
 *   flags     the type flips between proc and tmpfs, the data string between a right and a wrong one
 *   root      another thread of the same fs_struct changes root and cwd
 *   umount    the string of umount2(2) flips between a mount of ours and a mount that was there from the start
 *   nice      the nice value flips between one within a ceiling of -5 and one beyond while sched_setattr(2) runs
 *   limit     the hard limit of descriptors flips between one within a ceiling of 65536 and one beyond while prlimit(2) runs
 *   exit      the calling process is killed at any moment
 *   exec      the calling process executes another program while a thread of it makes the call
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int over;
static char text[64], data[64];

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void put(char *at, const char *string)
{
	for (size_t i = 0; i <= strlen(string); i++)
		((volatile char *)at)[i] = string[i];
}

static void *flip_type(void *unused)
{
	static const char *const types[] = {"tmpfs", "proc", "ext4", "debugfs"};
	for (unsigned i = 0; !over; i++)
		put(text, types[i % 4]);
	return unused;
}

static void *flip_flags(void *unused)
{
	for (unsigned i = 0; !over; i++) {
		put(text, i & 1 ? "proc" : "tmpfs");
		put(data, i & 2 ? "hidepid=2" : "nonsense=1");
	}
	return unused;
}

static void *flip_target(void *unused)
{
	while (!over) {
		rename("flip", "flip.directory");
		symlink("../../../../../../../../../../../../../../tmp", "flip");
		sched_yield();
		unlink("flip");
		rename("flip.directory", "flip");
	}
	return unused;
}

static void *exchange(void *unused)
{
	while (!over)
		renameat2(AT_FDCWD, "flip", AT_FDCWD, "link", RENAME_EXCHANGE);
	return unused;
}

static void *move_root(void *unused)
{
	int top = open("/", O_PATH | O_DIRECTORY), here = open(".", O_PATH | O_DIRECTORY);
	while (!over) {
		must(chroot("jail") == 0, "chroot jail");
		must(chdir("/") == 0, "chdir /");
		must(fchdir(top) == 0, "fchdir");
		must(chroot(".") == 0, "chroot .");
		must(fchdir(here) == 0, "fchdir");
	}
	return unused;
}

static void *flip_umount(void *unused)
{
	while (!over) {
		put(text, "/etc/kept");
		put(text, "mine");
	}
	return unused;
}

static volatile struct {
	unsigned size, policy;
	unsigned long flags;
	int nice;
	unsigned priority;
	unsigned long times[3];
} attributes = {.size = 48};
static volatile struct rlimit limit = {0, 1 << 16};

static void *flip_numbers(void *unused)
{
	for (unsigned i = 0; !over; i++) {
		attributes.nice = i & 1 ? -20 : -5;
		limit.rlim_max = i & 1 ? 1 << 20 : 1 << 16;
	}
	return unused;
}

static void ceilings(long rounds, int of_limits)
{
	const struct rlimit few = {0, 4096};
	struct rlimit found;
	long done = 0, beyond = 0;

	for (long i = 0; i < rounds; i++) {
		if (of_limits) {
			must(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
			done += syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL) == 0;
			must(getrlimit(RLIMIT_NOFILE, &found) == 0, "getrlimit");
			beyond += found.rlim_max > 1 << 16;
		} else {
			must(setpriority(PRIO_PROCESS, 0, 19) == 0, "setpriority");
			done += syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
			beyond += getpriority(PRIO_PROCESS, 0) < -5;
		}
	}
	over = 1;
	printf("calls %ld succeeded %ld beyond %ld\n", rounds, done, beyond);
}

static long unmount_all(const char *path)
{
	long count = 0;
	while (umount2(path, MNT_DETACH) == 0)
		count++;
	return count;
}

static void mounts(long rounds, const char *target, const char *given)
{
	long done = 0, undone = 0;
	for (long i = 0; i < rounds; i++) {
		if (mount("none", target, given, 0, given == text ? data : NULL) == 0)
			done++;
		if (i % 64 == 63)
			undone += unmount_all(target);
	}
	over = 1;
	printf("calls %ld succeeded %ld unmounted %ld\n", rounds, done, undone);
}

static void unmounts(long rounds)
{
	long done = 0, refused = 0;
	for (long i = 0; i < rounds; i++) {
		must(mount("none", "mine", "tmpfs", 0, NULL) == 0, "mount mine");
		if (umount2(text, MNT_DETACH) == 0)
			done++;
		else
			refused++;
		unmount_all("mine");
	}
	over = 1;
	printf("calls %ld succeeded %ld refused %ld\n", rounds, done, refused);
}

static void deaths(long rounds, int by_exec)
{
	long done = 0;
	for (long i = 0; i < rounds; i++) {
		pid_t child = fork();
		must(child >= 0, "fork");
		if (child == 0) {
			if (by_exec && vfork() == 0) /* the caller waits in the kernel until its child's exec, then goes on */
				execl("/bin/true", "true", NULL);
			for (;;) {
				mount("none", "dead", i & 1 ? "debugfs" : "proc", 0, NULL);
				if (by_exec)
					execl("/bin/true", "true", NULL);
			}
		}
		usleep((unsigned)(i * 37 % 700));
		kill(child, SIGKILL);
		must(waitpid(child, NULL, 0) == child, "waitpid");
		done++;
		if (i % 16 == 15)
			unmount_all("dead");
	}
	printf("calls %ld succeeded %ld unmounted %ld\n", rounds, done, unmount_all("dead"));
}

int main(int argc, char **argv)
{
	pthread_t other;
	const char *mode = argc > 1 ? argv[1] : "";
	long rounds = argc > 2 ? atol(argv[2]) : 1000;
	void *(*racer)(void *) = NULL;

	setvbuf(stdout, NULL, _IONBF, 0);
	mkdir("target", 0755);
	mkdir("flip", 0755);
	mkdir("flip/in", 0755);
	mkdir("mine", 0755);
	mkdir("dead", 0755);
	mkdir("jail", 0755);
	mkdir("jail/in", 0755);
	put(text, "tmpfs");
	if (!strcmp(mode, "type"))
		racer = flip_type;
	else if (!strcmp(mode, "flags"))
		racer = flip_flags;
	else if (!strcmp(mode, "target"))
		racer = flip_target;
	else if (!strcmp(mode, "exchange"))
		racer = exchange;
	else if (!strcmp(mode, "root"))
		racer = move_root;
	else if (!strcmp(mode, "umount"))
		racer = flip_umount;
	else if (!strcmp(mode, "nice") || !strcmp(mode, "limit"))
		racer = flip_numbers;
	if (racer == exchange)
		must(symlink("/../../../../../../tmp", "link") == 0 || errno == EEXIST, "symlink");
	if (racer == flip_umount)
		put(text, "mine");
	if (racer)
		must(pthread_create(&other, NULL, racer, NULL) == 0, "pthread_create");

	if (racer == flip_type || racer == flip_flags)
		mounts(rounds, "target", text);
	else if (racer == flip_target || racer == exchange)
		mounts(rounds, "flip/in", "proc");
	else if (racer == move_root)
		mounts(rounds, "in", "proc");
	else if (racer == flip_umount)
		unmounts(rounds);
	else if (racer == flip_numbers)
		ceilings(rounds, !strcmp(mode, "limit"));
	else if (!strcmp(mode, "exit") || !strcmp(mode, "exec"))
		deaths(rounds, !strcmp(mode, "exec"));
	else
		return 2;
	if (racer)
		pthread_join(other, NULL);
	return 0;
}
