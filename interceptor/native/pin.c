#include "pin.h"
#include "notify.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027
#endif
#define PAGE 4096u
#define DEPTH 33 /* user namespaces nest at most 32 deep (user_namespaces(7)) */

/* Bytes from `address` to the end of its page, or `limit` if that is less. */
static uint32_t to_page_end(uint64_t address, uint32_t limit)
{
	uint32_t rest = PAGE - (uint32_t)(address % PAGE);

	return rest < limit ? rest : limit;
}

/* How much of the piece is there now, or -1 while it may go on beyond the `done` bytes that were copied. */
static int32_t whole(const struct ic_piece *piece, const char *copy, uint32_t done)
{
	const char *nul = piece->terminated ? memchr(copy, 0, done) : 0;

	if (nul)
		return (int32_t)(nul - copy) + 1;
	return done == piece->limit ? (int32_t)done : -1;
}

/* Copies on, page by page, so that a string that ends before an unmapped page is whole. */
static int32_t copy_on(uint32_t tid, const struct ic_piece *piece, char *to, uint32_t done)
{
	for (;;) {
		uint32_t chunk = to_page_end(piece->address + done, piece->limit - done);
		struct iovec local = {to + done, chunk}, remote = {(void *)(uintptr_t)(piece->address + done), chunk};
		int32_t length = whole(piece, to, done);
		ssize_t n;

		if (length >= 0)
			return length;
		n = process_vm_readv((pid_t)tid, &local, 1, &remote, 1, 0);
		if (n <= 0)
			return done ? (int32_t)done : -1;
		done += (uint32_t)n;
	}
}

#define FIRST 256u /* most strings are whole after so much */

/* The beginnings of all pieces in one call, the rest of the few that go on one by one. The kernel stops at the first
 * piece that cannot be read: those behind it are then read alone, too. */
void ic_pin_copy(uint32_t tid, struct ic_piece *pieces, int count, char *buffer, uint32_t size)
{
	struct iovec local[IC_PIECES] = {0}, remote[IC_PIECES] = {0};
	uint32_t used = 0;
	ssize_t copied;

	for (int i = 0; i < count; i++) {
		struct ic_piece *piece = &pieces[i];
		uint32_t first;

		piece->offset = used;
		if (piece->limit > size - used)
			piece->limit = size - used;
		first = to_page_end(piece->address, piece->limit < FIRST ? piece->limit : FIRST);
		local[i] = (struct iovec){buffer + used, first};
		remote[i] = (struct iovec){(void *)(uintptr_t)piece->address, first};
		used += piece->limit;
	}
	copied = process_vm_readv((pid_t)tid, local, (unsigned long)count, remote, (unsigned long)count, 0);
	for (int i = 0; i < count; i++) {
		ssize_t there = copied < 0 ? 0 : copied < (ssize_t)local[i].iov_len ? copied : (ssize_t)local[i].iov_len;

		pieces[i].length = copy_on(tid, &pieces[i], buffer + pieces[i].offset, (uint32_t)there);
		copied -= there;
	}
}

uint64_t ic_pin_effective(uint32_t tid)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, (int)tid};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		return 0;
	return (uint64_t)data[1].effective << 32 | data[0].effective;
}

#define COMM_AGE 10000000u /* ns: how old a thread's name may be in the trace; a loop of calls is not asked each time */

static void read_comm(struct ic_pin *pin, uint32_t tid)
{
	struct timespec t;
	uint64_t now;
	ssize_t n;
	int fd;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	if (pin->comm_tid == tid && now - pin->comm_time < COMM_AGE)
		return;
	fd = openat(pin->proc, "comm", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, pin->comm, sizeof pin->comm);
	if (fd >= 0)
		close(fd);
	pin->comm[n > 0 ? n - 1 : 0] = 0; /* the kernel ends it with a newline */
	pin->comm_tid = tid;
	pin->comm_time = now;
}

int ic_pin(int notifier, uint64_t id, uint32_t tid, struct ic_pin *pin, struct ic_piece *pieces, int count, char *buffer, uint32_t size)
{
	char path[32];
	struct stat st;
	int error;

	snprintf(path, sizeof path, "/proc/%u", tid);
	pin->proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pin->proc < 0)
		return errno == ENOENT || errno == ESRCH ? -ENOENT : -errno;
	pin->owner = fstat(pin->proc, &st) < 0 ? 0 : st.st_uid;
	pin->cap_effective = ic_pin_effective(tid);
	pin->user_namespace = ic_pin_inode(pin->proc, "ns/user");
	pin->mount_namespace = ic_pin_inode(pin->proc, "ns/mnt");
	read_comm(pin, tid);
	ic_pin_copy(tid, pieces, count, buffer, size);
	error = ic_id_valid(notifier, id);
	if (error) {
		close(pin->proc);
		pin->proc = -1;
	}
	return error;
}

int ic_pin_open(int proc, const char *name, int path_only)
{
	int fd = openat(proc, name, (path_only ? O_PATH : O_RDONLY) | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

uint64_t ic_pin_inode(int proc, const char *name)
{
	struct stat st;

	return fstatat(proc, name, &st, 0) < 0 ? 0 : st.st_ino;
}

/* struct procmap_query and PROCMAP_QUERY (linux/fs.h), by names of their own: headers before 6.11 lack them. */
struct query {
	uint64_t size, flags, address, start, end, found, page_size, offset, inode;
	uint32_t major, minor, name_size, build_id_size;
	uint64_t name, build_id;
};
#define QUERY _IOWR('f', 17, struct query)
#define READABLE 1
#define WRITABLE 2

int ic_pin_mapped(int maps, uint64_t address, uint64_t length, int write)
{
	uint64_t end = address + length;

	if (end < address)
		return -EFAULT;
	while (address < end) {
		struct query query = {.size = sizeof query, .flags = write ? WRITABLE : READABLE, .address = address};

		if (ioctl(maps, QUERY, &query) < 0)
			return errno == ENOTTY ? -ENOTTY : -EFAULT;
		address = query.end;
	}
	return 0;
}

int ic_pin_getfd(int proc, uint32_t tid, int fd)
{
	int result, saved, pidfd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	struct stat st;

	if (pidfd < 0) /* before 6.9 only a thread group leader has a pidfd */
		pidfd = (int)syscall(SYS_pidfd_open, tid, 0);
	if (pidfd < 0)
		return -errno;
	/* The number was used once more: only if the pinned task still lives now was it its own when the pidfd was opened. */
	if (fstatat(proc, "ns/user", &st, 0) < 0) {
		close(pidfd);
		return -ESRCH;
	}
	result = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	saved = errno;
	close(pidfd);
	return result < 0 ? -saved : result;
}

int ic_same_file(int one, int other)
{
	int same = fcntl(one, F_DUPFD_QUERY, other);

	if (same >= 0 || errno != EINVAL)
		return same > 0;
	return ic_is_file_of((uint32_t)getpid(), other, one);
}

int ic_is_file_of(uint32_t tid, int number, int fd)
{
	return syscall(SYS_kcmp, getpid(), (pid_t)tid, KCMP_FILE, fd, number) == 0;
}

int ic_pin_capable(int proc, const char *name, uint64_t cap_effective, int cap, uint32_t euid)
{
	uint64_t own = ic_pin_inode(proc, "ns/user");
	int raised = (int)(cap_effective >> cap & 1);
	int result = 0, depth = 0, here, ns = ic_pin_open(proc, name, 0);

	if (ns < 0)
		return ns;
	here = ioctl(ns, NS_GET_USERNS);
	close(ns);
	if (here < 0)
		return -errno;
	for (; depth < DEPTH; depth++) {
		struct stat st;
		uid_t owner;
		int parent;

		if (fstat(here, &st) == 0 && st.st_ino == own) {
			result = raised;
			break;
		}
		parent = ioctl(here, NS_GET_PARENT);
		if (parent < 0) /* EPERM: the host's own user namespace has none */
			break;
		/* Who created a user namespace from the namespace above owns it with all capabilities. */
		if (fstat(parent, &st) == 0 && st.st_ino == own && ioctl(here, NS_GET_OWNER_UID, &owner) == 0 && owner == euid) {
			close(parent);
			result = 1;
			break;
		}
		close(here);
		here = parent;
	}
	close(here);
	return result;
}

long ic_cpumask_size(void)
{
	unsigned long mask[1 << 10]; /* 65,536 CPUs */

	return syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
}

int ic_clock(struct timex *timex)
{
	memset(timex, 0, sizeof *timex);
	int state = adjtimex(timex);

	return state < 0 ? -errno : state;
}
