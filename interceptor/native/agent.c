/* The agent: performs a closed list of privileged actions inside a container's namespaces, one request at a time.
 *
 * A process of its own because an action may hang on a hostile filesystem (then it is killed, and only its container
 * notices), and because setns(2) into a user namespace wants a single thread. It is started from a sealed memfd, lives in
 * the host's namespaces, and is back in them, with nothing of the container held open, before it answers.
 * Whatever is odd about a request ends it with AGENT_MALFORMED; whatever is odd about ourselves ends the process.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

static struct {
	struct agent_request request;
	char text[AGENT_TEXT_MAX];
} message;

static union {
	struct cmsghdr header;
	char space[CMSG_SPACE((AGENT_FD_ROLES + AGENT_TAKEN_MAX) * sizeof(int))];
} control;

static void end(int status) __attribute__((noreturn));
static void end(int status)
{
	for (;;)
		sys(exit_group, status);
}

#define FD(role) (1u << AGENT_FD_##role)
#define TEXT(kind) (1u << AGENT_TEXT_##kind)
#define THERE (FD(MNTNS) | FD(ROOT))
#define HOME (FD(MNTNS) | FD(USERNS))

/* The closed list: what each action does and what its request must bring. */
static const struct action {
	long (*act)(struct call *call);
	uint32_t fds, texts;
} actions[AGENT_OPS] = {
	[AGENT_PING] = { 0, 0, 0 },
	[AGENT_MOUNT] = { act_mount, THERE, TEXT(PATH) | TEXT(TYPE) },
	[AGENT_STAND_IN] = { act_stand_in, THERE, TEXT(PATH) | TEXT(TYPE) },
	[AGENT_OVERLAY] = { act_overlay, THERE | FD(USERNS), TEXT(PATH) },
	[AGENT_MOUNT_ID] = { act_mount_id, THERE, TEXT(PATH) },
	[AGENT_SETHOSTNAME] = { act_hostname, FD(UTSNS), TEXT(DATA) },
	[AGENT_SETDOMAINNAME] = { act_hostname, FD(UTSNS), TEXT(DATA) },
	[AGENT_SET_XATTR] = { act_xattr, THERE | FD(USERNS) | FD(MEMORY), TEXT(PATH) | TEXT(TYPE) },
	[AGENT_GET_XATTR] = { act_xattr, THERE | FD(USERNS) | FD(MEMORY), TEXT(PATH) | TEXT(TYPE) },
	[AGENT_LIST_XATTR] = { act_xattr, THERE | FD(USERNS) | FD(MEMORY), TEXT(PATH) },
	[AGENT_REMOVE_XATTR] = { act_xattr, THERE | FD(USERNS), TEXT(PATH) | TEXT(TYPE) },
	[AGENT_MAY_CHOWN] = { act_may_chown, THERE | FD(USERNS), TEXT(PATH) },
	[AGENT_DETACH] = { act_detach, THERE, TEXT(PATH) },
	[AGENT_READ] = { act_read, FD(BASE) | FD(MEMORY), 0 },
	[AGENT_HOME] = { act_home, FD(USERNS), 0 },
	[AGENT_MAKE_NODE] = { act_make_node, THERE | FD(USERNS), TEXT(PATH) },
	[AGENT_FSOPEN] = { act_fsopen, THERE | FD(USERNS), TEXT(TYPE) },
	[AGENT_OVERLAY_OPTION] = { act_overlay_option, THERE | FD(USERNS) | FD(CONTEXT), TEXT(KEY) },
	[AGENT_OVERLAY_CREATE] = { act_overlay_create, THERE | FD(CONTEXT), 0 },
	[AGENT_FSMOUNT] = { act_fsmount, THERE | FD(USERNS), 0 },
	[AGENT_OPEN_ROOT] = { act_open_root, THERE | FD(USERNS) | FD(CONTEXT), 0 },
	[AGENT_MOVE_MOUNT] = { act_move_mount, THERE | FD(CONTEXT), TEXT(PATH) },
	[AGENT_MOUNT_DEVICE] = { act_mount_device, THERE | FD(USERNS), TEXT(PATH) | TEXT(TYPE) | TEXT(SOURCE) },
	[AGENT_MOUNT_NETWORK] = { act_mount_network, THERE | FD(USERNS) | FD(NETNS), TEXT(PATH) | TEXT(TYPE) | TEXT(SOURCE) },
	[AGENT_LOOP_ATTACH] = { act_loop_attach, THERE | FD(USERNS), TEXT(PATH) },
	[AGENT_LOOP_DETACH] = { act_loop_detach, THERE | FD(USERNS), TEXT(PATH) },
	[AGENT_LOOP_STATUS] = { act_loop_status, THERE | FD(USERNS), TEXT(PATH) },
};

static int home_known;

long act_home(struct call *call)
{
	long error;

	if (call->fd[AGENT_FD_MNTNS] < 0) {
		call->outcome = AGENT_MALFORMED;
		return 0;
	}
	error = sys(dup3, call->fd[AGENT_FD_MNTNS], HOME_MNTNS_FD, O_CLOEXEC);
	if (error >= 0)
		error = sys(dup3, call->fd[AGENT_FD_USERNS], HOME_USERNS_FD, O_CLOEXEC);
	home_known = error >= 0;
	return home_known ? 0 : error;
}

long act_hostname(struct call *call)
{
	long error = sys(setns, call->fd[AGENT_FD_UTSNS], CLONE_NEWUTS);
	long back;

	if (error)
		return error;
	if (call->request->op == AGENT_SETHOSTNAME)
		error = sys(sethostname, call->text[AGENT_TEXT_DATA], call->request->data_length);
	else
		error = sys(setdomainname, call->text[AGENT_TEXT_DATA], call->request->data_length);
	back = sys(setns, HOST_UTSNS_FD, CLONE_NEWUTS);
	if (back)
		end(3);
	return error;
}

/* Descriptors came in the order of their roles, as many as `fds` has bits. */
static int take_fds(struct call *call, size_t control_size)
{
	const int *fd = (const int *)CMSG_DATA(&control.header);
	size_t count = 0, role;

	if (control_size >= sizeof control.header) {
		if (control.header.cmsg_level != SOL_SOCKET || control.header.cmsg_type != SCM_RIGHTS)
			return 0;
		count = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof *fd;
	}
	for (role = 0; role < AGENT_FD_ROLES; role++) {
		call->fd[role] = -1;
		if (!(call->request->fds & 1u << role))
			continue;
		if (!count)
			return 0;
		count--;
		call->fd[role] = *fd++;
	}
	if (count > AGENT_TAKEN_MAX || call->request->fds >> AGENT_FD_ROLES)
		return 0;
	call->taken_count = count;
	memcpy(call->taken, fd, count * sizeof *fd);
	return 1;
}

#define NUMBER_MAX 214748363 /* INT_MAX, but for its last digit and one */

/* As many numbers as there were descriptors left. */
static int take_numbers(struct call *call)
{
	const char *text = call->text[AGENT_TEXT_TAKEN];
	unsigned i;

	for (i = 0; i < call->taken_count; i++) {
		if (!text || *text < '0' || *text > '9')
			return 0;
		for (call->taken_number[i] = 0; *text >= '0' && *text <= '9'; text++) {
			if (call->taken_number[i] > NUMBER_MAX)
				return 0;
			call->taken_number[i] = 10 * call->taken_number[i] + *text - '0';
		}
		if (*text++ != ' ')
			return 0;
	}
	return !text || !*text;
}

static int take_texts(struct call *call, size_t size)
{
	const char *text = message.text;
	size_t kind;

	for (kind = 0; kind < AGENT_TEXT_KINDS; kind++) {
		size_t length = 0;

		call->text[kind] = 0;
		if (!(call->request->texts & 1u << kind))
			continue;
		if (kind == AGENT_TEXT_DATA)
			length = call->request->data_length;
		while (length < size && text[length])
			length++;
		if (length >= size || text[length])
			return 0;
		call->text[kind] = text;
		text += length + 1;
		size -= length + 1;
	}
	return !size && !(call->request->texts >> AGENT_TEXT_KINDS);
}

/* What does not come along with a request at home. 0: it cannot be one. */
static int take_home(struct call *call)
{
	const struct agent_request *request = call->request;
	const char *path = call->text[AGENT_TEXT_PATH];

	if (!home_known || request->op != AGENT_STAND_IN || request->fds & (HOME | FD(BASE)) || !path || *path != '/')
		return 0;
	call->fd[AGENT_FD_MNTNS] = HOME_MNTNS_FD;
	call->fd[AGENT_FD_USERNS] = HOME_USERNS_FD;
	return 1;
}

static int well_formed(struct call *call)
{
	const struct agent_request *request = call->request;
	const struct action *action = &actions[request->op];
	uint32_t fds = request->fds;

	if (request->flags & AGENT_AT_HOME) {
		if (!take_home(call))
			return 0;
		fds |= HOME;
	}
	if (!action->act && request->op != AGENT_PING)
		return 0;
	if (request->group_count > AGENT_GROUPS_MAX)
		return 0;
	if (request->notification && call->fd[AGENT_FD_NOTIFIER] < 0)
		return 0;
	if ((fds & action->fds) != action->fds || (request->texts & action->texts) != action->texts)
		return 0;
	/* Host root's filesystem id would bring the DAC capabilities back: no tracee has it. */
	return !(action->fds & FD(MNTNS)) ||
	       (request->fsuid && request->root_uid && request->fsuid != -1u && request->fsgid != -1u);
}

static int take_apart(struct call *call, size_t size, size_t control_size)
{
	const struct agent_request *request = &message.request;

	call->request = request;
	if (request->version != AGENT_WIRE_VERSION || request->op >= AGENT_OPS)
		return 0;
	if (size - sizeof *request != request->text_length)
		return 0;
	return take_fds(call, control_size) && take_texts(call, size - sizeof *request) && take_numbers(call) &&
	       well_formed(call);
}

/* SIGALRM's default action ends us: also when the supervisor, who would kill us then, is no more. */
static void deadline(uint32_t milliseconds)
{
	const struct itimerval timer = {
		.it_value = { .tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000 },
	};

	sys(setitimer, ITIMER_REAL, &timer, 0);
}

static void perform(struct call *call, struct agent_reply *reply)
{
	const struct action *action = &actions[call->request->op];
	long result = 0;

	if (call->request->deadline_ms)
		deadline(call->request->deadline_ms);
	if (path_begin(call->request))
		end(3);
	links_begin();
	if (action->act)
		result = action->act(call);
	if (result == -ELOOP && links_wanted(&call->value)) {
		call->outcome = AGENT_WANTS;
		result = 0;
	}
	if (action->fds & FD(MNTNS) && path_leave(call->request))
		end(3);
	if (call->request->deadline_ms)
		deadline(0);
	reply->error = result < 0 ? -result : 0;
	reply->outcome = call->outcome;
	reply->value = call->value;
}

/* The reply, with what it gives. */
static long answer(struct agent_reply *reply, const struct call *call)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(AGENT_GIVEN_MAX * sizeof(int))];
	} gift = { .header = { 0 } };
	struct iovec part = { reply, sizeof *reply };
	struct msghdr out = { .msg_iov = &part, .msg_iovlen = 1 };
	unsigned count = 0;

	if (reply->error || reply->outcome != AGENT_DONE || call->given[0] < 0)
		return sys(sendto, LINK_FD, reply, sizeof *reply, MSG_NOSIGNAL, 0, 0);
	while (count < AGENT_GIVEN_MAX && call->given[count] >= 0) {
		((int *)CMSG_DATA(&gift.header))[count] = call->given[count];
		count++;
	}
	gift.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	gift.header.cmsg_level = SOL_SOCKET;
	gift.header.cmsg_type = SCM_RIGHTS;
	out.msg_control = &gift;
	out.msg_controllen = CMSG_SPACE(count * sizeof(int));
	return sys(sendmsg, LINK_FD, &out, MSG_NOSIGNAL);
}

static void serve_one(void)
{
	struct iovec part = { &message, sizeof message };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	struct call call = { .outcome = AGENT_DONE, .given = { -1, -1 } };
	struct agent_reply reply = { .outcome = AGENT_MALFORMED, .given = { -1, -1 } };
	long sent, size = sys(recvmsg, LINK_FD, &header, MSG_CMSG_CLOEXEC);

	if (size == -EINTR)
		return;
	if (size <= 0)
		end(size < 0); /* the supervisor closed the link, or died */
	if (size < (long)sizeof message.request)
		end(2);
	reply.cookie = message.request.cookie;
	if (!(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && take_apart(&call, size, header.msg_controllen))
		perform(&call, &reply);
	if (call.given[0] < 0)
		sys(close_range, FIRST_FREE_FD, ~0u, 0);
	sent = answer(&reply, &call);
	if (call.given[0] >= 0)
		sys(close_range, FIRST_FREE_FD, ~0u, 0);
	if (sent != sizeof reply)
		end(0);
}

static void unblock_signals(void)
{
	unsigned long none = 0;
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} standard = { 0 };

	sys(rt_sigaction, SIGALRM, &standard, 0, sizeof none);
	sys(rt_sigaction, SIGCHLD, &standard, 0, sizeof none);
	sys(rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
}

/* The descriptors of `enum` in agent.h, in their order; LINK_FD and /dev/null at 0 to 2 are the supervisor's gift. */
static void open_own(void)
{
	static const char *const namespaces[] = { "self/ns/mnt", "self/ns/uts", "self/ns/net", "self/ns/pid" };
	long proc = sys(openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd;
	unsigned i;

	for (fd = PROC_FD; fd < FIRST_FREE_FD; fd++)
		if (proc < 0 || sys(dup3, proc, fd, O_CLOEXEC) < 0)
			end(4);
	sys(close, proc);
	for (i = 0; i < sizeof namespaces / sizeof namespaces[0]; i++)
		if (sys(openat, PROC_FD, namespaces[i], O_RDONLY | O_CLOEXEC) != HOST_MNTNS_FD + (long)i)
			end(4);
}

void agent_main(void) __attribute__((noreturn));
void agent_main(void)
{
	sys(prctl, PR_SET_NAME, "agent");
	unblock_signals();
	if (note_open())
		end(4);
	open_own();
	if (creds_start() || filter_install())
		end(5);
	for (;;)
		serve_one();
}
