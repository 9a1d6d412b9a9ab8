/* Mounts and unmounts in a loop under a storm of signals, as a Go program gets them (SIGURG, SA_RESTART), and counts
 * what goes wrong: usage: storm TYPE TARGET TIMES. Prints "mounts=N errors=N doubled=N signals=N"; details on stderr. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

/* Sends until its parent is gone or kills it: the pauses differ, so that signals hit every stage of a call. */
static void send_signals(pid_t target)
{
	for (unsigned pause = 0; kill(target, SIGUSR1) == 0; pause = (pause + 37) % 400)
		usleep(50 + pause);
	_exit(0);
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
	if (argc != 4)
		return 2;
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
	sigaction(SIGUSR1, &action, NULL);
	pid_t self = getpid(), sender = fork();
	if (sender == 0)
		send_signals(self);
	int mounts = 0, errors = 0, doubled = 0;
	for (int round = 0; round < atoi(argv[3]); round++) {
		if (mount("storm", argv[2], argv[1], 0, NULL) != 0) {
			errors++;
			fprintf(stderr, "round %d: mount: %s\n", round, strerror(errno));
		}
		int now = mounted_at(argv[2]);
		mounts += now > 0;
		if (now > 1) {
			doubled++;
			fprintf(stderr, "round %d: mounted %d times\n", round, now);
		}
		for (; now > 0; now--)
			if (umount2(argv[2], 0) != 0) {
				errors++;
				fprintf(stderr, "round %d: umount2: %s\n", round, strerror(errno));
			}
	}
	kill(sender, SIGKILL);
	while (waitpid(sender, NULL, 0) < 0 && errno == EINTR)
		;
	printf("mounts=%d errors=%d doubled=%d signals=%d\n", mounts, errors, doubled, (int)signals);
	return 0;
}
