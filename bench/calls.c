/* What bench/calls.py runs inside a container: KIND COUNT: does one thing COUNT times, files below /tmp, and prints the median
 * duration in nanoseconds; of `copy`, which does with each file what cp -a does, the mean. */
#define _GNU_SOURCE
#include "timing.h"

#include <fcntl.h>
#include <linux/reboot.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/quota.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>
#include <sys/xattr.h>
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

static int host_name(long i)
{
	return sethostname(i & 1 ? "one" : "two", 3);
}

static int system_information(long i)
{
	struct sysinfo found;

	(void)i;
	return sysinfo(&found);
}

static int processors(long i)
{
	cpu_set_t set;

	(void)i;
	return sched_getaffinity(0, sizeof set, &set);
}

/* Refused natively. */
static int log_open(long i)
{
	(void)i;
	klogctl(1, 0, 0);
	return 0;
}

static int clock_read(long i)
{
	struct timex timex = {0};

	(void)i;
	return adjtimex(&timex) < 0;
}

static int clock_correct(long i)
{
	struct timex timex = {.modes = ADJ_FREQUENCY, .freq = i & 0xffff};

	return adjtimex(&timex) < 0;
}

static int nice_lower(long i)
{
	return setpriority(PRIO_PROCESS, 0, i & 1 ? -1 : -2);
}

static int nice_same(long i)
{
	(void)i;
	return setpriority(PRIO_PROCESS, 0, 0);
}

static int swap_off(long i)
{
	(void)i;
	swapoff("/swap");
	return 0;
}

static int ctrl_alt_del(long i)
{
	(void)i;
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, 0);
	return 0;
}

static int quota(long i)
{
	(void)i;
	quotactl(QCMD(Q_GETINFO, USRQUOTA), "/nothing", 0, 0);
	return 0;
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
	{"name", host_name, 0},          {"sysinfo", system_information, 0}, {"affinity", processors, 0},
	{"log-open", log_open, 0},     {"clock-read", clock_read, 0}, {"clock-correct", clock_correct, 0},
	{"nice-lower", nice_lower, 0},   {"nice-same", nice_same, 0},   {"swapoff", swap_off, 0},      {"reboot", ctrl_alt_del, 0},
	{"quota", quota, 0},
	{"null", null, 0},         {"whiteout", whiteout, 0},       {"get-user", get_user, 0}, {"set-user", set_user, 0},
	{"get-trusted", get_trusted, 0}, {"set-trusted", set_trusted, 0}, {"list", list, 0},   {"chown", own, 0},
	{"copy", copy, 1},
};

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
	printf("%lu\n", kind->mean ? begin / (unsigned long)count : median(took, count));
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
