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
