/* What the kernel keeps from a container's root, and what it lets it have all the same: rights that are not lent. */
#include "matrix.h"

#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timex.h>

PROBE("bpf: a map")
{
	union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};

	return syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
}

PROBE("perf_event_open of every process on a processor")
{
	struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .config = PERF_COUNT_SW_CPU_CLOCK};

	return syscall(SYS_perf_event_open, &attributes, -1, 0, -1, 0);
}

PROBE("userfaultfd with faults of the kernel")
{
	return syscall(SYS_userfaultfd, 0);
}

PROBE("fanotify: a mark on a mount")
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);

	MUST(fd);
	return fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, AT_FDCWD, ".");
}

PROBE("an immutable file")
{
	int flags, fd = open("file", O_RDWR | O_CREAT, 0600);

	MUST(fd);
	MUST(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_IMMUTABLE_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		return -1;
	flags &= ~FS_IMMUTABLE_FL;
	return ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

PROBE("setpriority -5")
{
	return setpriority(PRIO_PROCESS, 0, -5);
}

PROBE("SCHED_FIFO")
{
	const struct sched_param one = {.sched_priority = 1};

	return sched_setscheduler(0, SCHED_FIFO, &one);
}

PROBE("adjtimex that only reads")
{
	struct timex nothing = {0};

	return adjtimex(&nothing) < 0 ? -1 : 0;
}

/* Opening for writing is where permission is asked; nothing is written. */
#define SYSCTL(name) \
	PROBE("sysctl " name) \
	{ \
		return open("/proc/sys/" name, O_WRONLY); \
	}
SYSCTL("kernel/shmmax")
SYSCTL("kernel/msgmax")
SYSCTL("kernel/sem")
SYSCTL("fs/mqueue/msg_max")
SYSCTL("user/max_user_namespaces")
SYSCTL("net/ipv4/ip_forward")
SYSCTL("kernel/core_pattern")
SYSCTL("kernel/threads-max")
SYSCTL("kernel/keys/maxkeys")
SYSCTL("fs/inotify/max_user_watches")
