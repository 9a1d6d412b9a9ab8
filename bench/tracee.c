/* The tracee of bench/roundtrip.py: SOCKET CALLS NR: filters system call NR, sends the notifier over descriptor SOCKET,
 * waits for one byte, makes CALLS calls and prints their median duration in nanoseconds. */
#define _GNU_SOURCE
#include "timing.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int install(unsigned nr)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void send_descriptor(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec io = {&byte, 1};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	if (sendmsg(socket, &message, 0) != 1)
		exit(2);
}

int main(int count, char **word)
{
	int socket = count == 4 ? atoi(word[1]) : -1, notifier;
	long calls = count == 4 ? atol(word[2]) : 0, i, warm = calls / 10 + 1;
	unsigned nr = count == 4 ? (unsigned)atoi(word[3]) : 0, *taken = calloc((size_t)calls, sizeof *taken);
	char byte;

	if (!taken || (notifier = install(nr)) < 0)
		return 2;
	send_descriptor(socket, notifier);
	close(notifier);
	if (read(socket, &byte, 1) != 1)
		return 2;
	for (i = -warm; i < calls; i++) {
		unsigned long start = now();

		syscall(nr, 1, 2, 3);
		if (i >= 0)
			taken[i] = (unsigned)(now() - start);
	}
	printf("%u\n", median(taken, calls));
	return 0;
}
