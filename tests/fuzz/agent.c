/* The agent's wire protocol: requests of every kind, sound and broken, to an agent in a kernel that answers as the input says.
 *
 * The kernel's model holds the agent to what its files promise: it is back where it started before it answers, holds nothing of a
 * request open, answers each request once, makes no call that its own filter would kill it for, walks no path of a container with
 * root's filesystem id, and attaches nothing without having asked whether the tracee still waits.
 *
 * An input is a row of requests. Each is a shape (see `shape_request`), then its strings; the model takes what it needs of
 * errors and facts from the bytes that follow.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <setjmp.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "../../interceptor/native/agent.h"

#define FDS 1024
#define STEPS_MAX 20000

void agent_main(void) __attribute__((noreturn));
long kernel_call(long number, long a, long b, long c, long d, long e, long f);
long sys_run_child(int (*child)(void *), void *argument);
void sys_harden(void);

enum space { HOST, STAGING, FOREIGN, NEW };

/* What a task has of its own; a child starts with a copy. */
struct task {
	enum space mount, uts, net, pid;
	bool in_user_namespace;
	uint32_t fsuid, fsgid;
};

static struct {
	struct input input;
	struct task task;
	bool open[FDS];
	enum space opened[FDS]; /* of a namespace's descriptor */
	unsigned depth, steps;
	struct sock_fprog filter;
	bool asked;             /* the last call was ID_VALID, and it was */
	bool begun, answered;
	struct agent_request request;
	struct agent_note note;
	jmp_buf over;
} kernel;

/* ---- requests ---- */

static size_t shape_request(struct input *input, char *message, size_t room, unsigned *fds)
{
	struct agent_request *request = (struct agent_request *)message;
	uint8_t shape = (uint8_t)take(input, 1);
	size_t text;

	if (shape == 0xff) { /* anything at all */
		*fds = (unsigned)take(input, 1);
		text = take(input, 2);
		return take_bytes(input, message, text < room ? text : room);
	}
	memset(request, 0, sizeof *request);
	request->version = AGENT_WIRE_VERSION + !!(shape & 0x80);
	request->op = (uint32_t)take(input, 1);
	request->cookie = kernel.request.cookie + 1;
	request->flags = (uint32_t)take(input, 2);
	request->fds = (uint32_t)take(input, 2);
	request->texts = (uint32_t)take(input, 2);
	*fds = (unsigned)__builtin_popcount(request->fds) + (shape & 0x40 ? (unsigned)take(input, 1) : 0);
	request->notification = shape & 1 ? 77 : 0;
	request->mount_flags = shape & 2 ? take(input, 4) : 0;
	request->unless_mount = shape & 4 ? take(input, 1) : 0;
	for (int i = 0; shape & 8 && i < 4; i++)
		request->number[i] = take(input, 3);
	request->capabilities = ~0ull;
	request->fsuid = request->fsgid = 100000 + (uint32_t)take(input, 1);
	request->root_uid = request->root_gid = 100000;
	request->id_count = 65536;
	if (shape & 16) {
		request->fsuid = (uint32_t)take(input, 4);
		request->root_uid = (uint32_t)take(input, 4);
		request->group_count = (uint32_t)take(input, 1);
		request->deadline_ms = (uint32_t)take(input, 2);
	}
	request->data_length = shape & 32 ? (uint32_t)take(input, 2) : 0;
	text = take(input, 2) & 0x3fff;
	text = take_bytes(input, message + sizeof *request, text < room - sizeof *request ? text : room - sizeof *request);
	request->text_length = (uint32_t)text;
	return sizeof *request + text;
}

static int new_fd(enum space space)
{
	int fd = 0;

	while (fd < FDS && kernel.open[fd])
		fd++;
	MUST(fd < FDS);
	kernel.open[fd] = true;
	kernel.opened[fd] = space;
	return fd;
}

static void check_at_rest(void)
{
	bool at_home = kernel.request.flags & AGENT_AT_HOME;

	MUST(kernel.task.mount == HOST || at_home);
	MUST(kernel.task.uts == HOST && kernel.task.net == HOST && kernel.task.pid == HOST);
	MUST(kernel.task.fsuid != 0);
}

static long receive(struct msghdr *header)
{
	struct agent_request *request = header->msg_iov->iov_base;
	unsigned fds = 0;
	size_t size, room = header->msg_iov->iov_len;

	MUST(!kernel.begun || kernel.answered);
	if (kernel.begun)
		check_at_rest();
	for (int fd = FIRST_FREE_FD; fd < FDS; fd++)
		MUST(!kernel.open[fd]);
	if (!kernel.input.left)
		return 0;
	kernel.begun = true;
	kernel.answered = false;
	size = shape_request(&kernel.input, (char *)request, room, &fds);
	kernel.request = (struct agent_request){.cookie = kernel.request.cookie};
	memcpy(&kernel.request, request, size < sizeof kernel.request ? size : sizeof kernel.request);
	header->msg_flags = 0;
	if (fds > 253)
		fds = 253; /* SCM_MAX_FD */
	if (CMSG_SPACE(fds * sizeof(int)) > header->msg_controllen) {
		header->msg_flags |= MSG_CTRUNC;
		fds = (unsigned)((header->msg_controllen - CMSG_LEN(0)) / sizeof(int));
	}
	if (fds) {
		struct cmsghdr *control = header->msg_control;

		control->cmsg_level = SOL_SOCKET;
		control->cmsg_type = SCM_RIGHTS;
		control->cmsg_len = CMSG_LEN(fds * sizeof(int));
		for (unsigned i = 0; i < fds; i++)
			((int *)CMSG_DATA(control))[i] = new_fd(FOREIGN);
		header->msg_controllen = control->cmsg_len;
	} else {
		header->msg_controllen = 0;
	}
	return (long)size;
}

static void check_reply(const struct agent_reply *reply)
{
	MUST(!kernel.answered);
	kernel.answered = true;
	MUST(reply->cookie == kernel.request.cookie);
	MUST(reply->error >= 0 && reply->error < 4096);
	MUST(reply->outcome <= AGENT_WANTS);
}

/* ---- the kernel ---- */

/* What the filter that the agent installed says of a call. It only loads, compares and returns. */
static void check_filter(long number)
{
	uint32_t accumulator = 0;

	for (unsigned at = 0; at < kernel.filter.len; at++) {
		const struct sock_filter *line = &kernel.filter.filter[at];

		switch (line->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			accumulator = line->k == offsetof(struct seccomp_data, nr) ? (uint32_t)number : 0xC000003Eu;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			at += accumulator == line->k ? line->jt : line->jf;
			break;
		case BPF_RET | BPF_K:
			MUST(line->k == SECCOMP_RET_ALLOW);
			return;
		default:
			abort();
		}
	}
}

static void must_be_open(long fd)
{
	MUST(fd == AT_FDCWD || (fd >= 0 && fd < FDS && kernel.open[fd]));
}

/* 0, or an errno of a few that the code tells apart. */
static long failure(void)
{
	static const uint8_t known[] = {EPERM, ENOENT, EINVAL, EACCES, ELOOP, EAGAIN, EBUSY, EEXIST, ENOTDIR, ENAMETOOLONG, ENOSYS, EINTR};
	uint8_t byte = (uint8_t)take(&kernel.input, 1);

	return byte < 0xb0 ? 0 : -known[byte % sizeof known];
}

static long opened(enum space space)
{
	long error = failure();

	return error ? error : new_fd(space);
}

static long enter(long fd, long type)
{
	enum space to;
	long error;

	must_be_open(fd);
	to = kernel.opened[fd];
	error = to == FOREIGN ? failure() : 0; /* back home is always possible */
	if (error)
		return error;
	switch (type) {
	case CLONE_NEWNS:
		kernel.task.mount = to;
		break;
	case CLONE_NEWUTS:
		kernel.task.uts = to;
		break;
	case CLONE_NEWNET:
		kernel.task.net = to;
		break;
	case CLONE_NEWPID:
		kernel.task.pid = to;
		break;
	default:
		MUST(type == CLONE_NEWUSER && kernel.depth);
		kernel.task.in_user_namespace = true;
	}
	return 0;
}

static long close_range_of(unsigned long first)
{
	MUST(first >= FIRST_FREE_FD);
	for (unsigned long fd = first; fd < FDS; fd++)
		kernel.open[fd] = false;
	return 0;
}

static long duplicate(long fd, long to)
{
	must_be_open(fd);
	MUST(to >= PROC_FD && to < FIRST_FREE_FD); /* what is kept */
	kernel.open[to] = true;
	kernel.opened[to] = kernel.opened[fd];
	return to;
}

static long walk(long fd, const char *path, const struct open_how *how, long size)
{
	must_be_open(fd);
	MUST(size == sizeof *how);
	MUST(how->resolve & RESOLVE_NO_MAGICLINKS || how->resolve & RESOLVE_BENEATH);
	if (!(how->resolve & RESOLVE_BENEATH))
		MUST(kernel.task.in_user_namespace || (kernel.task.fsuid && kernel.task.fsuid == kernel.request.fsuid));
	if (!*path)
		return -ENOENT;
	return opened(FOREIGN);
}

static long facts(long fd, const char *path, struct statx *found)
{
	static const uint16_t modes[] = {S_IFDIR | 0755, S_IFLNK | 0777, S_IFREG | 0644, S_IFCHR | 0600, S_IFDIR | 01777};
	uint8_t byte = (uint8_t)take(&kernel.input, 1);
	long error = failure();

	must_be_open(fd);
	MUST(strlen(path) < 4096);
	if (error)
		return error;
	memset(found, 0xa5, sizeof *found);
	found->stx_mode = modes[byte % 5];
	found->stx_attributes = byte & 0x80 ? STATX_ATTR_MOUNT_ROOT : 0;
	found->stx_mnt_id = byte >> 4;
	found->stx_ino = byte & 3;
	found->stx_uid = 100000u + (byte & 0x40 ? 70000 : 0);
	found->stx_gid = 100000u;
	return 0;
}

static long filesystem(long fd, struct statfs *found)
{
	static const unsigned types[] = {0x9fa0 /* proc */, 0x01021994 /* tmpfs */, 0xef53};
	uint8_t byte = (uint8_t)take(&kernel.input, 1);

	must_be_open(fd);
	memset(found, 0xa5, sizeof *found);
	found->f_type = types[byte % 3];
	found->f_flags = byte & 0x80 ? 0x2000 : byte & 0x40 ? 4 : 0;
	return failure();
}

/* Writes what there is of the input, at most `size` bytes; a count or an error. */
static long fill(void *to, long size)
{
	long length = (long)take(&kernel.input, 2), error = failure();

	MUST(size >= 0);
	if (error)
		return error;
	memset(to, 'x', (size_t)size);
	take_bytes(&kernel.input, to, (size_t)(length < size ? length : size));
	return length < size ? length : size;
}

static void readable(const void *from, long size)
{
	volatile uint8_t sum = 0;

	for (long i = 0; i < size; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)from)[i]);
}

static void text(const char *string)
{
	MUST(strlen(string) < sizeof(struct agent_request) + AGENT_TEXT_MAX);
}

static long configure(long fd, long command, const char *key, const char *value)
{
	must_be_open(fd);
	if (key) {
		text(key);
		MUST(*key);
	}
	if (command == 1 /* FSCONFIG_SET_STRING */)
		text(value);
	return failure();
}

static long attach_mount(long from, const char *from_path, long to, const char *to_path, unsigned long flags)
{
	const bool by_fds = !*from_path && !*to_path && (flags & 0x44) == 0x44;

	must_be_open(from);
	must_be_open(to);
	if (by_fds && kernel.task.mount != STAGING && kernel.request.op != AGENT_MAKE_NODE && kernel.request.notification)
		MUST(kernel.asked && kernel.note.cookie == kernel.request.cookie);
	return failure();
}

static long control(long fd, unsigned long command, const uint64_t *id)
{
	must_be_open(fd);
	MUST(command == SECCOMP_IOCTL_NOTIF_ID_VALID && *id == kernel.request.notification);
	if (take(&kernel.input, 1) & 0x80)
		return -ENOENT;
	kernel.asked = true;
	return 0;
}

static long set_fsid(uint32_t *id, uint32_t to)
{
	uint32_t before = *id;

	if (to != -1u)
		*id = to;
	return before;
}

static long send_reply(const struct msghdr *header)
{
	const struct cmsghdr *gift = header->msg_control;
	size_t count = (gift->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	MUST(count && count <= AGENT_GIVEN_MAX && header->msg_controllen == CMSG_SPACE(count * sizeof(int)));
	for (size_t i = 0; i < count; i++) {
		int fd = ((const int *)CMSG_DATA(gift))[i];

		must_be_open(fd);
		MUST(fd >= FIRST_FREE_FD);
	}
	readable(header->msg_iov->iov_base, (long)header->msg_iov->iov_len);
	check_reply(header->msg_iov->iov_base);
	return (long)header->msg_iov->iov_len;
}

static long work(long number, long a, long b, long c, long d, long e)
{
	switch (number) {
	case SYS_mmap:
		MUST(!kernel.begun && e == NOTE_FD && b == AGENT_NOTE_SIZE);
		return (long)&kernel.note;
	case SYS_recvmsg:
		MUST(a == LINK_FD);
		return receive((struct msghdr *)b);
	case SYS_sendto:
		MUST(a == LINK_FD);
		readable((const void *)b, c);
		check_reply((const struct agent_reply *)b);
		return c;
	case SYS_sendmsg:
		MUST(a == LINK_FD);
		return send_reply((const struct msghdr *)b);
	case SYS_close_range:
		return close_range_of((unsigned long)a);
	case SYS_close:
		must_be_open(a);
		MUST(a >= FIRST_FREE_FD || !kernel.begun);
		kernel.open[a] = false;
		return 0;
	case SYS_dup3:
		return duplicate(a, b);
	case SYS_setns:
		return enter(a, b);
	case SYS_unshare:
		if (a == CLONE_NEWNS)
			kernel.task.mount = kernel.task.mount == HOST && !kernel.depth ? STAGING : NEW;
		return 0;
	case SYS_openat:
		must_be_open(a);
		text((const char *)b);
		if (a == PROC_FD && !strncmp((const char *)b, "self/ns/", 8))
			return new_fd(kernel.task.mount);
		return !strcmp((const char *)b, "/proc") && !kernel.begun ? new_fd(HOST) : opened(FOREIGN);
	case SYS_openat2:
		text((const char *)b);
		return walk(a, (const char *)b, (const struct open_how *)c, d);
	case SYS_fsopen:
		text((const char *)a);
		return opened(FOREIGN);
	case SYS_fsmount:
		must_be_open(a);
		return opened(FOREIGN);
	case SYS_open_tree:
		must_be_open(a);
		text((const char *)b);
		return opened(FOREIGN);
	case SYS_fsconfig:
		return configure(a, b, (const char *)c, (const char *)d);
	case SYS_move_mount:
		text((const char *)b);
		text((const char *)d);
		return attach_mount(a, (const char *)b, c, (const char *)d, (unsigned long)e);
	case SYS_mount_setattr:
		must_be_open(a);
		readable((const void *)d, e);
		return failure();
	case SYS_statx:
		return facts(a, (const char *)b, (struct statx *)e);
	case SYS_fstatfs:
		return filesystem(a, (struct statfs *)b);
	case SYS_readlinkat:
		must_be_open(a);
		return fill((void *)c, d);
	case SYS_fgetxattr:
		must_be_open(a);
		/* fall through */
	case SYS_getxattr:
		text((const char *)b);
		return fill((void *)c, d);
	case SYS_flistxattr:
		must_be_open(a);
		/* fall through */
	case SYS_listxattr:
		return fill((void *)b, c);
	case SYS_fsetxattr:
		must_be_open(a);
		/* fall through */
	case SYS_setxattr:
		MUST(kernel.asked || !kernel.request.notification);
		text((const char *)b);
		readable((const void *)c, d);
		return failure();
	case SYS_fremovexattr:
		must_be_open(a);
		/* fall through */
	case SYS_removexattr:
		MUST(kernel.asked || !kernel.request.notification);
		text((const char *)b);
		return failure();
	case SYS_pread64:
		must_be_open(a);
		return fill((void *)b, c);
	case SYS_pwrite64:
		must_be_open(a);
		readable((const void *)b, c);
		return failure() ? -EIO : c;
	case SYS_mknodat:
	case SYS_mkdirat:
		must_be_open(a);
		text((const char *)b);
		MUST(!((const char *)b)[strcspn((const char *)b, "/") + strspn(strchrnul((const char *)b, '/'), "/")]); /* one name */
		return failure();
	case SYS_faccessat2:
	case SYS_fchdir:
		must_be_open(a);
		return failure();
	case SYS_sethostname:
	case SYS_setdomainname:
		MUST(kernel.task.uts == FOREIGN);
		readable((const void *)a, b);
		return failure();
	case SYS_setgroups:
		readable((const void *)b, a * (long)sizeof(uint32_t));
		return kernel.begun ? failure() : 0;
	case SYS_setfsuid:
		return set_fsid(&kernel.task.fsuid, (uint32_t)a);
	case SYS_setfsgid:
		return set_fsid(&kernel.task.fsgid, (uint32_t)a);
	case SYS_setresuid:
	case SYS_setresgid:
		MUST(kernel.depth); /* only a child gives its ids up */
		return failure();
	case SYS_capget:
		memset((void *)b, 0xff, 24);
		return 0;
	case SYS_capset:
		readable((const void *)b, 24);
		return 0;
	case SYS_ioctl:
		return control(a, (unsigned long)b, (const uint64_t *)c);
	case SYS_seccomp:
		kernel.filter = *(const struct sock_fprog *)c;
		return 0;
	case SYS_chroot:
	case SYS_mount:
	case SYS_umount2:
	case SYS_pivot_root:
		return failure();
	case SYS_umask:
	case SYS_prctl:
	case SYS_setitimer:
	case SYS_rt_sigaction:
	case SYS_rt_sigprocmask:
		return 0;
	default:
		fprintf(stderr, "system call %ld is not modelled\n", number);
		abort();
	}
}

long kernel_call(long number, long a, long b, long c, long d, long e, long f)
{
	const bool asked = kernel.asked;
	long result;

	(void)f;
	if (number == SYS_exit_group)
		longjmp(kernel.over, 1);
	MUST(++kernel.steps < STEPS_MAX);
	check_filter(number);
	result = work(number, a, b, c, d, e);
	if (asked)
		kernel.asked = number == SYS_ioctl && kernel.asked;
	return result;
}

long sys_run_child(int (*child)(void *), void *argument)
{
	const struct task before = kernel.task;
	long error = failure();

	if (error)
		return error;
	kernel.depth++;
	MUST(kernel.depth <= 2);
	child(argument);
	kernel.depth--;
	kernel.task = before;
	return 0;
}

void sys_harden(void)
{
}

/* ---- the agent's memory, as it was when it started ---- */

extern char first_data[], last_data[], first_bss[], last_bss[];

__attribute__((no_sanitize("address"), no_sanitize("undefined"))) static void copy(void *to, const void *from, size_t size)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void reset(void)
{
	static char *data, *bss;
	const size_t data_size = (size_t)(last_data - first_data), bss_size = (size_t)(last_bss - first_bss);

	if (!data) {
		MUST(data_size < 1 << 24 && bss_size < 1 << 24); /* in their order */
		data = malloc(data_size);
		bss = malloc(bss_size);
		copy(data, first_data, data_size);
		copy(bss, first_bss, bss_size);
	}
	copy(first_data, data, data_size);
	copy(first_bss, bss, bss_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	reset();
	memset(&kernel, 0, sizeof kernel);
	kernel.input = (struct input){data, size};
	for (int fd = 0; fd <= LINK_FD; fd++)
		kernel.open[fd] = true;
	kernel.open[NOTE_FD] = true;
	if (!setjmp(kernel.over))
		agent_main();
	return 0;
}
