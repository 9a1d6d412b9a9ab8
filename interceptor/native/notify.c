#include "notify.h"
#include "journal.h"
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1UL
#endif
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
#endif

#define ARCH_X86_64 0xC000003Eu
#define ARCH_I386 0x40000003u
#define X32_SYSCALL_BIT 0x40000000

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void *ic_reserve(uint64_t size)
{
	void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? 0 : memory;
}

void ic_release(void *memory, uint64_t size)
{
	munmap(memory, size);
}

int ic_set_sync_wake_up(int notifier)
{
	return ioctl(notifier, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) < 0 ? -errno : 0;
}

void ic_session_table(struct ic_session *session, struct ic_table *table)
{
	__atomic_store_n(&session->table, table, __ATOMIC_RELEASE);
}

void ic_session_pace(struct ic_session *session, struct ic_pace *pace)
{
	session->pace = pace;
}

void ic_session_shortcut(struct ic_session *session, struct ic_shortcut *shortcut)
{
	__atomic_store_n(&session->shortcut, shortcut, __ATOMIC_RELEASE);
}

void ic_session_taken(struct ic_session *session, uint64_t hits, uint64_t text)
{
	__atomic_store_n(&session->text_taken, text, __ATOMIC_RELEASE);
	__atomic_store_n(&session->hits_taken, hits, __ATOMIC_RELEASE);
}

void ic_session_end(struct ic_session *session)
{
	for (int i = 0; i < IC_TASKS; i++) {
		if (session->task[i].proc)
			close((int)session->task[i].proc - 1);
		session->task[i].proc = 0;
	}
}

int ic_answer(int notifier, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
	/* CONTINUE needs val = error = 0; an error is negative on the wire. */
	struct seccomp_notif_resp answer = {.id = id, .val = error ? 0 : value, .error = -error, .flags = flags};

	ic_journal_answer(id, value, error, flags);
	return ioctl(notifier, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 ? -errno : 0;
}

int ic_give_fd(int notifier, uint64_t id, int fd, int cloexec, int answer)
{
	struct seccomp_notif_addfd add = {
		.id = id, .flags = answer ? SECCOMP_ADDFD_FLAG_SEND : 0, .srcfd = (uint32_t)fd, .newfd_flags = cloexec ? O_CLOEXEC : 0,
	};
	int result = ioctl(notifier, SECCOMP_IOCTL_NOTIF_ADDFD, &add);

	return result < 0 ? -errno : result;
}

int ic_id_valid(int notifier, uint64_t id)
{
	return ioctl(notifier, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) < 0 ? -errno : 0;
}

/* The beginning of one string of the call, copied when the first row asks for it. */
struct beginning {
	uint32_t index;
	int32_t length;      /* -1: unreadable */
	char text[IC_PATTERN];
};

#define NOTHING_COPIED UINT32_MAX

/* Whether the string is as `text` says: 1 or 0, -1 when that cannot be read. Who lies about it by another thread gets what he
 * would have got by telling the truth: a row that grants anything of ours goes to Python, which copies once more. */
static int text_holds(const struct ic_text *text, const struct seccomp_notif *request, uint64_t width, struct beginning *copy)
{
	uint32_t length = text->length + text->exact, known, same = 0;

	if (copy->index != text->index) {
		struct ic_piece piece = {.address = request->data.args[text->index] & width, .limit = IC_PATTERN, .terminated = 1};

		ic_pin_copy(request->pid, &piece, 1, copy->text, sizeof copy->text);
		copy->index = text->index;
		copy->length = piece.length;
	}
	if (copy->length < 0)
		return -1;
	known = (uint32_t)copy->length < length ? (uint32_t)copy->length : length;
	while (same < known && copy->text[same] == text->pattern[same]) /* a pattern is followed by zeros */
		same++;
	if (same == length)
		return 1;
	return same < known ? 0 : -1;
}

/* The row that decides; null: Python does. */
static const struct ic_row *look_up(const struct ic_table *table, const struct seccomp_notif *request)
{
	const struct seccomp_data *data = &request->data;
	const uint64_t width = data->arch == ARCH_I386 ? UINT32_MAX : UINT64_MAX;
	struct beginning copy = {.index = NOTHING_COPIED};

	if (!table || !table->present[data->nr & 511])
		return 0;
	for (uint32_t i = 0; i < table->length; i++) {
		const struct ic_row *row = &table->row[i];
		uint32_t c = 0;

		if (row->nr != data->nr || row->arch != data->arch)
			continue;
		while (c < row->conditions &&
		       (data->args[row->condition[c].index] & row->condition[c].mask & width) == row->condition[c].value)
			c++;
		if (c < row->conditions)
			continue;
		if (row->text.length) {
			int holds = text_holds(&row->text, request, width, &copy);

			if (holds < 0)
				return 0;
			if (!holds)
				continue;
		}
		return row->action == IC_ASK ? 0 : row;
	}
	return 0;
}

/* The kernel answers ENOENT both for a notification whose tracee died meanwhile and, from 6.11, when all are gone. */
static int hung_up(int notifier)
{
	struct pollfd p = {.fd = notifier, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) && !(p.revents & POLLIN);
}

static int wait_readable(int notifier)
{
	struct pollfd p = {.fd = notifier, .events = POLLIN};

	for (;;) {
		if (poll(&p, 1, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (p.revents & POLLIN)
			return 0;
		if (p.revents)
			return -ENODEV;
	}
}

static int receive(struct ic_session *session, struct seccomp_notif *request)
{
	for (;;) {
		if (session->poll_first) {
			int error = wait_readable(session->notifier);

			if (error)
				return error;
		}
		memset(request, 0, sizeof *request); /* the kernel insists: EINVAL otherwise */
		if (ioctl(session->notifier, SECCOMP_IOCTL_NOTIF_RECV, request) == 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != ENOENT)
			return -errno;
		if (hung_up(session->notifier))
			return -ENODEV;
	}
}

/* Room for one more hit with the longest text. */
static int full(const struct ic_session *session)
{
	return session->hit_count - __atomic_load_n(&session->hits_taken, __ATOMIC_ACQUIRE) >= IC_HITS - 1 ||
	       session->text_count - __atomic_load_n(&session->text_taken, __ATOMIC_ACQUIRE) > IC_TEXT - 2 * (IC_TEXT_MAX + 16);
}

static struct ic_hit *remember(struct ic_session *session, const struct ic_notification *call, uint32_t rule, int64_t value,
			       int32_t error, uint32_t flags)
{
	struct ic_hit *hit = &session->hit[session->hit_count % IC_HITS];

	hit->time = now();
	hit->nanoseconds = (uint32_t)(hit->time - call->received);
	memcpy(hit->args, call->args, sizeof hit->args);
	hit->tid = call->tid;
	hit->arch = call->arch;
	hit->nr = call->nr;
	hit->rule = rule;
	hit->value = value;
	hit->error = error;
	hit->flags = flags;
	hit->text_length = 0;
	return hit;
}

static void publish(struct ic_session *session)
{
	__atomic_store_n(&session->hit_count, session->hit_count + 1, __ATOMIC_RELEASE);
}

void ic_remember(struct ic_session *session, const struct ic_notification *call, uint32_t rule, int64_t value, int32_t error,
		 uint32_t flags, const char *comm, const char *text, uint32_t length)
{
	struct ic_hit *hit = remember(session, call, rule, value, error, flags);
	uint32_t name = (uint32_t)strlen(comm) + 1;
	uint64_t at = session->text_count;

	if (IC_TEXT - at % IC_TEXT < name + length)
		at += IC_TEXT - at % IC_TEXT; /* in one piece, so perhaps not at the very end */
	hit->text = (uint32_t)(at % IC_TEXT);
	hit->text_length = name + length;
	memcpy(session->text + hit->text, comm, name);
	memcpy(session->text + hit->text + name, text, length);
	session->text_count = at + name + length;
	publish(session);
}

static void answer_hit(struct ic_session *session, const struct ic_notification *call, const struct ic_row *row)
{
	int64_t value = row->action == IC_RETURN ? row->value : 0;
	int32_t error = row->action == IC_ERRNO ? (int32_t)row->value : 0;
	uint32_t flags = row->action == IC_CONTINUE ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;

	ic_answer(session->notifier, call->id, value, error, flags);
	remember(session, call, row->rule, value, error, flags);
	publish(session);
}

void ic_flatten(const struct seccomp_notif *request, struct ic_notification *out)
{
	out->id = request->id;
	out->key = (uint64_t)request->data.arch << 32 | (uint32_t)request->data.nr;
	out->tid = request->pid;
	out->arch = request->data.arch;
	out->nr = request->data.nr;
	out->ip = request->data.instruction_pointer;
	memcpy(out->args, request->data.args, sizeof out->args);
	out->received = now();
}

int ic_next(struct ic_session *session, uint64_t id, int64_t value, int32_t error, uint32_t flags, int32_t note,
	    struct ic_notification *out)
{
	struct seccomp_notif unrecorded, *request = out->record ? (struct seccomp_notif *)out->record->request : &unrecorded;
	const struct ic_row *row;

	ic_current = out->record;
	out->sent = id ? ic_answer(session->notifier, id, value, error, flags) : 0;
	if (note >= 0) {
		remember(session, out, IC_NOTE | (uint32_t)note, value, error, flags);
		publish(session);
	} else if (out->sent) {
		return IC_UNHEARD;
	}
	for (;;) {
		int failure;

		if (full(session))
			return IC_FULL;
		if (out->record)
			out->record->stage = IC_RECEIVED;
		failure = receive(session, request);
		if (failure)
			return failure;
		if (request->data.arch == ARCH_X86_64 && (request->data.nr & X32_SYSCALL_BIT)) {
			ic_answer(session->notifier, request->id, 0, ENOSYS, 0);
			continue;
		}
		ic_flatten(request, out);
		ic_pace_wait(session->pace, out->received);
		row = look_up(__atomic_load_n(&session->table, __ATOMIC_ACQUIRE), request);
		if (!row)
			return IC_MISS;
		if (row->action != IC_LOOK) {
			answer_hit(session, out, row);
			continue;
		}
		failure = ic_look(session, out, (enum ic_look)row->value);
		if (failure != IC_ANSWERED)
			return failure;
	}
}

static int install_listener(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x7fffffff, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* A listener whose only task is gone. The child shares our descriptors, so what it opens is ours. */
static int orphaned_listener(void)
{
	volatile int *fd = mmap(0, sizeof *fd, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int result;
	long child;

	if (fd == MAP_FAILED)
		return -errno;
	*fd = -EAGAIN;
	child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		int listener = install_listener();

		*fd = listener < 0 ? -errno : listener;
		_exit(0);
	}
	if (child < 0)
		*fd = -errno;
	else
		while (waitpid((pid_t)child, 0, 0) < 0 && errno == EINTR)
			;
	result = *fd;
	munmap((void *)fd, sizeof *fd);
	return result;
}

static int receive_returns(int listener)
{
	int status = 1;
	pid_t child = fork();
	struct pollfd p = {.events = POLLIN};

	if (child == 0) {
		struct seccomp_notif request = {0};

		_exit(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0 && errno == ENOENT ? 0 : 1);
	}
	if (child < 0)
		return -errno;
	p.fd = (int)syscall(SYS_pidfd_open, child, 0);
	poll(&p, 1, 300);
	kill(child, SIGKILL); /* ours, not reaped yet: the number is still its own */
	close(p.fd);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int ic_probe_receive_returns(void)
{
	int result, listener = orphaned_listener();

	if (listener < 0)
		return listener;
	result = receive_returns(listener);
	close(listener);
	return result;
}
