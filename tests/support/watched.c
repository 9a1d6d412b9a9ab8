/* watched STEPS SOCKET NR…: a tracee for tests of notify.c and pin.c.
 *
 * Walks through STEPS (below), installs a filter that notifies of the system calls NR, whatever the architecture, sends the
 * listener over the descriptor SOCKET and prints the address of two readable and writable pages, behind which nothing is mapped. Then it
 * makes a system call for each line of stdin, "ABI NR ARG…", where ABI is 64 (syscall) or 32 (int 0x80), and prints the
 * result. "name" instead of a call: what sethostname(2) says to the name that is set already.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(what) \
	do { \
		if ((what) < 0) { \
			fprintf(stderr, "%s: %s\n", #what, strerror(errno)); \
			exit(3); \
		} \
	} while (0)

/* A user namespace below ours, and its UTS namespace, which we enter without entering the user namespace. Its process ends
 * when we do: told by a pipe, because a parent that dropped its capabilities may not signal its death any more.
 */
static int life[2] = {-1, -1};

static void own_uts(void)
{
	char path[64];
	int ready[2], fd;
	pid_t child;

	MUST(pipe2(ready, O_CLOEXEC));
	MUST(pipe2(life, O_CLOEXEC));
	child = fork();
	if (child == 0) {
		close(life[1]);
		MUST(unshare(CLONE_NEWUSER | CLONE_NEWUTS));
		MUST(write(ready[1], "", 1));
		MUST(read(life[0], path, 1));
		_exit(0);
	}
	close(life[0]);
	MUST(read(ready[0], path, 1));
	snprintf(path, sizeof path, "/proc/%d/ns/uts", child);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(fd);
	MUST(setns(fd, CLONE_NEWUTS));
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	MUST(fd);
	MUST(write(fd, text, strlen(text)));
	close(fd);
}

/* A user namespace whose root we are: without a mapping none could be made below it. */
static void nest(void)
{
	char uid[32], gid[32];

	snprintf(uid, sizeof uid, "0 %u 1", geteuid());
	snprintf(gid, sizeof gid, "0 %u 1", getegid());
	MUST(unshare(CLONE_NEWUSER));
	put("/proc/self/setgroups", "deny");
	put("/proc/self/gid_map", gid);
	put("/proc/self/uid_map", uid);
}

static void step(char what)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {{0}};

	switch (what) {
	case 'U': nest(); return;
	case 'u': MUST(unshare(CLONE_NEWUTS)); return;
	case 'm': MUST(unshare(CLONE_NEWNS)); return;
	case 'd': MUST(syscall(SYS_capset, &header, none)); return; /* drop all capabilities, keep the uid */
	case 's': MUST(setresgid(1000, 1000, 1000)); MUST(setresuid(1000, 1000, 1000)); return;
	case 'h': MUST(prctl(PR_SET_DUMPABLE, 0)); return;          /* hide: all below /proc/PID is root's then */
	case 'o': own_uts(); return;
	default: exit(2);
	}
}

static int install(int count, char **numbers)
{
	struct sock_filter filter[64] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	unsigned short length = 1;
	struct sock_fprog program = {.filter = filter};

	for (int i = 0; i < count; i++) {
		filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, strtoul(numbers[i], 0, 0), 0, 1);
		filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = length;
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	*header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	MUST(sendmsg(socket, &message, 0));
	close(fd);
	close(socket);
}

static long call(int abi, long nr, const unsigned long *a)
{
	register unsigned long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	long result;

	if (abi == 64) {
		__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
				 : "rcx", "r11", "memory");
		return result;
	}
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

static long set_name(void)
{
	struct utsname name;

	uname(&name);
	return sethostname(name.nodename, strlen(name.nodename)) ? -errno : 0;
}

int main(int argc, char **argv)
{
	char line[512], *pages;
	int listener;

	if (argc < 4)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (const char *at = argv[1]; *at; at++)
		step(*at);
	pages = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	MUST(pages == MAP_FAILED ? -1 : munmap(pages + 2 * 4096, 4096));
	listener = install(argc - 3, argv + 3);
	MUST(listener);
	send_fd(atoi(argv[2]), listener);
	setvbuf(stdout, 0, _IONBF, 0);
	printf("%p\n", (void *)pages);
	while (fgets(line, sizeof line, stdin)) {
		unsigned long args[6] = {0};
		char *word = strtok(line, " \n");
		int abi = word ? atoi(word) : 0;
		long nr;

		if (word && !strcmp(word, "name")) {
			printf("%ld\n", set_name());
			continue;
		}
		nr = (word = strtok(0, " \n")) ? strtol(word, 0, 0) : -1;
		for (int i = 0; i < 6 && (word = strtok(0, " \n")); i++)
			args[i] = strtoul(word, 0, 0);
		printf("%ld\n", call(abi, nr, args));
	}
	close(life[1]);
	while (wait(0) > 0)
		;
	return 0;
}
