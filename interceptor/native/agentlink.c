#include "agentlink.h"
#include "forks.h"
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE 16384

struct start {
	int memfd, null, socket, note;
	int error, copies; /* `copies`: of our descriptors, which the child has still */
};

/* Runs in the child, on a stack of its own but in our memory, while the calling thread sleeps: system calls only. */
static int become_agent(void *argument)
{
	struct start *start = argument;
	char *const arguments[] = { "agent", NULL };
	char *const environment[] = { NULL };
	/* Out of the way of the numbers that they are going to have. */
	int null = fcntl(start->null, F_DUPFD, 16);
	int link = fcntl(start->socket, F_DUPFD, 16);
	int memfd = fcntl(start->memfd, F_DUPFD, 16);
	int note = fcntl(start->note, F_DUPFD, 16);

	setsid(); /* a terminal's signals are for the supervisor */
	if (null >= 0 && link >= 0 && memfd >= 0 && note >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1 && dup2(null, 2) == 2 &&
	    dup2(link, 3) == 3 && dup3(memfd, 4, O_CLOEXEC) == 4 && dup2(note, 5) == 5 && !syscall(SYS_close_range, 6, ~0u, 0) && !chdir("/")) {
		start->copies = 0;
		syscall(SYS_execveat, 4, "", arguments, environment, AT_EMPTY_PATH);
	}
	start->error = errno;
	_exit(127);
}

/* As posix_spawn(3) does it: no copy of our memory, no handler of ours in the child. */
static int run(struct start *start, struct ic_agent *agent)
{
	char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	sigset_t all, before;
	siginfo_t ended;
	int saved;

	if (stack == MAP_FAILED)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	ic_fork_begin();
	agent->pid = clone(become_agent, stack + STACK_SIZE, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, start, &agent->pidfd);
	saved = errno;
	if (agent->pid > 0 && start->copies) /* it was killed; CLONE_VFORK waits for its memory only, which it gives back first */
		waitid(P_PID, (id_t)agent->pid, &ended, WEXITED | WNOWAIT);
	ic_fork_end();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	munmap(stack, STACK_SIZE);
	return agent->pid < 0 ? -saved : 0;
}

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

/* A page that keeps its size, whoever has its descriptor: whoever reads it gets no SIGBUS. */
static int make_note(struct ic_agent *agent)
{
	int fd = memfd_create("note", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create("note", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	agent->note = MAP_FAILED;
	if (!ftruncate(fd, AGENT_NOTE_SIZE) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		agent->note = mmap(NULL, AGENT_NOTE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (agent->note != MAP_FAILED)
		return fd;
	agent->note = NULL;
	close(fd);
	return -errno;
}

void ic_agent_bury(struct ic_agent *agent)
{
	if (agent->note)
		munmap(agent->note, AGENT_NOTE_SIZE);
	agent->note = NULL;
}

int ic_agent_spawn(int memfd, int null, int patience_us, struct ic_agent *agent)
{
	const struct timeval patience = { patience_us / 1000000, patience_us % 1000000 };
	struct start start = { .memfd = memfd, .null = null, .copies = 1 };
	int ends[2], error;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -errno;
	setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	start.socket = ends[1];
	start.note = make_note(agent);
	agent->cpu = -1;
	error = start.note < 0 ? start.note : run(&start, agent);
	close(ends[1]);
	if (start.note >= 0)
		close(start.note);
	if (!error && start.error) {
		siginfo_t ended;

		waitid(P_PID, agent->pid, &ended, WEXITED);
		close(agent->pidfd);
		error = -start.error;
	}
	if (error) {
		close(ends[0]);
		ic_agent_bury(agent);
	} else {
		agent->socket = ends[0];
	}
	return error;
}

static void take_given(struct agent_reply *reply, const struct cmsghdr *header)
{
	size_t count = 0, i;

	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (i = 0; i < AGENT_GIVEN_MAX; i++)
		reply->given[i] = i < count ? ((const int *)CMSG_DATA(header))[i] : -1;
}

void ic_agent_drop_given(struct agent_reply *reply)
{
	for (int i = 0; i < AGENT_GIVEN_MAX; i++)
		if (reply->given[i] >= 0) {
			close(reply->given[i]);
			reply->given[i] = -1;
		}
}

/* Into the journal's record, where the call has one that has it not yet: what was received cannot be lost then. */
static int receive(int socket, uint64_t cookie, struct agent_reply *reply, int flags)
{
	struct ic_record *record = ic_current && ic_current->stage == IC_ACTING && ic_current->cookie == cookie &&
						   ic_current->reply.cookie != cookie
					   ? ic_current
					   : NULL;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(AGENT_GIVEN_MAX * sizeof(int))];
	} control;
	struct iovec part = { record ? &record->reply : reply, sizeof *reply };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	ssize_t size = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);

	if (record && size > 0)
		*reply = record->reply;
	if (size >= 0)
		take_given(reply, CMSG_FIRSTHDR(&message));
	if (size == sizeof *reply && reply->cookie == cookie)
		return 1;
	if (size >= 0)
		ic_agent_drop_given(reply);
	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return size ? -EPROTO : -ECONNRESET;
}

/* What only looks, or makes a descriptor that goes with us, can be asked again. (fsmount(2) uses its context up.) */
static int changes_something(const struct agent_request *request)
{
	switch (request->op) {
	case AGENT_PING:
	case AGENT_MOUNT_ID:
	case AGENT_HOME:
	case AGENT_FSOPEN:
	case AGENT_OPEN_ROOT:
	case AGENT_GET_XATTR:
	case AGENT_LIST_XATTR:
	case AGENT_MAY_CHOWN:
	case AGENT_READ:
	case AGENT_LOOP_STATUS:
		return 0;
	default:
		return 1;
	}
}

/* The tracee wakes its session on its own processor and sleeps (SYNC_WAKE_UP); when the agent is woken there, too, the three take
 * turns on one. A socket would rather wake it on another that is idle, which takes longer than most of what an agent does. */
static void bind_here(struct ic_agent *agent)
{
	int cpu = sched_getcpu();
	cpu_set_t only;

	if (cpu < 0 || cpu == agent->cpu || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	sched_setaffinity(agent->pid, sizeof only, &only);
	agent->cpu = cpu;
}

/* It takes longer than a turn: let it run where there is room. */
static void unbind(struct ic_agent *agent)
{
	cpu_set_t all;

	memset(&all, 0xff, sizeof all);
	sched_setaffinity(agent->pid, sizeof all, &all);
	agent->cpu = -1;
}

/* What comes with a reply dies with who has received it. That of fsmount(2) cannot be made again, so that it stays in the socket. */
static int stays(const struct agent_request *request)
{
	return request->op == AGENT_FSMOUNT;
}

int ic_agent_call(struct ic_agent *agent, const void *request, size_t size, const int *fds, unsigned count, struct agent_reply *reply)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE((AGENT_FD_ROLES + AGENT_TAKEN_MAX) * sizeof(int))];
	} control;
	struct iovec part = { (void *)request, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int result;

	if (count > AGENT_FD_ROLES + AGENT_TAKEN_MAX || size < sizeof(struct agent_request))
		return -EINVAL;
	if (count) {
		control.header = (struct cmsghdr){ CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	if (ic_current && changes_something(request))
		ic_journal_act(ic_current, (uint32_t)agent->pid, request);
	bind_here(agent);
	while (sendmsg(agent->socket, &message, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return errno == ECONNRESET ? -EPIPE : -errno;
	result = receive(agent->socket, ((const struct agent_request *)request)->cookie, reply, stays(request) ? MSG_PEEK : 0);
	if (!result)
		unbind(agent);
	return result;
}

int ic_agent_wait(int socket, uint64_t cookie, struct agent_reply *reply, int timeout_ms, int stay)
{
	struct pollfd ready = { .fd = socket, .events = POLLIN };

	if (poll(&ready, 1, timeout_ms) < 0 && errno != EINTR)
		return -errno;
	return receive(socket, cookie, reply, MSG_DONTWAIT | (stay ? MSG_PEEK : 0));
}

void ic_agent_settle(int socket)
{
	char byte;

	recv(socket, &byte, sizeof byte, MSG_DONTWAIT); /* without room for descriptors: they are closed */
}
