/* mount(2) of every type that needs nothing but itself. */
#include "matrix.h"

#include <signal.h>

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

/* Of a device that is not there: whoever may not mount the type hears so first. */
TYPE(ext4)
TYPE(ext2)
TYPE(xfs)
TYPE(btrfs)
TYPE(squashfs)
TYPE(erofs)
TYPE(vfat)
TYPE(iso9660)

/* A hierarchy that is there: in a cgroup namespace nobody makes a new one. */
PROBE("mount cgroup, version 1")
{
	char line[256], *controllers, *end;
	FILE *own = fopen("/proc/self/cgroup", "r");

	while (own && fgets(line, sizeof line, own)) {
		controllers = strchr(line, ':') + 1;
		end = strchr(controllers, ':');
		*end = 0;
		if (*controllers && strncmp(controllers, "name=", 5))
			return try_mount("cgroup", controllers);
	}
	return say("there is none");
}

PROBE("mount cgroup, version 1, a new hierarchy")
{
	MUST(unshare(CLONE_NEWCGROUP));
	return try_mount("cgroup", "none,name=matrix");
}

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
PROBE("mount overlay volatile") { return overlay(",volatile"); }
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

/* A descriptor of a user namespace of a child's, in which its root is our root. */
static int users(void)
{
	char path[64];
	int fd, pipes[2];
	pid_t pid;

	if (pipe(pipes))
		return -1;
	pid = fork();
	if (pid == 0) {
		if (!unshare(CLONE_NEWUSER) && write(pipes[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(pipes[1]);
	if (read(pipes[0], path, 1) != 1)
		return -1;
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, i ? "gid_map" : "uid_map");
		fd = open(path, O_WRONLY);
		if (fd < 0 || write(fd, "0 0 1", 5) != 5)
			return -1;
		close(fd);
	}
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	fd = open(path, O_RDONLY);
	kill(pid, SIGKILL);
	waitpid(pid, 0, 0);
	return fd;
}

/* Of a clone of the mount at `path`. */
static long idmap(const char *path)
{
	struct {
		unsigned long long set, clear, propagation, userns;
	} attributes = {.set = 0x100000 /* MOUNT_ATTR_IDMAP */};
	long tree = syscall(SYS_open_tree, AT_FDCWD, path, 1 /* OPEN_TREE_CLONE */);
	int fd = users();

	MUST(tree);
	MUST(fd);
	attributes.userns = (unsigned long long)fd;
	return syscall(SYS_mount_setattr, tree, "", 0x1000 /* AT_EMPTY_PATH */, &attributes, sizeof attributes);
}

PROBE("mount_setattr with an id map, of a tmpfs of one's own")
{
	MUST(mount("none", "mnt", "tmpfs", 0, 0));
	return idmap("mnt");
}

PROBE("mount_setattr with an id map, of a directory") { return idmap("."); }
PROBE("mount_setattr with an id map, of proc") { return idmap("/proc"); }

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
