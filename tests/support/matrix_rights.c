/* What needs a capability and is the kernel's in a user namespace: nothing here may be refused because of us. */
#include "matrix.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>

PROBE("sethostname")
{
	return sethostname("matrix", 6);
}

#define UNSHARE(what) \
	PROBE("unshare " #what) \
	{ \
		return unshare(CLONE_NEW##what); \
	}
UNSHARE(USER)
UNSHARE(NS)
UNSHARE(UTS)
UNSHARE(IPC)
UNSHARE(NET)
UNSHARE(PID)
UNSHARE(CGROUP)
UNSHARE(TIME)

PROBE("clone NEWUSER and NEWPID")
{
	long pid = syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	return pid < 0 ? -1 : waitpid((pid_t)pid, 0, 0) < 0 ? -1 : 0;
}

#define SETNS(what, name) \
	PROBE("setns of another " #name " namespace of its own making") \
	{ \
		int fd, own = open("/proc/self/ns/" #name, O_RDONLY); \
		MUST(own); \
		MUST(unshare(CLONE_NEW##what)); \
		fd = open("/proc/self/ns/" #name, O_RDONLY); \
		MUST(fd); \
		MUST(setns(own, CLONE_NEW##what)); \
		return setns(fd, CLONE_NEW##what); \
	}
SETNS(NS, mnt)
SETNS(UTS, uts)
SETNS(IPC, ipc)
SETNS(NET, net)
SETNS(CGROUP, cgroup)

PROBE("setns of one's own user namespace")
{
	int fd = open("/proc/self/ns/user", O_RDONLY);

	MUST(fd);
	return setns(fd, CLONE_NEWUSER);
}

PROBE("setns of one's own mount namespace")
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY);

	MUST(fd);
	return setns(fd, CLONE_NEWNS);
}

PROBE("pivot_root")
{
	MUST(mount("none", "mnt", "tmpfs", 0, 0));
	MUST(chdir("mnt"));
	return syscall(SYS_pivot_root, ".", ".");
}

PROBE("chroot")
{
	return chroot("mnt");
}

PROBE("keyctl: a session keyring")
{
	return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "matrix");
}

PROBE("add_key")
{
	return syscall(SYS_add_key, "user", "matrix", "x", 1ul, KEY_SPEC_PROCESS_KEYRING);
}

PROBE("keyctl: a key is read, described, linked and revoked")
{
	char text[64];
	long key = syscall(SYS_add_key, "user", "matrix", "x", 1ul, KEY_SPEC_PROCESS_KEYRING);

	MUST(key);
	MUST(syscall(SYS_keyctl, KEYCTL_READ, key, text, sizeof text));
	MUST(syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, text, sizeof text));
	MUST(syscall(SYS_keyctl, KEYCTL_SETPERM, key, 0x3f3f0000));
	MUST(syscall(SYS_keyctl, KEYCTL_LINK, key, KEY_SPEC_THREAD_KEYRING));
	return syscall(SYS_keyctl, KEYCTL_REVOKE, key);
}

PROBE("raw socket")
{
	return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

PROBE("SO_MARK")
{
	int mark = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);

	MUST(fd);
	return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark);
}

PROBE("SO_RCVBUFFORCE")
{
	int size = 1 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);

	MUST(fd);
	return setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
}

PROBE("SO_SNDBUFFORCE")
{
	int size = 1 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);

	MUST(fd);
	return setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
}

PROBE("packet socket")
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}

PROBE("io_uring_setup")
{
	char parameters[120] = {0};

	return syscall(SYS_io_uring_setup, 1, parameters);
}

PROBE("name_to_handle_at")
{
	struct {
		struct file_handle handle;
		char space[MAX_HANDLE_SZ];
	} here = {.handle.handle_bytes = MAX_HANDLE_SZ};
	int id;

	return name_to_handle_at(AT_FDCWD, "mnt", &here.handle, &id, 0);
}

PROBE("open_by_handle_at")
{
	struct {
		struct file_handle handle;
		char space[MAX_HANDLE_SZ];
	} here = {.handle.handle_bytes = MAX_HANDLE_SZ};
	int id, at = open(".", O_RDONLY);

	MUST(at);
	MUST(name_to_handle_at(AT_FDCWD, "mnt", &here.handle, &id, 0));
	return open_by_handle_at(at, &here.handle, O_RDONLY);
}

static struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
static struct sock_fprog program = {1, allow};

PROBE("a seccomp filter")
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

PROBE("a seccomp filter with a listener")
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* How libseccomp asks whether the flag is known: EFAULT is a yes. */
PROBE("whether the kernel knows listeners")
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, 0);
}

PROBE("a listener and thread synchronisation at once")
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC, &program);
}
