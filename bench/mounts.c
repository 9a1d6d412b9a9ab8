/* What bench/mounts.py runs inside a container: KIND COUNT: mounts and unmounts COUNT times below /tmp, and prints the
 * median duration of mount(2) and of umount2(2) in nanoseconds. For overlay, /layers/{lower,upper,work} are its layers. */
#define _GNU_SOURCE
#include "timing.h"

#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define LAYERS "lowerdir=/layers/lower,upperdir=/layers/upper,workdir=/layers/work"

static const struct kind {
	const char *name, *type, *data;
} kinds[] = {
	{"tmpfs", "tmpfs", "size=4k"},
	{"stand-in", "debugfs", ""},
	{"proc", "proc", ""},
	{"sysfs", "sysfs", ""},
	{"overlay", "overlay", LAYERS},
	{"overlay-userxattr", "overlay", LAYERS ",userxattr"},
};

static int measure(const struct kind *kind, long count)
{
	unsigned *mounting = calloc((size_t)count, sizeof *mounting), *unmounting = calloc((size_t)count, sizeof *unmounting);
	long i;

	mkdir("/tmp/target", 0755);
	for (i = 0; i < count; i++) {
		unsigned long start = now(), between;

		if (mount(kind->name, "/tmp/target", kind->type, 0, kind->data) < 0) {
			perror(kind->name);
			return 1;
		}
		between = now();
		if (umount2("/tmp/target", 0) < 0) {
			perror("umount2");
			return 1;
		}
		mounting[i] = (unsigned)(between - start);
		unmounting[i] = (unsigned)(now() - between);
	}
	printf("%u %u\n", median(mounting, count), median(unmounting, count));
	return 0;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 3 && i < sizeof kinds / sizeof *kinds; i++)
		if (!strcmp(kinds[i].name, argv[1]))
			return measure(&kinds[i], atol(argv[2]));
	fputs("usage: mounts KIND COUNT\n", stderr);
	return 2;
}
