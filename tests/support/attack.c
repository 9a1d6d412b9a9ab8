/* Single steps of known ways out of a container. attack STEP ARG…: prints what came of each try.
 *
 *   open PATH…        opens for reading, then for writing: "PATH read ERRNO write ERRNO" (0: it can)
 *   exes              opens the executable of every process that is seen, without those on our own root, for writing: as soon
 *                     as nobody runs it any more, by a descriptor that was opened while somebody did
 *   handle PATH       name_to_handle_at(2), then open_by_handle_at(2) of it and of inode 2 (a filesystem's root)
 *   setcap FILE       a version 2 security.capability with everything, as capabilities(7) describes it
 *   ptrace PID…       PTRACE_SEIZE, PTRACE_ATTACH, kill(0), process_vm_readv (of numbers not seen inside)
 *   sockets           connects to every abstract Unix socket that /proc/net/unix shows
 *   exchange DIR      exchanges DIR/x and DIR/y, again and again, until there is DIR/enough
 *   descriptors FILE  what every descriptor of every process is that can be seen, each once, until there is FILE
 *   strangers COUNT   makes so many calls for which helpers come into our pid namespace, and attacks every process there that
 *                     belongs to nobody inside: "seen NUMBER", and what succeeded
 *   own               the same attacks on a process of our own
 *   procfs PATH…      opens each as runc does since 1.3.3: below /proc, a clone of its mount, and a new one, across no mount
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

static void opens(const char *path)
{
	int reading = try_open(path, O_RDONLY);
	printf("%s read %d write %d\n", path, reading, try_open(path, O_WRONLY));
}

static int write_once_free(const char *path)
{
	int error = try_open(path, O_WRONLY);

	for (int i = 0; error == ETXTBSY && i < 300; i++) {
		usleep(1000);
		error = try_open(path, O_WRONLY);
	}
	return error;
}

static void exes(void)
{
	struct stat root, found;
	struct dirent *entry;
	DIR *proc = opendir("/proc");
	stat("/", &root);
	while (proc && (entry = readdir(proc))) {
		char path[300], again[64];
		if (!isdigit((unsigned char)*entry->d_name))
			continue;
		snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
		int fd = open(path, O_PATH | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &found) || found.st_dev == root.st_dev) {
			close(fd);
			continue;
		}
		snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
		printf("%s foreign write %d\n", path, write_once_free(again));
		close(fd);
	}
}

static void handle(const char *path)
{
	struct {
		struct file_handle head;
		unsigned char bytes[MAX_HANDLE_SZ];
	} h = {.head.handle_bytes = MAX_HANDLE_SZ};
	int mount, fd = open("/", O_RDONLY | O_DIRECTORY);
	int named = name_to_handle_at(AT_FDCWD, path, &h.head, &mount, 0) ? errno : 0;
	int own = open_by_handle_at(fd, &h.head, O_RDONLY) < 0 ? errno : 0;
	unsigned root[2] = {2, 0};
	h.head.handle_bytes = 8;
	h.head.handle_type = 1;
	memcpy(h.bytes, root, sizeof root);
	memcpy(h.head.f_handle, root, sizeof root);
	printf("named %d own %d root %d\n", named, own, open_by_handle_at(fd, &h.head, O_RDONLY) < 0 ? errno : 0);
}

static void setcap(const char *path)
{
	struct vfs_cap_data all = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE};
	all.data[0].permitted = all.data[1].permitted = 0xffffffff;
	printf("setcap %d\n", setxattr(path, "security.capability", &all, XATTR_CAPS_SZ_2, 0) ? errno : 0);
}

static void trace(pid_t pid)
{
	char byte, own[64];
	snprintf(own, sizeof own, "/proc/%d", pid);
	if (access(own, F_OK) == 0)
		return; /* the same number, but a process of our own */
	struct iovec mine = {&byte, 1}, its = {(void *)0x400000, 1};
	int seized = ptrace(PTRACE_SEIZE, pid, 0, 0) ? errno : 0;
	int attached = ptrace(PTRACE_ATTACH, pid, 0, 0) ? errno : 0;
	int killed = kill(pid, 0) ? errno : 0;
	printf("%d seize %d attach %d kill %d read %d\n", pid, seized, attached, killed,
	       process_vm_readv(pid, &mine, 1, &its, 1, 0) < 0 ? errno : 0);
}

static void sockets(void)
{
	char line[512];
	FILE *table = fopen("/proc/net/unix", "r");
	while (table && fgets(line, sizeof line, table)) {
		char *name = strrchr(line, '@');
		if (!name)
			continue;
		name[strcspn(name, "\n")] = 0;
		struct sockaddr_un at = {.sun_family = AF_UNIX};
		size_t length = strlen(name);
		memcpy(at.sun_path, name, length < sizeof at.sun_path ? length : sizeof at.sun_path - 1);
		at.sun_path[0] = 0;
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		printf("%s connect %d\n", name,
		       connect(fd, (struct sockaddr *)&at, (socklen_t)(sizeof(sa_family_t) + length)) ? errno : 0);
		close(fd);
	}
}

static void exchange(const char *directory)
{
	if (chdir(directory))
		exit(1);
	while (access("enough", F_OK))
		for (int i = 0; i < 1000; i++)
			if (renameat2(AT_FDCWD, "x", AT_FDCWD, "y", RENAME_EXCHANGE))
				exit(1);
}

static void describe(const char *directory)
{
	static char known[512][128];
	char path[600], target[128];
	DIR *fds = opendir(directory);
	struct dirent *entry;

	while (fds && (entry = readdir(fds))) {
		snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
		ssize_t size = readlink(path, target, sizeof target - 1);
		int i = 0;
		if (size < 0)
			continue;
		target[size] = 0;
		while (i < 511 && *known[i] && strcmp(known[i], target))
			i++;
		if (!*known[i])
			printf("%s\n", strcpy(known[i], target));
	}
	if (fds)
		closedir(fds);
}

static void descriptors(const char *until)
{
	while (access(until, F_OK)) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		char path[300];
		while (proc && (entry = readdir(proc)))
			if (isdigit((unsigned char)*entry->d_name)) {
				snprintf(path, sizeof path, "/proc/%s/fd", entry->d_name);
				describe(path);
			}
		closedir(proc);
	}
}

#define NOBODY 65534

static void try_all(pid_t pid)
{
	static const char *const files[] = {"mem", "environ", "maps", "fd", "root/etc", "cwd/etc", "exe", "ns/mnt"};
	char path[64], byte;
	struct iovec mine = {&byte, 1}, its = {(void *)0x400000, 1};
	const struct rlimit none = {0, 0};
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && (read(fd, &byte, 1) > 0 || errno == EISDIR)) /* of who has ended some can be opened, and are empty */
			printf("read %s\n", files[i]);
		close(fd);
	}
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0)
		printf("traced\n");
	if (process_vm_readv(pid, &mine, 1, &its, 1, 0) > 0)
		printf("read\n");
	if (prlimit(pid, RLIMIT_CPU, &none, NULL) == 0)
		printf("limited\n");
	for (int fd = 0; fd < 16; fd++)
		if (syscall(SYS_pidfd_getfd, pidfd, fd, 0) >= 0)
			printf("got descriptor %d\n", fd);
	if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0)
		printf("killed\n");
	close(pidfd);
}

static void strangers(int calls)
{
	long seen = 0;
	pid_t caller = fork();

	if (caller == 0) {
		while (calls--) {
			setpriority(PRIO_PROCESS, 0, 0);
			setpriority(PRIO_PROCESS, 0, -1);
		}
		_exit(0);
	}
	while (waitpid(caller, NULL, WNOHANG) == 0) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		struct stat found;

		while (proc && (entry = readdir(proc)))
			if (isdigit((unsigned char)*entry->d_name) && fstatat(dirfd(proc), entry->d_name, &found, 0) == 0 &&
			    found.st_uid == NOBODY) {
				seen++;
				try_all(atoi(entry->d_name));
			}
		closedir(proc);
	}
	printf("seen %ld\n", seen);
}

static void own(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	try_all(pid);
	waitpid(pid, NULL, 0);
}

static int fresh_proc(void)
{
	int context = (int)syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC);
	if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -1;
	return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID);
}

static void procfs(int count, char **paths)
{
	struct {
		const char *name;
		int root;
	} ways[] = {
		{"path", open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC)},
		{"clone", (int)syscall(SYS_open_tree, AT_FDCWD, "/proc", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)},
		{"fresh", fresh_proc()},
	};
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
	};

	for (unsigned way = 0; way < sizeof ways / sizeof *ways; way++)
		for (int i = 0; i < count; i++)
			printf("%s %s %d\n", ways[way].name, paths[i],
			       syscall(SYS_openat2, ways[way].root, paths[i], &how, sizeof how) < 0 ? errno : 0);
}

int main(int argc, char **argv)
{
	const char *step = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!strcmp(step, "exes"))
		exes();
	else if (!strcmp(step, "sockets"))
		sockets();
	else if (!strcmp(step, "own"))
		own();
	else if (!strcmp(step, "procfs"))
		procfs(argc - 2, argv + 2);
	for (int i = 2; i < argc; i++) {
		if (!strcmp(step, "open"))
			opens(argv[i]);
		else if (!strcmp(step, "handle"))
			handle(argv[i]);
		else if (!strcmp(step, "setcap"))
			setcap(argv[i]);
		else if (!strcmp(step, "ptrace"))
			trace(atoi(argv[i]));
		else if (!strcmp(step, "exchange"))
			exchange(argv[i]);
		else if (!strcmp(step, "descriptors"))
			descriptors(argv[i]);
		else if (!strcmp(step, "strangers"))
			strangers(atoi(argv[i]));
	}
	return 0;
}
