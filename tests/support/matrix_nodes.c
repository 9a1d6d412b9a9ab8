/* Device nodes: whether they are made, and whether what was made can be opened. */
#include "matrix.h"

#include <sys/sysmacros.h>

#define TMPFS mount("none", "mnt", "tmpfs", 0, 0)

/* The node, its owner and mode, and what opening it says; 0 when that is "opens". */
static long node(const char *path, mode_t type, unsigned major, unsigned minor, int flags)
{
	struct stat status;
	int fd;

	if (mknod(path, type | 0640, makedev(major, minor)))
		return -1;
	MUST(lstat(path, &status));
	if (status.st_mode != (type | 0640) || status.st_rdev != makedev(major, minor) || status.st_uid || status.st_gid)
		return say("made, but as %o %u:%u of %u:%u", status.st_mode, major(status.st_rdev), minor(status.st_rdev),
			   status.st_uid, status.st_gid);
	MUST(chown(path, 1, 2));
	MUST(chmod(path, 0666));
	fd = open(path, flags | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return say("made, open %s", strerrorname_np(errno));
	return say("opens");
}

#define CHARACTER(name, major, minor) \
	PROBE("mknod " name) \
	{ \
		return node("node", S_IFCHR, major, minor, O_RDWR); \
	} \
	PROBE("mknod " name " on a tmpfs") \
	{ \
		MUST(TMPFS); \
		return node("mnt/node", S_IFCHR, major, minor, O_RDWR); \
	}
CHARACTER("null", 1, 3)
CHARACTER("zero", 1, 5)
CHARACTER("full", 1, 7)
CHARACTER("random", 1, 8)
CHARACTER("urandom", 1, 9)
CHARACTER("tty", 5, 0)
CHARACTER("fuse", 10, 229)
CHARACTER("net/tun", 10, 200)

/* Opening these says more of the place than of the node: a console may not be there, a ptmx wants a devpts beside it. */
PROBE("mknod console") { return mknod("node", S_IFCHR | 0600, makedev(5, 1)); }
PROBE("mknod ptmx") { return mknod("node", S_IFCHR | 0600, makedev(5, 2)); }

PROBE("mknod kmem") { return mknod("node", S_IFCHR | 0600, makedev(1, 2)); }
PROBE("mknod a disk") { return mknod("node", S_IFBLK | 0600, makedev(8, 0)); }
PROBE("mknod a block device with null's numbers") { return mknod("node", S_IFBLK | 0600, makedev(1, 3)); }
PROBE("mknod whiteout") { return mknod("node", S_IFCHR, 0); }
PROBE("mknod block 0:0") { return mknod("node", S_IFBLK, 0); }
PROBE("mknod fifo") { return mknod("node", S_IFIFO | 0600, 0); }
PROBE("mknod socket") { return mknod("node", S_IFSOCK | 0600, 0); }
PROBE("mknod file") { return mknod("node", S_IFREG | 0600, 0); }
PROBE("mknod directory") { return mknod("node", S_IFDIR | 0700, 0); }

PROBE("mknodat null")
{
	int at = open("mnt", O_PATH);

	MUST(at);
	return mknodat(at, "node", S_IFCHR | 0600, makedev(1, 3));
}

PROBE("null takes what is written")
{
	int fd;

	if (mknod("node", S_IFCHR | 0666, makedev(1, 3)))
		return -1;
	fd = open("node", O_WRONLY);
	MUST(fd);
	return write(fd, "x", 1) == 1 ? 0 : -1;
}

PROBE("a node on a tmpfs, renamed and removed")
{
	MUST(TMPFS);
	if (mknod("mnt/node", S_IFCHR | 0666, makedev(1, 3)))
		return -1;
	if (rename("mnt/node", "mnt/other"))
		return say("rename %s", strerrorname_np(errno));
	return unlink("mnt/other");
}

PROBE("a node, renamed and removed")
{
	if (mknod("node", S_IFCHR | 0666, makedev(1, 3)))
		return -1;
	MUST(rename("node", "other"));
	return unlink("other");
}

PROBE("mknod null on a nodev tmpfs")
{
	MUST(mount("none", "mnt", "tmpfs", MS_NODEV, 0));
	return node("mnt/node", S_IFCHR, 1, 3, O_RDWR);
}

PROBE("mknod null on a read-only tmpfs")
{
	MUST(mount("none", "mnt", "tmpfs", MS_RDONLY, 0));
	return mknod("mnt/node", S_IFCHR | 0600, makedev(1, 3));
}

/* In a user namespace below: nothing is lent to it. */
PROBE("mknod null in a nested user namespace")
{
	MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
	return mknod("node", S_IFCHR | 0600, makedev(1, 3));
}

PROBE("mknod null without CAP_MKNOD")
{
	MUST(chmod(".", 0777));
	MUST(setresuid(1, 1, 1));
	return mknod("node", S_IFCHR | 0600, makedev(1, 3));
}
