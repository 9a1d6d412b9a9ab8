/* What bench/files.py runs inside a container: KIND COUNT: does one thing COUNT times below /tmp, and prints the median
 * duration in nanoseconds; of `unpack` and `copy`, which do with each file what tar x and cp -a do, the mean. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define FILE_NAME "/tmp/file"

static int null(long i)
{
	(void)i;
	return mknod("/tmp/node", S_IFCHR | 0600, makedev(1, 3)) || unlink("/tmp/node");
}

static int whiteout(long i)
{
	(void)i;
	return mknod("/tmp/node", S_IFCHR, 0) || unlink("/tmp/node");
}

static int get_user(long i)
{
	char value[8];

	(void)i;
	return getxattr(FILE_NAME, "user.x", value, sizeof value) < 0;
}

static int set_user(long i)
{
	return setxattr(FILE_NAME, "user.x", &i, 1, 0);
}

static int get_trusted(long i)
{
	char value[8];

	(void)i;
	return getxattr(FILE_NAME, "trusted.x", value, sizeof value) < 0;
}

static int set_trusted(long i)
{
	return setxattr(FILE_NAME, "trusted.x", &i, 1, 0);
}

static int list(long i)
{
	char names[256];

	(void)i;
	return listxattr(FILE_NAME, names, sizeof names) < 0;
}

static int own(long i)
{
	return lchown(FILE_NAME, (uid_t)(i & 1), 0);
}

static int make(const char *name, const char *data, size_t size)
{
	const struct timespec times[2] = {{1, 0}, {1, 0}};
	int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size || fchmod(fd, 0644) || futimens(fd, times) || close(fd))
		return -1;
	return fchownat(AT_FDCWD, name, 1, 1, AT_SYMLINK_NOFOLLOW);
}

/* In directories of a hundred. */
static const char *place(long i)
{
	static char name[64];

	snprintf(name, sizeof name, "/tmp/%ld", i / 100);
	if (i % 100 == 0)
		mkdir(name, 0755);
	snprintf(name, sizeof name, "/tmp/%ld/%ld", i / 100, i % 100);
	return name;
}

static int unpack(long i)
{
	static char data[4096];

	return make(place(i), data, sizeof data);
}

static int copy(long i)
{
	char names[256];

	return llistxattr(FILE_NAME, names, sizeof names) < 0 || unpack(i) ||
	       (lgetxattr(FILE_NAME, "system.posix_acl_access", names, sizeof names), 0);
}

static const struct kind {
	const char *name;
	int (*act)(long i);
	int mean;
} kinds[] = {
	{"null", null, 0},         {"whiteout", whiteout, 0},       {"get-user", get_user, 0}, {"set-user", set_user, 0},
	{"get-trusted", get_trusted, 0}, {"set-trusted", set_trusted, 0}, {"list", list, 0},   {"chown", own, 0},
	{"unpack", unpack, 1},     {"copy", copy, 1},
};

static unsigned long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long)t.tv_sec * 1000000000ul + (unsigned long)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return x < y ? -1 : x > y;
}

static int measure(const struct kind *kind, long count)
{
	unsigned *took = calloc((size_t)count, sizeof *took);
	unsigned long begin = now();

	for (long i = 0; i < count; i++) {
		unsigned long start = now();

		if (kind->act(i)) {
			perror(kind->name);
			return 1;
		}
		took[i] = (unsigned)(now() - start);
	}
	begin = now() - begin;
	qsort(took, (size_t)count, sizeof *took, ascending);
	printf("%lu\n", kind->mean ? begin / (unsigned long)count : took[count / 2]);
	return 0;
}

int main(int argc, char **argv)
{
	close(open(FILE_NAME, O_WRONLY | O_CREAT, 0644));
	setxattr(FILE_NAME, "user.x", "x", 1, 0);
	setxattr(FILE_NAME, "trusted.x", "x", 1, 0);
	for (size_t i = 0; argc == 3 && i < sizeof kinds / sizeof *kinds; i++)
		if (!strcmp(kinds[i].name, argv[1]))
			return measure(&kinds[i], atol(argv[2]));
	fputs("usage: files KIND COUNT\n", stderr);
	return 2;
}
