/* Reads one file again and again in several processes, and counts what is no whole snapshot.
 *
 * whole_reads FILE PROCESSES READS BUFFER. Reads with a BUFFER of so many bytes until there is no more; with 0, by one read(2), as
 * many programs do, and one sendfile(2), as busybox does, in turn; "kept" opens the file once, and reads from its start again and
 * again, with pread(2) of odd sizes. A snapshot is lines that all begin with the same number: the first "N first COUNT TIME", then
 * COUNT lines "N row", then "N last"; blanks may stand before a newline. Prints "reads late torn oldest_us starved_us": TIME is
 * CLOCK_MONOTONIC in nanoseconds of when the snapshot was made, and its age is taken before the file is opened. `starved` is
 * how long one read waited at most for a CPU to run on (/proc/PID/schedstat): the kernel counts how long attributes are valid
 * from when the thread that asked for them runs again, so that the machine's other work makes snapshots older. Who was without a
 * CPU for longer than LATE_NS between the beginning of a file and its end is `late` and not judged: fuse.h promises it nothing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LATE_NS 15000000 /* less than DRAIN_NS of fuse.c, by two ticks */

static char text[1 << 20];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Nanoseconds that this process has waited for a CPU. */
static uint64_t waited(int schedstat)
{
	char line[128];
	ssize_t size = pread(schedstat, line, sizeof line - 1, 0);
	unsigned long long ran, waited = 0;

	line[size > 0 ? size : 0] = 0;
	return sscanf(line, "%llu %llu", &ran, &waited) == 2 ? waited : 0;
}

static size_t read_once(int fd)
{
	static int file = -1;
	static int turn;
	ssize_t n;

	if (file < 0)
		file = memfd_create("read", 0);
	if (turn++ % 2)
		return (n = read(fd, text, sizeof text - 1)) > 0 ? (size_t)n : 0;
	lseek(file, 0, SEEK_SET);
	n = sendfile(file, fd, 0, sizeof text - 1);
	return n > 0 && pread(file, text, (size_t)n, 0) == n ? (size_t)n : 0;
}

static size_t read_whole(const char *path, size_t buffer)
{
	int fd = open(path, O_RDONLY);
	size_t size = 0;
	ssize_t n;

	if (fd < 0)
		return 0;
	if (!buffer)
		size = read_once(fd);
	while (buffer && size + buffer < sizeof text && (n = read(fd, text + size, buffer)) > 0)
		size += (size_t)n;
	close(fd);
	text[size] = 0;
	return size;
}

static size_t read_kept(const char *path)
{
	static int fd = -1;
	size_t size = 0, step = 1;
	ssize_t n;

	if (fd < 0)
		fd = open(path, O_RDONLY);
	while (size + step < sizeof text && (n = pread(fd, text + size, step, (off_t)size)) > 0) {
		size += (size_t)n;
		step = step * 3 % 9973;
	}
	text[size] = 0;
	return size;
}

static int is_whole(size_t size, uint64_t *made)
{
	unsigned long long number, count, n, time, row = 0;
	char *line = text, *end;
	int used;

	if (!size || strlen(text) != size || text[size - 1] != '\n')
		return 0;
	if (sscanf(line, "%llu first %llu %llu", &number, &count, &time) != 3)
		return 0;
	*made = time;
	for (line = strchr(line, '\n') + 1; row < count; row++, line = end + 1) {
		end = strchr(line, '\n');
		used = 0;
		if (!end || sscanf(line, "%llu row%n", &n, &used) != 1 || !used || n != number)
			return 0;
	}
	used = 0;
	if (sscanf(line, "%llu last%n", &n, &used) != 1 || !used || n != number)
		return 0;
	line += used;
	line += strspn(line, " ");
	return !strcmp(line, "\n");
}

struct result {
	uint64_t reads, late, torn, oldest, starved;
};

static struct result run(const char *path, uint64_t reads, const char *buffer)
{
	struct result result = {0};
	int schedstat = open("/proc/self/schedstat", O_RDONLY);

	for (; result.reads < reads; result.reads++) {
		uint64_t before = waited(schedstat), start = now(), made = start;
		size_t size = strcmp(buffer, "kept") ? read_whole(path, strtoul(buffer, 0, 10)) : read_kept(path);
		uint64_t starved = waited(schedstat) - before;

		result.starved = starved > result.starved ? starved : result.starved;
		if (!is_whole(size, &made)) {
			if (starved > LATE_NS)
				result.late++;
			else if (!result.torn++ && getenv("SHOW_TORN"))
				fprintf(stderr, "<<<%s>>>\n", text);
			continue;
		}
		if (start > made && start - made > result.oldest)
			result.oldest = start - made;
	}
	return result;
}

int main(int argc, char **argv)
{
	struct result sum = {0}, one;
	int i, link[2], processes;

	if (argc != 5 || pipe(link))
		return 2;
	processes = atoi(argv[2]);
	for (i = 0; i < processes; i++)
		if (!fork()) {
			one = run(argv[1], strtoull(argv[3], 0, 10), argv[4]);
			_exit(write(link[1], &one, sizeof one) != sizeof one);
		}
	for (i = 0; i < processes && read(link[0], &one, sizeof one) == sizeof one; i++) {
		sum.reads += one.reads;
		sum.late += one.late;
		sum.torn += one.torn;
		sum.oldest = one.oldest > sum.oldest ? one.oldest : sum.oldest;
		sum.starved = one.starved > sum.starved ? one.starved : sum.starved;
	}
	while (wait(0) > 0)
		;
	printf("%llu %llu %llu %llu %llu\n", (unsigned long long)sum.reads, (unsigned long long)sum.late,
	       (unsigned long long)sum.torn, (unsigned long long)sum.oldest / 1000, (unsigned long long)sum.starved / 1000);
	return 0;
}
