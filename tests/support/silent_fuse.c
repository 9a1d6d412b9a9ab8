/* Mounts a FUSE filesystem that never answers at /mnt, and has COUNT processes ask again and again for mounts below it.
 * usage: silent_fuse SECONDS COUNT. The node of /dev/fuse is made here, where the container may make one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char options[128];
	int fd;

	if (argc != 3)
		return 2;
	if (mknod("/dev/fuse", S_IFCHR | 0666, makedev(10, 229)) && errno != EEXIST)
		return perror("mknod /dev/fuse"), 1;
	fd = open("/dev/fuse", O_RDWR);
	if (fd < 0)
		return perror("open /dev/fuse"), 1;
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("silent", "/mnt", "fuse", 0, options))
		return perror("mount"), 1;
	printf("mounted\n");
	fflush(stdout);
	for (int i = atoi(argv[2]); i > 0; i--)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				mount("none", "/mnt/x/y", "proc", 0, NULL);
		}
	sleep((unsigned)atoi(argv[1]));
	return 0;
}
