/* Child processes, and four things that they must be given: clocks that start at zero, a /dev/null of their own, how far
 * they may lower their oom_score_adj, and which system calls they have not.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

void become(char *const *argv)
{
	execv(argv[0], argv);
	fail("cannot execute %s: %s", argv[0], strerror(errno));
}

/* ---- children ---- */

/* sd_listen_fds(3): LISTEN_PID names who may take the fds; whoever runs in our place is meant where we are. */
static void hand_on_listen_fds(pid_t parent)
{
	const char *value = getenv("LISTEN_PID");
	if (value && atol(value) == parent)
		setenv("LISTEN_PID", format("%d", getpid()), 1);
}

static sigset_t first_mask;

void remember_signal_mask(void)
{
	sigprocmask(SIG_BLOCK, NULL, &first_mask);
}

pid_t launch(char *const *argv, const struct oom_score *score, const struct absent_calls *absent)
{
	pid_t parent = getpid();
	pid_t child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child > 0)
		return child;
	/* Engines kill what they started by killing us (go-runc sets our own PDEATHSIG). */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(128 + SIGKILL);
	hand_on_listen_fds(parent);
	sigprocmask(SIG_SETMASK, &first_mask, NULL);
	if (score && !oom_score_take(score))
		complain("/proc/self/oom_score_adj %ld: %s", score->value, strerror(errno));
	else if (absent && !absent_install(absent))
		complain("a seccomp filter: %s", strerror(errno));
	else
		execv(argv[0], argv);
	complain("cannot execute %s: %s", argv[0], strerror(errno));
	_exit(127);
}

int exit_status(int wait_status)
{
	return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

static int wait_for(pid_t child)
{
	int status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid: %s", strerror(errno));
	return exit_status(status);
}

int run_and_wait(char *const *argv, const char *clock_of)
{
	int host = clock_of ? open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC) : -1;
	if (host >= 0)
		time_namespace_of(clock_of);
	pid_t child = launch(argv, NULL, NULL);
	time_namespace_restore(host);
	return wait_for(child);
}

int run_silently(char *const *argv)
{
	pid_t child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child > 0)
		return wait_for(child);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	execv(argv[0], argv);
	_exit(127);
}

pid_t read_pid_file(const char *path)
{
	long pid;
	char *end, *text = read_file(path, NULL);
	if (!text)
		return -1;
	pid = strtol(text, &end, 10);
	return end != text && pid > 1 && pid < (1L << 31) ? (pid_t)pid : -1;
}

/* ---- time namespaces ---- */

#define SECOND 1000000000ll
#define BEGINNING (SECOND / 20)

/* What /proc/self/timens_offsets says of a clock, in ns. Our own namespace may already be off the first one's. */
static long long offset_now(const char *offsets, const char *clock)
{
	const char *line = offsets ? strstr(offsets, clock) : NULL;
	char *rest;
	long long seconds = line ? strtoll(line + strlen(clock), &rest, 10) : 0;
	return line ? seconds * SECOND + strtoll(rest, NULL, 10) : 0;
}

/* The line that has a clock begin anew: at a twentieth of a second, not at 0, because a process that starts in the first clock
 * tick has the start time 0, which crun takes for one that it does not know. What it does not know it takes for running, also
 * when init is a zombie, and does not delete.
 */
static const char *anew(const char *offsets, const char *name, clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	long long offset = offset_now(offsets, name) - (now.tv_sec * SECOND + now.tv_nsec) + BEGINNING;
	long long nanoseconds = ((offset % SECOND) + SECOND) % SECOND;
	return format("%s %lld %lld\n", name, (offset - nanoseconds) / SECOND, nanoseconds);
}

/* Offsets count from the first time namespace's clocks (kernel/time/namespace.c, proc_timens_set_offset()). */
int time_namespace_new(void)
{
	static const char path[] = "/proc/self/timens_offsets";
	char *offsets = read_file(path, NULL);
	int host = open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC);
	if (!offsets || host < 0 || unshare(CLONE_NEWTIME) < 0)
		return -1;
	const char *wanted = format("%s%s", anew(offsets, "monotonic", CLOCK_MONOTONIC), anew(offsets, "boottime", CLOCK_BOOTTIME));
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, wanted, strlen(wanted)) != (ssize_t)strlen(wanted))
		fail("%s: %s", path, strerror(errno));
	close(fd);
	return host;
}

void time_namespace_restore(int fd)
{
	if (fd >= 0 && setns(fd, CLONE_NEWTIME) < 0)
		fail("cannot return to the host's time namespace: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

void time_namespace_join(pid_t pid)
{
	int fd = open(format("/proc/%d/ns/time", pid), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* no such process any more, or a kernel without time namespaces */
	if (setns(fd, CLONE_NEWTIME) < 0)
		fail("cannot enter the time namespace of process %d: %s", pid, strerror(errno));
	close(fd);
}

/* runc and crun recognise a container's init by its start time in /proc/PID/stat, which the kernel shows on the *reader's*
 * clock (fs/proc/array.c, do_task_stat()). The runtime that created the container ran on the container's clock, so each
 * later one must, or it takes a running container for a stopped one. Hence init's pid stands in the record: if that
 * process is gone, the runtime finds it gone on any clock.
 */
static const char *init_path(const char *id)
{
	return format("%s/init", container_directory(id));
}

void time_namespace_remember(const char *id, pid_t pid)
{
	const char *path = init_path(id);
	char *text = format("%d\n", pid);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		complain("%s: %s; later commands will take the container for a stopped one", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void time_namespace_of(const char *id)
{
	pid_t pid = read_pid_file(init_path(id));
	if (pid > 0)
		time_namespace_join(pid);
}

/* ---- a program that is being executed ---- */

#define PROGRAM_MS 5000 /* that a slow disk may take to give a program */
#define LOOK_MS 2

/* setns(2) with init's pidfd wants ptrace access to init (kernel/nsproxy.c, validate_nsset()). Who has entered the user
 * namespace already, as `exec` of an older crun, is refused it as long as init's memory is still the runtime's, which is not
 * dumpable and the host's. Its files in /proc belong to the host's root so long (fs/proc/base.c, task_dump_owner(); not so the
 * directory itself).
 */
void await_program(pid_t init)
{
	const char *path = format("/proc/%d/stat", init);
	struct stat status;
	struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, init, 0), .events = POLLIN};
	for (int waited = 0; waited < PROGRAM_MS && stat(path, &status) == 0 && status.st_uid == 0; waited += LOOK_MS)
		if (poll(&end, 1, LOOK_MS) > 0)
			break;
	if (end.fd >= 0)
		close(end.fd);
}

/* ---- oom_score_adj ---- */

static bool oom_score_write(long score)
{
	char text[24];
	int length = snprintf(text, sizeof text, "%ld", score);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t put = write(fd, text, (size_t)length);
	int error = errno;
	close(fd);
	errno = error;
	return put == length;
}

/* The kernel keeps a minimum beside the value, inherited by children: who has CAP_SYS_RESOURCE sets both, who has not can move
 * the value between the minimum and 1000 (fs/proc/base.c, __set_oom_adj()).
 */
bool oom_score_take(const struct oom_score *score)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct ours[2], less[2];
	if (!score->given)
		return true;
	oom_score_write(score->floor);
	if (syscall(SYS_capget, &header, ours) < 0)
		return false;
	memcpy(less, ours, sizeof less);
	less[CAP_TO_INDEX(CAP_SYS_RESOURCE)].effective &= ~CAP_TO_MASK(CAP_SYS_RESOURCE);
	if (syscall(SYS_capset, &header, less) < 0)
		return false;
	bool taken = oom_score_write(score->value);
	int error = errno;
	if (syscall(SYS_capset, &header, ours) < 0)
		return false;
	errno = error;
	return taken;
}

/* ---- absent calls ---- */

/* Numbers alone are looked at: such calls have the same on all architectures, besides x32's mark (interceptor/registry.py,
 * YOUNG). An errno goes before a notification (seccomp(2)), but not before an errno of the runtime's own filter, made later.
 */
bool absent_install(const struct absent_calls *absent)
{
	struct sock_filter code[3 + 2 * ABSENT_MAX] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~0x40000000u), /* __X32_SYSCALL_BIT */
	};
	struct sock_fprog program = {.len = 2, .filter = code};
	if (!absent->count)
		return true;
	for (unsigned i = 0; i < absent->count; i++) {
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, absent->numbers[i], 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

/* ---- /dev/null ---- */

static bool is_null(int fd)
{
	struct stat status;
	return fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

bool stdio_has_null(void)
{
	return is_null(0) || is_null(1) || is_null(2);
}

/* A tmpfs that is mounted nowhere; it lives as long as what is open on it. */
static int private_tmpfs(void)
{
	int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (context < 0)
		return -1;
	int mount = -1;
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		mount = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	close(context);
	return mount;
}

void stdio_replace_null(void)
{
	int tmpfs = private_tmpfs();
	if (tmpfs < 0 || mknodat(tmpfs, "null", S_IFCHR | 0666, makedev(1, 3)) < 0 || fchmodat(tmpfs, "null", 0666, 0) < 0)
		fail("cannot make a /dev/null for the container's stdio: %s", strerror(errno));
	for (int fd = 0; fd < 3; fd++) {
		if (!is_null(fd))
			continue;
		int flags = fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK);
		int null = openat(tmpfs, "null", flags | O_CLOEXEC);
		if (null < 0 || dup2(null, fd) < 0)
			fail("cannot open a /dev/null for the container's stdio: %s", strerror(errno));
		close(null);
	}
	close(tmpfs);
}
