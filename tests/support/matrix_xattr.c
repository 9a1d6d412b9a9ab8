/* Extended attributes: what is set is read, listed and removed, and what is not the container's is not touched. */
#include "matrix.h"

#include <sys/xattr.h>

static long file(void)
{
	return mknod("file", S_IFREG | 0644, 0);
}

/* Sets, reads, lists and removes NAME on PATH: "agree", or where they do not. */
static long round_trip(const char *path, const char *name)
{
	char value[16], names[1024];
	ssize_t size, length;
	int listed = 0;

	if (lsetxattr(path, name, "value", 5, XATTR_CREATE))
		return -1;
	size = lgetxattr(path, name, value, sizeof value);
	if (size != 5 || memcmp(value, "value", 5))
		return say("set, get %s", size < 0 ? strerrorname_np(errno) : "something else");
	length = llistxattr(path, names, sizeof names);
	for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1)
		listed |= !strcmp(names + at, name);
	if (!listed)
		return say("set, not listed");
	if (lsetxattr(path, name, "other", 5, XATTR_CREATE) == 0 || errno != EEXIST)
		return say("set, and created again");
	if (lremovexattr(path, name))
		return say("set, remove %s", strerrorname_np(errno));
	if (lgetxattr(path, name, value, sizeof value) >= 0 || errno != ENODATA)
		return say("removed, and still there");
	return say("agree");
}

#define NAME(name) \
	PROBE(name) \
	{ \
		MUST(file()); \
		return round_trip("file", name); \
	}
NAME("trusted.matrix")
NAME("trusted.overlay.opaque")
NAME("user.matrix")
NAME("security.matrix")
NAME("nonsense.matrix")

PROBE("trusted. alone")
{
	MUST(file());
	return setxattr("file", "trusted.", "x", 1, 0);
}

PROBE("trusted.matrix on a directory")
{
	return round_trip("mnt", "trusted.matrix");
}

PROBE("trusted.matrix on a symbolic link")
{
	MUST(symlink("nowhere", "link"));
	return round_trip("link", "trusted.matrix");
}

PROBE("trusted.matrix on a tmpfs")
{
	MUST(mount("none", "mnt", "tmpfs", 0, 0));
	return round_trip("mnt", "trusted.matrix");
}

PROBE("trusted.matrix by a path that follows, and by descriptor")
{
	char value[8];
	int fd;

	MUST(file());
	MUST(symlink("file", "link"));
	fd = open("file", O_RDWR);
	MUST(fd);
	if (setxattr("link", "trusted.matrix", "a", 1, 0) || fgetxattr(fd, "trusted.matrix", value, 8) != 1)
		return -1;
	if (fsetxattr(fd, "trusted.matrix", "bc", 2, XATTR_REPLACE) || getxattr("link", "trusted.matrix", 0, 0) != 2)
		return -1;
	if (flistxattr(fd, 0, 0) < 15)
		return say("not listed");
	return fremovexattr(fd, "trusted.matrix");
}

PROBE("trusted.matrix by a descriptor that is only a path")
{
	int fd;

	MUST(file());
	fd = open("file", O_PATH);
	MUST(fd);
	return fsetxattr(fd, "trusted.matrix", "a", 1, 0);
}

PROBE("trusted.matrix by the path of such a descriptor")
{
	char path[32];
	int fd;

	MUST(file());
	fd = open("file", O_PATH);
	MUST(fd);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return setxattr(path, "trusted.matrix", "a", 1, 0);
}

PROBE("a value that does not fit")
{
	char value[2];

	MUST(file());
	if (setxattr("file", "trusted.matrix", "abc", 3, 0))
		return -1;
	return getxattr("file", "trusted.matrix", value, sizeof value);
}

PROBE("a value of 3000 bytes")
{
	static char value[3000], copy[3000];

	MUST(file());
	memset(value, 'v', sizeof value);
	if (setxattr("file", "trusted.matrix", value, sizeof value, 0))
		return -1;
	if (getxattr("file", "trusted.matrix", copy, sizeof copy) != sizeof copy)
		return say("read less");
	return memcmp(value, copy, sizeof copy) ? say("read something else") : 0;
}

PROBE("trusted.matrix on a read-only mount")
{
	MUST(mkdir("mnt/x", 0755));
	MUST(mount("mnt", "mnt", 0, MS_BIND, 0));
	MUST(mount(0, "mnt", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0));
	return setxattr("mnt/x", "trusted.matrix", "a", 1, 0);
}

PROBE("trusted.matrix in a nested user namespace")
{
	MUST(file());
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
	return setxattr("file", "trusted.matrix", "a", 1, 0);
}

PROBE("trusted.matrix without CAP_SYS_ADMIN")
{
	MUST(file());
	MUST(chown("file", 1, 1));
	MUST(setresuid(1, 1, 1));
	return setxattr("file", "trusted.matrix", "a", 1, 0);
}

/* Through procfs, whose "self" is another for whoever helps. */
PROBE("a list by the way of /proc/self")
{
	MUST(llistxattr("/proc/self/root", 0, 0));
	return listxattr("/proc/self/status", 0, 0) < 0 ? -1 : 0;
}

PROBE("security.capability")
{
	const unsigned capabilities[5] = {0x02000001 /* VFS_CAP_REVISION_2, effective */, 1 << 13 /* CAP_NET_RAW */};

	MUST(file());
	return setxattr("file", "security.capability", capabilities, sizeof capabilities, 0);
}

PROBE("io_uring_setup where attributes are intercepted")
{
	char parameters[120] = {0};

	return syscall(SYS_io_uring_setup, 1, parameters);
}
