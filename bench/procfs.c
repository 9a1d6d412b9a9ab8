/* What bench/procfs.py runs inside a container.
 *
 * time COUNT SPACING_US PATH...   each PATH in turn, COUNT times: open(2), read(2), close(2); with SPACING_US between two rounds.
 *                                 Without, each is read once before it is timed: else the first would find the caches as
 *                                 the server of the last has left them, and the others as the first has.
 *                                 Prints for each the median duration in nanoseconds.
 * poll READERS PATH...            READERS processes each read every PATH once a second, until they are killed. */
#include "timing.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BUFFER 65536
#define SECOND 1000000000ul

static void wait_until(unsigned long time)
{
	struct timespec t = {(time_t)(time / SECOND), (long)(time % SECOND)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0))
		;
}

static int read_once(const char *path)
{
	static char buffer[BUFFER];
	int fd = open(path, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);

	close(fd);
	return size < 0;
}

static int take_times(int count, long spacing, char **paths, int number)
{
	unsigned *took = calloc((size_t)count * (size_t)number, sizeof *took);
	int i, p;

	for (i = 0; i < count; i++) {
		if (spacing)
			wait_until(now() + (unsigned long)spacing);
		for (p = 0; p < number; p++) {
			int failed = !spacing && read_once(paths[p]);
			unsigned long start = now();

			if (failed || read_once(paths[p])) {
				perror(paths[p]);
				return 1;
			}
			took[p * count + i] = (unsigned)(now() - start);
		}
	}
	for (p = 0; p < number; p++)
		printf("%u\n", median(took + p * count, count));
	return 0;
}

static void poll_files(char **paths, int number)
{
	long time;
	int p;

	srandom((unsigned)now());
	for (time = now() + random() % SECOND;; time += SECOND) {
		wait_until(time);
		for (p = 0; p < number; p++)
			if (read_once(paths[p]))
				perror(paths[p]);
	}
}

int main(int argc, char **argv)
{
	int i;

	if (argc > 4 && !strcmp(argv[1], "time"))
		return take_times(atoi(argv[2]), atol(argv[3]) * 1000, argv + 4, argc - 4);
	if (argc > 3 && !strcmp(argv[1], "poll")) {
		for (i = 1; i < atoi(argv[2]); i++)
			if (!fork())
				break;
		poll_files(argv + 3, argc - 3);
	}
	fputs("usage: procfs time COUNT SPACING_US PATH...\n       procfs poll READERS PATH...\n", stderr);
	return 2;
}
