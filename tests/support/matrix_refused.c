/* What the kernel keeps from a container's root, and what it lets it have all the same: rights that are not lent. */
#include "matrix.h"

#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/perf_event.h>
#include <sys/fanotify.h>
#include <sys/io.h>
#include <sys/ioctl.h>

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

PROBE("a file that can only be appended to")
{
	int flags, fd = open("file", O_RDWR | O_CREAT, 0600);

	MUST(fd);
	MUST(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_APPEND_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		return -1;
	flags &= ~FS_APPEND_FL;
	return ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

PROBE("a file that is not dumped: a flag for everybody")
{
	int flags, fd = open("file", O_RDWR | O_CREAT, 0600);

	MUST(fd);
	MUST(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_NODUMP_FL;
	return ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

PROBE("fanotify: a mark on a directory")
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);

	MUST(fd);
	return fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, "mnt");
}

PROBE("fanotify that asks for permission")
{
	return fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
}

PROBE("userfaultfd, faults of the program alone")
{
	return syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
}

PROBE("perf_event_open of itself")
{
	struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .config = PERF_COUNT_SW_TASK_CLOCK};

	attributes.exclude_kernel = 1;
	return syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

PROBE("bpf: a socket filter")
{
	struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (unsigned long)code, .license = (unsigned long)"GPL"};

	return syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
}

PROBE("ioperm")
{
	return ioperm(0x80, 1, 1);
}

PROBE("iopl")
{
	return iopl(3);
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
SYSCTL("kernel/pid_max")
SYSCTL("kernel/ns_last_pid")
SYSCTL("fs/mqueue/msg_max")
SYSCTL("user/max_user_namespaces")
SYSCTL("net/ipv4/ip_forward")
SYSCTL("net/core/somaxconn")
SYSCTL("net/core/rmem_max")
SYSCTL("kernel/hostname")
SYSCTL("kernel/domainname")
SYSCTL("kernel/panic")
SYSCTL("kernel/printk")
SYSCTL("kernel/kptr_restrict")
SYSCTL("kernel/core_pattern")
SYSCTL("kernel/threads-max")
SYSCTL("kernel/keys/maxkeys")
SYSCTL("fs/inotify/max_user_watches")
SYSCTL("fs/file-max")
SYSCTL("fs/nr_open")
SYSCTL("fs/protected_hardlinks")
SYSCTL("vm/overcommit_memory")
