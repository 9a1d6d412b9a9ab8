/* See probe.h. A child reports through a shared page; whatever it mounted lives in its own mount namespace. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Newer than Debian 12's headers. */
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1UL
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

enum { PROBE_SECONDS = 10, ANSWER = 4711 };

struct experiment {
	struct ic_probe *result; /* shared with the process that asked */
	const char *directory;
	unsigned int first, size;
	enum ic_notify_probe what;
};

/* Notes the failure of `stage`; for `return fail(…)`. */
static int fail_with(struct experiment *e, int error, const char *stage)
{
	e->result->error = error ? error : EPROTO;
	snprintf(e->result->stage, sizeof e->result->stage, "%s", stage);
	return -1;
}

static int fail(struct experiment *e, const char *stage)
{
	return fail_with(e, errno, stage);
}

/* Runs `body` in a child that dies with us and at the latest after PROBE_SECONDS. */
static void in_child(struct ic_probe *result, struct experiment e, int (*body)(struct experiment *))
{
	struct ic_probe *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t child;

	memset(result, 0, sizeof *result);
	if (shared == MAP_FAILED) {
		result->error = errno;
		return;
	}
	e.result = shared;
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGALRM, SIG_DFL);
		alarm(PROBE_SECONDS);
		_exit(body(&e) < 0);
	}
	if (child < 0)
		fail(&e, "fork");
	else if (waitpid(child, &status, 0) < 0)
		fail(&e, "wait for the child");
	else if (WIFSIGNALED(status))
		fail_with(&e, WTERMSIG(status) == SIGALRM ? ETIMEDOUT : EPROTO, "the experiment did not end by itself");
	*result = *shared;
	munmap(shared, sizeof *shared);
}

/* ── user namespaces ─────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
	return written < 0 ? -1 : 0;
}

static int map_ids(struct experiment *e, pid_t pid)
{
	char path[64], map[64];
	const char *const files[] = {"uid_map", "gid_map"};

	snprintf(map, sizeof map, "0 %u %u\n", e->first, e->size);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, files[i]);
		if (write_file(path, map) < 0)
			return fail(e, i ? "write gid_map" : "write uid_map");
	}
	return 0;
}

/* The namespace's first process: waits until its ids are mapped, becomes root, does `inside` or nothing until killed. */
static int namespace_root(struct experiment *e, int flags, int inside_fd, int (*inside)(struct experiment *))
{
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(flags) < 0)
		return fail(e, "unshare(CLONE_NEWUSER)");
	if (write(inside_fd, &byte, 1) != 1 || read(inside_fd, &byte, 1) != 1)
		return fail(e, "wait for the id maps");
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return fail(e, "become root of the user namespace");
	return inside(e);
}

static int wait_until_killed(struct experiment *e)
{
	(void)e;
	pause();
	return 0;
}

/* Starts namespace_root in a child and maps its ids; the child's pid, or -1 with the failure noted. */
static pid_t enter_user_namespace(struct experiment *e, int flags, int (*inside)(struct experiment *))
{
	int pair[2];
	char byte;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(e, "socketpair");
	child = fork();
	if (child == 0) {
		close(pair[0]);
		_exit(namespace_root(e, flags | CLONE_NEWUSER, pair[1], inside) < 0);
	}
	close(pair[1]);
	if (child < 0) {
		close(pair[0]);
		return fail(e, "fork");
	}
	/* The end of the stream is the child's end: it has noted why. */
	if (read(pair[0], &byte, 1) != 1 || map_ids(e, child) < 0 || write(pair[0], &byte, 1) != 1) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		child = -1;
		if (!e->result->error)
			fail_with(e, EPROTO, "start a process in a user namespace");
	}
	close(pair[0]);
	return child;
}

static int run_in_user_namespace(struct experiment *e, int flags, int (*inside)(struct experiment *))
{
	pid_t child = enter_user_namespace(e, flags, inside);
	int status;

	if (child < 0)
		return -1;
	if (waitpid(child, &status, 0) < 0)
		return fail(e, "wait for the user namespace");
	return e->result->error ? -1 : 0;
}

/* A descriptor of a user namespace with the experiment's ids and nobody in it. */
static int user_namespace_fd(struct experiment *e)
{
	pid_t child = enter_user_namespace(e, 0, wait_until_killed);
	char path[64];
	int fd, saved;

	if (child < 0)
		return -1;
	snprintf(path, sizeof path, "/proc/%d/ns/user", (int)child);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	saved = errno;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	errno = saved;
	return fd < 0 ? fail(e, "open the user namespace") : fd;
}

static int mount_tmpfs(struct experiment *e)
{
	if (mount("tmpfs", "/", "tmpfs", MS_NOSUID | MS_NODEV, NULL) < 0)
		return fail(e, "mount tmpfs inside");
	return 0;
}

static int user_namespace(struct experiment *e)
{
	return run_in_user_namespace(e, CLONE_NEWNS, mount_tmpfs);
}

void ic_probe_user_namespace(struct ic_probe *result, unsigned int first, unsigned int size)
{
	in_child(result, (struct experiment){.first = first, .size = size}, user_namespace);
}

/* ── time namespace ──────────────────────────────────────────────────────────────────────────────────────────────── */

static int uptime_is_small(struct experiment *e)
{
	struct timespec now;

	if (clock_gettime(CLOCK_BOOTTIME, &now) < 0)
		return fail(e, "clock_gettime(CLOCK_BOOTTIME)");
	return now.tv_sec > PROBE_SECONDS ? fail_with(e, EPROTO, "read an uptime that starts at zero") : 0;
}

static int time_namespace(struct experiment *e)
{
	struct timespec now;
	char offset[64];
	pid_t child;

	clock_gettime(CLOCK_BOOTTIME, &now);
	snprintf(offset, sizeof offset, "boottime -%lld 0\n", (long long)now.tv_sec);
	if (unshare(CLONE_NEWTIME) < 0)
		return fail(e, "unshare(CLONE_NEWTIME)");
	if (write_file("/proc/self/timens_offsets", offset) < 0)
		return fail(e, "write timens_offsets");
	child = fork();
	if (child == 0)
		_exit(uptime_is_small(e) < 0);
	if (child < 0 || waitpid(child, NULL, 0) < 0)
		return fail(e, "start a process in the time namespace");
	return e->result->error ? -1 : 0;
}

void ic_probe_time_namespace(struct ic_probe *result)
{
	in_child(result, (struct experiment){0}, time_namespace);
}

/* ── seccomp notification ────────────────────────────────────────────────────────────────────────────────────────── */

/* swapoff(2) with a bad pointer: harmless when it does reach the kernel, and nobody else's business. */
/* RLIMIT_CORE, because nothing that follows needs one. */
static int raise_limit(struct experiment *e)
{
	if (setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) < 0)
		return fail(e, "lower a hard limit");
	return setrlimit(RLIMIT_CORE, &(struct rlimit){0, 1}) < 0 ? fail(e, "raise a hard limit again") : 0;
}

void ic_probe_raise_limit(struct ic_probe *result)
{
	in_child(result, (struct experiment){0}, raise_limit);
}

static int install_filter(unsigned long flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_swapoff, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &program);
}

/* The tracee: installs the filter, hands the notifier's number over, makes the call and checks what it was answered. */
static int tracee(struct experiment *e, int link)
{
	unsigned long flags = e->what == IC_NOTIFY_WAIT_KILLABLE ? SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0;
	int notifier = install_filter(flags);
	long got;

	if (notifier < 0)
		fail(e, flags ? "seccomp(WAIT_KILLABLE_RECV)" : "seccomp(NEW_LISTENER)");
	if (write(link, &notifier, sizeof notifier) != sizeof notifier || notifier < 0)
		return -1;
	got = syscall(SYS_swapoff, 1L);
	if (e->what == IC_NOTIFY_CONTINUE)
		return got < 0 && (errno == EFAULT || errno == EPERM) ? 0 : fail(e, "let the kernel perform the call");
	if (e->what == IC_NOTIFY_ADDFD_SEND)
		return got >= 0 && fcntl((int)got, F_GETFD) >= 0 ? 0 : fail(e, "use the injected descriptor");
	return got == ANSWER ? 0 : fail(e, "read the answer");
}

static int send_answer(struct experiment *e, int notifier, uint64_t id)
{
	struct seccomp_notif_resp response = {.id = id, .val = ANSWER};
	struct seccomp_notif_addfd addfd = {.id = id, .flags = SECCOMP_ADDFD_FLAG_SEND, .newfd_flags = O_CLOEXEC};

	if (e->what == IC_NOTIFY_ADDFD_SEND) {
		addfd.srcfd = (uint32_t)open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (ioctl(notifier, SECCOMP_IOCTL_NOTIF_ADDFD, &addfd) < 0)
			return fail(e, "ADDFD with FLAG_SEND");
		return 0;
	}
	if (e->what == IC_NOTIFY_CONTINUE) {
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		response.val = 0;
	}
	return ioctl(notifier, SECCOMP_IOCTL_NOTIF_SEND, &response) < 0 ? fail(e, "SEND") : 0;
}

static int supervise(struct experiment *e, int notifier)
{
	struct {
		struct seccomp_notif head;
		char room[512]; /* a newer kernel's may be larger (SECCOMP_GET_NOTIF_SIZES) */
	} notification;
	struct pollfd ready = {.fd = notifier, .events = POLLIN};

	if (e->what == IC_NOTIFY_SYNC_WAKE_UP &&
	    ioctl(notifier, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) < 0)
		return fail(e, "SET_FLAGS(SYNC_WAKE_UP)");
	if (poll(&ready, 1, PROBE_SECONDS * 1000) != 1 || !(ready.revents & POLLIN))
		return fail_with(e, ETIMEDOUT, "wait for the notification");
	memset(&notification, 0, sizeof notification);
	if (ioctl(notifier, SECCOMP_IOCTL_NOTIF_RECV, &notification) < 0)
		return fail(e, "RECV");
	if (ioctl(notifier, SECCOMP_IOCTL_NOTIF_ID_VALID, &notification.head.id) < 0)
		return fail(e, "ID_VALID");
	return send_answer(e, notifier, notification.head.id);
}

/* The child shares our descriptor table, so that the notifier needs no passing. */
static int notify(struct experiment *e)
{
	int link[2], notifier = -1, outcome;
	pid_t child;

	if (pipe2(link, O_CLOEXEC) < 0)
		return fail(e, "pipe");
	child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(tracee(e, link[1]) < 0);
	}
	if (child < 0)
		return fail(e, "clone(CLONE_FILES)");
	if (read(link[0], &notifier, sizeof notifier) != sizeof notifier)
		fail(e, "take the notifier");
	outcome = notifier < 0 ? -1 : supervise(e, notifier);
	if (outcome < 0)
		kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return e->result->error ? -1 : 0;
}

void ic_probe_notify(struct ic_probe *result, enum ic_notify_probe what)
{
	in_child(result, (struct experiment){.what = what}, notify);
}

/* ── mounts ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Raw calls: glibc 2.36 has them, older ones have not. */
static int clone_tree(const char *path)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
}

static int set_idmap(int tree, int userns)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns};

	return (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
}

static int make_file(int directory, const char *name)
{
	int fd = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);

	return fd < 0 ? -1 : close(fd);
}

/* An id-mapped, detached clone of the experiment's directory. */
static int idmapped_clone(struct experiment *e)
{
	int userns = user_namespace_fd(e);
	int tree;

	if (userns < 0)
		return -1;
	tree = clone_tree(e->directory);
	if (tree < 0)
		return fail(e, "open_tree(OPEN_TREE_CLONE)");
	if (set_idmap(tree, userns) < 0)
		return fail(e, "mount_setattr(MOUNT_ATTR_IDMAP)");
	close(userns);
	return tree;
}

/* Host root's file must look like the container root's through the mount. */
static int idmapped_mount(struct experiment *e)
{
	int directory = open(e->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat seen;
	int tree;

	if (directory < 0 || make_file(directory, "file") < 0)
		return fail(e, "create a file");
	tree = idmapped_clone(e);
	if (tree < 0)
		return -1;
	if (fstatat(tree, "file", &seen, 0) < 0)
		return fail(e, "stat through the id-mapped mount");
	return seen.st_uid == e->first ? 0 : fail_with(e, EPROTO, "see mapped owners through the mount");
}

void ic_probe_idmapped_mount(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size)
{
	in_child(result, (struct experiment){.directory = directory, .first = first, .size = size}, idmapped_mount);
}

static int make_layers(struct experiment *e)
{
	const char *const names[] = {"lower", "lower/old", "upper", "work", "layers", "merged"};

	if (chdir(e->directory) < 0)
		return fail(e, "chdir to the probe's directory");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (mkdir(names[i], 0755) < 0)
			return fail(e, "create the layers");
	return 0;
}

/* What package managers and builds do, and what needs whiteouts and opaque directories in the upper layer. */
static int exercise(struct experiment *e)
{
	if (rmdir("merged/old") < 0)
		return fail(e, "remove a directory of the lower layer");
	if (mkdir("merged/old", 0755) < 0)
		return fail(e, "replace a directory of the lower layer");
	if (make_file(AT_FDCWD, "merged/new") < 0)
		return fail(e, "create a file in the overlay");
	return 0;
}

/* The container's root by number, with the host's capabilities: the mounter whose credentials the overlay keeps. */
static int become_mounter(struct experiment *e)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(e->first, e->first, e->first) < 0 || setresuid(e->first, e->first, e->first) < 0)
		return fail(e, "become the container's root");
	if (syscall(SYS_capget, &header, data) < 0)
		return fail(e, "capget");
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted;
	return syscall(SYS_capset, &header, data) < 0 ? fail(e, "capset") : 0;
}

static int idmapped_overlay(struct experiment *e)
{
	struct stat disk, seen;
	int tree;

	if (make_layers(e) < 0)
		return -1;
	tree = idmapped_clone(e);
	if (tree < 0)
		return -1;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail(e, "unshare(CLONE_NEWNS)");
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, "layers", 4 /* MOVE_MOUNT_F_EMPTY_PATH */) < 0)
		return fail(e, "attach the id-mapped layers");
	if (become_mounter(e) < 0)
		return -1;
	if (mount("overlay", "merged", "overlay", 0, "lowerdir=layers/lower,upperdir=layers/upper,workdir=layers/work") < 0)
		return fail(e, "mount overlay on id-mapped layers");
	if (exercise(e) < 0)
		return -1;
	if (stat("merged/new", &seen) < 0 || stat("upper/new", &disk) < 0)
		return fail(e, "stat the new file");
	if (seen.st_uid != e->first || disk.st_uid != 0)
		return fail_with(e, EPROTO, "see the container's root inside and uid 0 on disk");
	return 0;
}

void ic_probe_idmapped_overlay(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size)
{
	in_child(result, (struct experiment){.directory = directory, .first = first, .size = size}, idmapped_overlay);
}

static int mount_overlay_inside(struct experiment *e)
{
	if (mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr") < 0)
		return fail(e, "mount overlay with userxattr");
	return exercise(e);
}

static int unprivileged_overlay(struct experiment *e)
{
	const char *const names[] = {".", "lower", "lower/old", "upper", "work", "merged"};

	if (make_layers(e) < 0)
		return -1;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (chown(names[i], e->first, e->first) < 0)
			return fail(e, "chown the layers");
	return run_in_user_namespace(e, CLONE_NEWNS, mount_overlay_inside);
}

void ic_probe_unprivileged_overlay(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size)
{
	in_child(result, (struct experiment){.directory = directory, .first = first, .size = size}, unprivileged_overlay);
}
