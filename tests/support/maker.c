/* maker ID PATH: makes a null device at PATH as user and group ID with no capability but CAP_MKNOD (0: with all that there
 * are), under umask 027, and prints what came of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int become(unsigned id)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{.effective = 1u << CAP_MKNOD, .permitted = 1u << CAP_MKNOD}};

	return prctl(PR_SET_KEEPCAPS, 1) || setgroups(0, 0) || setresgid(id, id, id) || setresuid(id, id, id) ||
	       syscall(SYS_capset, &header, data);
}

int main(int argc, char **argv)
{
	struct stat status;

	if (argc != 3 || (atoi(argv[1]) && become((unsigned)atoi(argv[1])))) {
		perror("maker ID PATH");
		return 2;
	}
	umask(027);
	if (mknod(argv[2], S_IFCHR | 0666, makedev(1, 3)))
		puts(strerrorname_np(errno));
	else if (lstat(argv[2], &status) == 0)
		printf("%o %u:%u %lx\n", status.st_mode, status.st_uid, status.st_gid, (unsigned long)status.st_rdev);
	else
		printf("made, stat %s\n", strerrorname_np(errno));
	return 0;
}
