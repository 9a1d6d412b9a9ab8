/* mount(2) of every type that needs nothing but itself. */
#include "matrix.h"

static long try_mount(const char *type, const char *options)
{
	return mount("none", "mnt", type, 0, options);
}

#define TYPE(type) \
	PROBE("mount " #type) \
	{ \
		return try_mount(#type, 0); \
	}
TYPE(proc)
TYPE(sysfs)
TYPE(tmpfs)
TYPE(ramfs)
TYPE(devpts)
TYPE(mqueue)
TYPE(cgroup2)
TYPE(devtmpfs)
TYPE(debugfs)
TYPE(tracefs)
TYPE(securityfs)
TYPE(bpf)
TYPE(hugetlbfs)
TYPE(pstore)
TYPE(fusectl)
TYPE(binfmt_misc)
TYPE(nonsense)

/* Layers of an overlay, and the overlay. */
static long overlay(const char *more)
{
	char options[256];

	MUST(mkdir("lower", 0755));
	MUST(mkdir("upper", 0755));
	MUST(mkdir("work", 0755));
	snprintf(options, sizeof options, "lowerdir=lower,upperdir=upper,workdir=work%s", more);
	return try_mount("overlay", options);
}

PROBE("mount overlay") { return overlay(""); }
PROBE("mount overlay userxattr") { return overlay(",userxattr"); }
PROBE("mount overlay metacopy=on") { return overlay(",metacopy=on"); }
PROBE("mount overlay redirect_dir=on") { return overlay(",redirect_dir=on"); }

/* "The mount worked" is no test of an overlay: an opaque directory is what fails later. */
PROBE("overlay, a directory removed and made again")
{
	MUST(mkdir("lower", 0755));
	MUST(mkdir("lower/one", 0755));
	MUST(mkdir("lower/one/two", 0755));
	MUST(mkdir("upper", 0755));
	MUST(mkdir("work", 0755));
	MUST(mount("none", "mnt", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"));
	MUST(rmdir("mnt/one/two"));
	MUST(rmdir("mnt/one"));
	MUST(mkdir("mnt/one", 0755));
	return access("mnt/one/two", F_OK) ? 0 : say("what was removed is back");
}

/* The same by descriptors: a detached mount of `type`. */
static long detached(const char *type)
{
	long fd = syscall(SYS_fsopen, type, 0);

	if (fd < 0)
		return -1;
	if (syscall(SYS_fsconfig, fd, 6 /* FSCONFIG_CMD_CREATE */, 0, 0, 0))
		return say("create %s", strerrorname_np(errno));
	fd = syscall(SYS_fsmount, fd, 0, 0);
	return fd < 0 ? say("fsmount %s", strerrorname_np(errno)) : fd;
}

static long attach(const char *type)
{
	long fd = detached(type);

	return fd <= 0 ? fd : syscall(SYS_move_mount, fd, "", AT_FDCWD, "mnt", 4 /* MOVE_MOUNT_F_EMPTY_PATH */);
}

PROBE("fsopen to move_mount: tmpfs") { return attach("tmpfs"); }
PROBE("fsopen to move_mount: proc") { return attach("proc"); }
PROBE("fsopen to move_mount: sysfs") { return attach("sysfs"); }

PROBE("open_tree of a clone, attached")
{
	long fd = syscall(SYS_open_tree, AT_FDCWD, "/proc/sys", 1 /* OPEN_TREE_CLONE */);

	return fd < 0 ? -1 : syscall(SYS_move_mount, fd, "", AT_FDCWD, "mnt", 4);
}

PROBE("mount_setattr read-only")
{
	struct {
		unsigned long long set, clear, propagation, userns;
	} attributes = {.set = 1 /* MOUNT_ATTR_RDONLY */};

	MUST(mount("none", "mnt", "tmpfs", 0, 0));
	return syscall(SYS_mount_setattr, AT_FDCWD, "mnt", 0, &attributes, sizeof attributes);
}

PROBE("bind")
{
	return mount("/proc/sys", "mnt", 0, MS_BIND, 0);
}

PROBE("remount read-only")
{
	MUST(mount("none", "mnt", "tmpfs", 0, 0));
	return mount(0, "mnt", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0);
}

PROBE("unmount of what was there at the start")
{
	return umount2("/proc", MNT_DETACH);
}
