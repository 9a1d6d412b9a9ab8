/* Loaded into a supervisor (LD_PRELOAD): holds every thread that comes to one stage of a call, for ever, so that the supervisor can be
 * killed while many calls are exactly there. The programs that are tested are the ones that are shipped.
 *
 * The stage is the content of the file HOLD/armed (nothing is held without it). For each thread that is held there is then a file
 * HOLD/TID-OP: the thread whose call it is; the action that the agent was last asked for, or -.
 *
 * received  the kernel has delivered the notification
 * acting    the agent is about to be asked
 * asked     it has been
 * replied   its reply was received
 * acted     the answer is about to be sent
 * answered  it has been, or the descriptor that it is the number of was given
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../interceptor/native/agent_wire.h"

static __thread struct {
	unsigned tid;
	int asked, op; /* of its call's last request */
} now;

static void hold(const char *stage)
{
	const char *directory = getenv("HOLD");
	char path[4096], armed[32] = "", op[16] = "-";
	int fd;

	if (!directory)
		return;
	snprintf(path, sizeof path, "%s/armed", directory);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (read(fd, armed, sizeof armed - 1) < 0)
		armed[0] = 0;
	close(fd);
	if (strcmp(armed, stage))
		return;
	if (now.asked)
		snprintf(op, sizeof op, "%d", now.op);
	snprintf(path, sizeof path, "%s/%u-%s", directory, now.tid, op);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	for (;;)
		pause();
}

int ioctl(int fd, unsigned long command, ...)
{
	static int (*real)(int, unsigned long, void *);
	va_list rest;
	void *argument;
	int result;

	va_start(rest, command);
	argument = va_arg(rest, void *);
	va_end(rest);
	if (!real)
		real = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
	if (command == SECCOMP_IOCTL_NOTIF_SEND || command == SECCOMP_IOCTL_NOTIF_ADDFD)
		hold("acted");
	result = real(fd, command, argument);
	if (command == SECCOMP_IOCTL_NOTIF_SEND || command == SECCOMP_IOCTL_NOTIF_ADDFD)
		hold("answered");
	if (command == SECCOMP_IOCTL_NOTIF_RECV && result == 0) {
		const struct seccomp_notif *call = argument;

		now.tid = call->pid;
		now.asked = 0;
		hold("received");
	}
	return result;
}

/* The others are no part of a call, or the look that comes before its act. */
static int is_act(unsigned op)
{
	return op != AGENT_PING && op != AGENT_HOME && op != AGENT_MOUNT_ID && op != AGENT_LOOP_STATUS;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	static ssize_t (*real)(int, const struct msghdr *, int);
	const struct agent_request *request = message->msg_iovlen ? message->msg_iov->iov_base : NULL;
	int ours = message->msg_iovlen == 1 && message->msg_iov->iov_len >= sizeof *request &&
		   request->version == AGENT_WIRE_VERSION && is_act(request->op) && now.tid;
	ssize_t result;

	if (!real)
		real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
	if (ours) {
		now.asked = 1;
		now.op = (int)request->op;
		hold("acting");
	}
	result = real(fd, message, flags);
	if (ours && result > 0)
		hold("asked");
	return result;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	static ssize_t (*real)(int, struct msghdr *, int);
	ssize_t result;

	if (!real)
		real = (ssize_t (*)(int, struct msghdr *, int))dlsym(RTLD_NEXT, "recvmsg");
	result = real(fd, message, flags);
	if (result == sizeof(struct agent_reply) && message->msg_iovlen == 1 &&
	    message->msg_iov->iov_len == sizeof(struct agent_reply) && now.asked)
		hold("replied");
	return result;
}
