/* chown(2) of what is the container's and of what is not. */
#include "matrix.h"

PROBE("chown of a file of one's own")
{
	struct stat status;

	MUST(mknod("file", S_IFREG | 0644, 0));
	if (chown("file", 1, 2))
		return -1;
	MUST(stat("file", &status));
	return status.st_uid == 1 && status.st_gid == 2 ? 0 : say("no effect");
}

#define CHOWN(path) \
	PROBE("chown " path) \
	{ \
		return chown(path, 0, 0); \
	} \
	PROBE("lchown " path) \
	{ \
		return lchown(path, 0, 0); \
	}
CHOWN("/sys/kernel")
CHOWN("/proc/sys")
CHOWN("/proc/self/status")
CHOWN("/sys/nowhere")

PROBE("fchownat /sys/kernel")
{
	return fchownat(AT_FDCWD, "/sys/kernel", 0, 0, AT_SYMLINK_NOFOLLOW);
}

PROBE("fchownat /sys/kernel without changing anything")
{
	return fchownat(AT_FDCWD, "/sys/kernel", (uid_t)-1, (gid_t)-1, 0);
}

PROBE("fchownat with flags that are none")
{
	return fchownat(AT_FDCWD, "/sys/kernel", 0, 0, 1);
}

PROBE("chown /sys/kernel in a nested user namespace")
{
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
	return chown("/sys/kernel", 0, 0);
}

PROBE("chown /sys/kernel without CAP_CHOWN")
{
	MUST(setresuid(1, 1, 1));
	return chown("/sys/kernel", 1, 1);
}
