/* signal_storm ROUNDS INTERVAL TYPE TARGET: mounts and unmounts under a storm of SIGUSR1, and counts what is mounted each time.
 *
 * A child sends the signal every INTERVAL µs (0: as fast as it can) to a handler with SA_RESTART on a stack of its own, as
 * the Go runtime sets up SIGURG. mount(2) is never interrupted natively, so every error is spurious here.
 * Prints "rounds R signals S mount-errors A umount-errors B double C missing D", and each error to stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

static void storm(pid_t target, long interval)
{
	struct timespec pause = {.tv_sec = interval / 1000000, .tv_nsec = interval % 1000000 * 1000};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (kill(target, SIGUSR1) == 0)
		if (interval)
			nanosleep(&pause, 0);
	_exit(0);
}

static int mounted_at(const char *target)
{
	static char text[1 << 20];
	char field[300];
	size_t size = 0;
	int found = 0, fd = open("/proc/self/mountinfo", O_RDONLY);
	ssize_t n;

	while (fd >= 0 && (n = read(fd, text + size, sizeof text - 1 - size)) > 0)
		size += (size_t)n;
	text[size] = 0;
	if (fd >= 0)
		close(fd);
	snprintf(field, sizeof field, " %s ", target);
	for (char *at = text; (at = strstr(at, field)); at++)
		found++;
	return found;
}

int main(int argc, char **argv)
{
	static char stack[1 << 16];
	stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
	long rounds, round, interval, mount_errors = 0, umount_errors = 0, twice = 0, missing = 0;
	pid_t self = getpid(), sender;

	if (argc != 5)
		return 2;
	rounds = atol(argv[1]);
	interval = atol(argv[2]);
	sigaltstack(&other, 0);
	sigaction(SIGUSR1, &action, 0);
	sender = fork();
	if (sender == 0)
		storm(self, interval);
	for (round = 0; round < rounds; round++) {
		int there;

		if (mount(argv[3], argv[4], argv[3], 0, 0)) {
			fprintf(stderr, "round %ld: mount: %s\n", round, strerror(errno));
			mount_errors++;
		}
		there = mounted_at(argv[4]);
		twice += there > 1;
		missing += there < 1;
		if (there > 1)
			fprintf(stderr, "round %ld: %d mounts\n", round, there);
		while (there-- > 0)
			if (umount2(argv[4], 0)) {
				fprintf(stderr, "round %ld: umount2: %s\n", round, strerror(errno));
				umount_errors++;
			}
		if (mounted_at(argv[4])) {
			fprintf(stderr, "round %ld: still mounted\n", round);
			while (umount2(argv[4], MNT_DETACH) == 0)
				;
		}
	}
	kill(sender, SIGKILL);
	while (waitpid(sender, 0, 0) < 0 && errno == EINTR)
		;
	printf("rounds %ld signals %ld mount-errors %ld umount-errors %ld double %ld missing %ld\n", rounds, (long)signals,
	       mount_errors, umount_errors, twice, missing);
	return mount_errors || umount_errors || twice || missing;
}
