/* The receive loop, its table and its shortcut, the journal and the link to the agent: notifications of every kind, with memory that
 * changes between two looks, tracees that vanish, and agents that answer what they like.
 *
 * What must hold: a call that a row of the table decides gets that row's answer; no call is answered twice, or both answered and
 * given to Python; what the journal says of it is true at each answer; what is remembered lies in its ring; a request to the
 * agent is one of the protocol; nothing is left open.
 *
 * An input is a table, a shortcut, and then events, each followed by what the kernel answers meanwhile.
 */
#include "fuzz.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdbool.h>

#include "../../interceptor/native/agentlink.h"
#include "../../interceptor/native/journal.h"
#include "../../interceptor/native/notify.h"
#include "../../interceptor/native/shortcut.h"
#include "notify_kernel.h"

#define FDS 64
#define NOTIFIER 3
#define LINK 4
#define FIRST_FREE 5
#define ROWS 6
#define TYPES 4
#define EVENTS_MAX 64
#define X86_64 0xC000003Eu
#define I386 0x40000003u

static struct {
	struct input input;
	bool open[FDS];
	uint64_t time, id, answered;
	unsigned events;
	bool sent;                  /* the agent was sent a request … */
	uint64_t cookie;
	struct seccomp_notif now;   /* the call that was received last; id 0: none */
	struct seccomp_notif_resp answer;
	struct ic_record *record;
	const struct ic_table *table;
} kernel;

/* ---- what the table means, said plainly ---- */

/* The row; null: Python, or `*unknown` because a string decides. */
static const struct ic_row *decides(const struct seccomp_notif *call, bool *unknown)
{
	const uint64_t width = call->data.arch == I386 ? UINT32_MAX : UINT64_MAX;

	*unknown = false;
	for (uint32_t i = 0; i < kernel.table->length; i++) {
		const struct ic_row *row = &kernel.table->row[i];
		bool holds = row->nr == call->data.nr && row->arch == call->data.arch;

		for (uint32_t c = 0; holds && c < row->conditions; c++)
			holds = (call->data.args[row->condition[c].index] & row->condition[c].mask & width) == row->condition[c].value;
		if (!holds)
			continue;
		*unknown = row->text.length || row->action == IC_LOOK;
		return row->action == IC_ASK || *unknown ? NULL : row;
	}
	return NULL;
}

static bool is_x32(const struct seccomp_notif *call)
{
	return call->data.arch == X86_64 && call->data.nr & 0x40000000;
}

/* Before the next call is received, or Python is asked. `python`: it is, about this one. */
static void check_answer(bool python)
{
	const struct seccomp_notif *call = &kernel.now;
	bool unknown;
	const struct ic_row *row;

	if (!call->id)
		return;
	row = decides(call, &unknown);
	if (is_x32(call)) {
		MUST(!python && kernel.answer.id == call->id && kernel.answer.error == -ENOSYS);
		return;
	}
	if (python)
		MUST(!row && kernel.answer.id != call->id);
	if (!row)
		return;
	MUST(kernel.answer.id == call->id);
	MUST(kernel.answer.val == (row->action == IC_RETURN ? row->value : 0));
	MUST(kernel.answer.error == (row->action == IC_ERRNO ? -row->value : 0));
	MUST(kernel.answer.flags == (row->action == IC_CONTINUE ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0));
}

/* ---- the kernel ---- */

static bool fails(int error)
{
	if (take(&kernel.input, 1) < 0xc0)
		return false;
	errno = error;
	return true;
}

static int new_fd(void)
{
	int fd = FIRST_FREE;

	while (fd < FDS && kernel.open[fd])
		fd++;
	MUST(fd < FDS);
	kernel.open[fd] = true;
	return fd;
}

static void must_be_open(int fd)
{
	MUST(fd == AT_FDCWD || (fd >= 0 && fd < FDS && kernel.open[fd]));
}

static int receive(struct seccomp_notif *request)
{
	static const int numbers[] = {165 /* mount */, 166 /* umount2 */, 21, 22, 512 + 21, 0x40000000 + 165, -1, 170};
	uint8_t shape;

	for (size_t i = 0; i < sizeof *request; i++)
		MUST(!((const char *)request)[i]);
	if (!kernel.input.left || kernel.events++ == EVENTS_MAX) {
		kernel.input.left = 0;
		errno = ENOENT;
		return -1;
	}
	shape = (uint8_t)take(&kernel.input, 1);
	if (shape == 0xfe || shape == 0xff) {
		errno = shape == 0xfe ? EINTR : ENOENT;
		return -1;
	}
	request->id = ++kernel.id;
	request->pid = shape & 0x80 ? (uint32_t)take(&kernel.input, 1) : 100;
	request->data.nr = numbers[shape & 7];
	request->data.arch = shape & 8 ? I386 : X86_64;
	for (int i = 0; i < 6; i++)
		request->data.args[i] = shape & 16 << (i & 1) ? take(&kernel.input, i & 1 ? 8 : 2) : (uint64_t)(0x1000 * i);
	kernel.now = *request;
	kernel.answer.id = 0;
	return 0;
}

static int send_answer(const struct seccomp_notif_resp *answer)
{
	MUST(answer->id && answer->id <= kernel.id && answer->id > kernel.answered);
	MUST(answer->error <= 0 && (!answer->error || !answer->val));
	if (answer->flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		MUST(!answer->error && !answer->val);
	if (kernel.record && kernel.record->id == answer->id && kernel.record->cookie && kernel.record->stage != IC_RECEIVED) {
		MUST(kernel.record->stage == IC_ACTED);
		MUST(kernel.record->value == (answer->error ? kernel.record->value : answer->val));
		MUST(kernel.record->error == -answer->error && kernel.record->flags == answer->flags);
	}
	kernel.answered = answer->id;
	kernel.answer = *answer;
	return fails(ENOENT) ? -1 : 0;
}

int model_ioctl(int fd, unsigned long command, ...)
{
	va_list rest;
	void *argument;

	va_start(rest, command);
	argument = va_arg(rest, void *);
	va_end(rest);
	must_be_open(fd);
	switch (command) {
	case SECCOMP_IOCTL_NOTIF_RECV:
		check_answer(false);
		kernel.now.id = 0;
		return receive(argument);
	case SECCOMP_IOCTL_NOTIF_SEND:
		return send_answer(argument);
	case SECCOMP_IOCTL_NOTIF_ID_VALID:
		MUST(*(uint64_t *)argument && *(uint64_t *)argument <= kernel.id);
		return fails(ENOENT) ? -1 : 0;
	default:
		errno = EINVAL;
		return -1;
	}
}

int model_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	MUST(count == 1);
	fds->revents = !kernel.input.left ? POLLHUP : POLLIN;
	return timeout < 0 && fails(EINTR) ? -1 : 1;
}

/* Each look finds what the input has next, or nothing. */
ssize_t model_readv(pid_t tid, const struct iovec *local, unsigned long locals, const struct iovec *remote, unsigned long remotes)
{
	ssize_t copied = 0;

	MUST(tid > 0 || tid == 0);
	MUST(locals == remotes);
	for (unsigned long i = 0; i < locals; i++) {
		size_t there = (size_t)take(&kernel.input, 2) & 0x1fff;

		MUST(local[i].iov_len == remote[i].iov_len);
		if (local[i].iov_len)
			memset(local[i].iov_base, 'x', local[i].iov_len);
		if (there < local[i].iov_len) {
			copied += (ssize_t)take_bytes(&kernel.input, local[i].iov_base, there);
			break;
		}
		take_bytes(&kernel.input, local[i].iov_base, local[i].iov_len);
		copied += (ssize_t)local[i].iov_len;
	}
	if (copied)
		return copied;
	errno = EFAULT;
	return -1;
}

int model_open(int directory, const char *name, int flags)
{
	must_be_open(directory);
	MUST(strlen(name) < 32 && flags & O_CLOEXEC);
	return fails(ENOENT) ? -1 : new_fd();
}

int model_close(int fd)
{
	MUST(fd >= FIRST_FREE);
	must_be_open(fd);
	kernel.open[fd] = false;
	return 0;
}

ssize_t model_read(int fd, void *to, size_t size)
{
	size_t length = take(&kernel.input, 1);

	must_be_open(fd);
	if (fails(ESRCH))
		return -1;
	memset(to, 'n', size);
	return (ssize_t)(length < size ? length : size); /* comm */
}

int model_stat(int fd, const char *name, struct stat *found)
{
	must_be_open(fd);
	MUST(strlen(name) < 32);
	memset(found, 0, sizeof *found);
	if (fails(ESRCH))
		return -1;
	found->st_ino = take(&kernel.input, 1) & 0x80 ? 1 : !strcmp(name, "ns/user") ? 20 : 10;
	found->st_uid = take(&kernel.input, 1) & 0x80 ? 0 : 100000;
	return 0;
}

int model_statx(int fd, unsigned mask, struct statx *found)
{
	uint8_t byte = (uint8_t)take(&kernel.input, 1);

	must_be_open(fd);
	memset(found, 0, sizeof *found);
	found->stx_mask = byte & 0x80 ? 0 : mask;
	found->stx_attributes = byte & 0x40 ? STATX_ATTR_MOUNT_ROOT : 0;
	found->stx_mnt_id = byte & 15;
	found->stx_mode = byte & 0x20 ? S_IFDIR : S_IFREG;
	found->stx_ino = 1;
	found->stx_dev_minor = byte >> 4 & 1;
	return fails(EIO) ? -1 : 0;
}

long model_openat2(int directory, const char *path)
{
	must_be_open(directory);
	MUST(*path == '/' && strlen(path) < 4096);
	return fails(EAGAIN) ? -1 : new_fd();
}

/* In the place of native/mountapi.c. */
int ic_mounts_on(int mount_namespace, uint64_t mount)
{
	(void)mount_namespace;
	MUST(mount < 16);
	if (fails(ENOTTY))
		return -ENOTTY;
	return fails(ENOENT) ? -ENOENT : take(&kernel.input, 1) & 1;
}

long model_capget(void *data)
{
	memset(data, take(&kernel.input, 1) & 0x80 ? 0 : 0xff, 2 * sizeof(struct __user_cap_data_struct));
	return fails(ESRCH) ? -1 : 0;
}

int model_clock(struct timespec *now)
{
	kernel.time += 1000 + (take(&kernel.input, 1) & 0x80 ? 1ull << 30 : 0);
	*now = (struct timespec){.tv_sec = (time_t)(kernel.time / 1000000000), .tv_nsec = (long)(kernel.time % 1000000000)};
	return 0;
}

/* What the agent would make of it. */
ssize_t model_send(int fd, const struct msghdr *message)
{
	const struct agent_request *request = message->msg_iov->iov_base;
	size_t size = message->msg_iov->iov_len, fds = 0, texts = 0;
	const char *text = (const char *)(request + 1);

	MUST(fd == LINK);
	if (message->msg_controllen)
		fds = (((const struct cmsghdr *)message->msg_control)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	MUST(request->version == AGENT_WIRE_VERSION && request->op < AGENT_OPS);
	MUST(size == sizeof *request + request->text_length && request->text_length <= AGENT_TEXT_MAX);
	MUST(fds == (size_t)__builtin_popcount(request->fds));
	for (size_t i = 0; i < fds; i++)
		must_be_open(((const int *)CMSG_DATA((const struct cmsghdr *)message->msg_control))[i]);
	for (size_t i = 0; i < request->text_length; i++)
		texts += !text[i];
	MUST(texts == (size_t)__builtin_popcount(request->texts) && (!texts || !text[request->text_length - 1]));
	MUST(request->fsuid && request->root_uid);
	kernel.sent = true;
	kernel.cookie = request->cookie;
	if (kernel.record && kernel.now.id)
		MUST(kernel.record->stage == IC_ACTING && kernel.record->cookie == request->cookie);
	return fails(take(&kernel.input, 1) & 1 ? EPIPE : ECONNRESET) ? -1 : (ssize_t)size;
}

ssize_t model_receive(int fd, struct msghdr *message)
{
	struct agent_reply *reply = message->msg_iov->iov_base;
	uint8_t shape = (uint8_t)take(&kernel.input, 1);
	size_t size = shape & 1 ? take(&kernel.input, 1) % (sizeof *reply + 1) : sizeof *reply;
	struct cmsghdr *control = message->msg_control;
	unsigned given = shape & 2 ? take(&kernel.input, 1) % (AGENT_GIVEN_MAX + 1) : 0;
	struct agent_reply said = {.cookie = kernel.cookie + !!(shape & 4), .outcome = shape >> 6, .given = {-1, -1}};

	MUST(fd == LINK && message->msg_iov->iov_len == sizeof *reply);
	if (shape == 0xff) {
		errno = EAGAIN;
		return -1;
	}
	said.error = shape & 8 ? (int32_t)take(&kernel.input, 1) : 0;
	said.value = (int64_t)take(&kernel.input, 2);
	memcpy(reply, &said, size);
	message->msg_flags = 0;
	message->msg_controllen = 0;
	if (given) {
		*control = (struct cmsghdr){CMSG_LEN(given * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
		for (unsigned i = 0; i < given; i++)
			((int *)CMSG_DATA(control))[i] = new_fd();
		message->msg_controllen = CMSG_SPACE(given * sizeof(int));
	}
	return (ssize_t)size;
}

/* ---- Python's side ---- */

static struct ic_table *make_table(struct input *input)
{
	static const int numbers[] = {165, 166, 21, 22};
	uint32_t length = (uint32_t)take(input, 1) % (ROWS + 1);
	struct ic_table *table = calloc(1, sizeof *table + length * sizeof table->row[0]);

	table->length = length;
	for (uint32_t i = 0; i < length; i++) {
		struct ic_row *row = &table->row[i];
		uint8_t shape = (uint8_t)take(input, 1);

		row->nr = numbers[shape & 3];
		row->arch = shape & 4 ? I386 : X86_64;
		row->conditions = shape >> 3 & 3;
		for (uint32_t c = 0; c < row->conditions; c++) {
			row->condition[c].index = (uint32_t)take(input, 1) % 6;
			row->condition[c].mask = take(input, 1) * 0x0101010101010101u;
			row->condition[c].value = take(input, 2) & row->condition[c].mask;
		}
		if (shape & 0x20) {
			row->text.index = (uint32_t)take(input, 1) % 6;
			row->text.length = (uint32_t)take_bytes(input, row->text.pattern, take(input, 1) % IC_PATTERN);
			row->text.length = (uint32_t)strnlen(row->text.pattern, row->text.length);
			row->text.exact = shape >> 6 & 1;
		}
		row->action = (uint32_t)take(input, 1) % 5;
		row->value = row->action == IC_LOOK ? row->nr == 166 ? IC_LOOK_UMOUNT : IC_LOOK_MOUNT
			   : row->action == IC_ERRNO ? 1 + (int64_t)take(input, 1) : (int64_t)take(input, 2);
		row->rule = i;
		table->present[row->nr & 511] = 1;
	}
	return table;
}

static void make_types(struct input *input, struct ic_type *type, uint32_t count)
{
	static const char *const names[] = {"tmpfs", "fuse", "fuse.sshfs", "proc"};

	for (uint32_t i = 0; i < count; i++) {
		uint8_t shape = (uint8_t)take(input, 1);

		memset(&type[i], 0, sizeof type[i]);
		if (i + 1 < count)
			strcpy(type[i].name, names[shape & 3]);
		type[i].action = (shape >> 2) % 3;
		type[i].ending = i;
	}
}

static void check_hits(const struct ic_session *session)
{
	MUST(session->hit_count - session->hits_taken < IC_HITS);
	MUST(session->text_count - session->text_taken <= IC_TEXT);
	for (uint64_t i = session->hits_taken; i < session->hit_count; i++) {
		const struct ic_hit *hit = &session->hit[i % IC_HITS];

		MUST(hit->text + hit->text_length <= IC_TEXT);
		if (hit->text_length) {
			MUST(strnlen(session->text + hit->text, hit->text_length) < sizeof session->task[0].comm);
			MUST(!session->text[hit->text + hit->text_length - 1]);
		}
	}
}

/* What a supervisor in Python does with what it is told; answers what goes into the next ic_next(). */
static uint64_t python(struct ic_session *session, struct ic_slot *slot, struct ic_agent *agent, const struct ic_notification *out,
		       int result)
{
	check_hits(session);
	switch (result) {
	case IC_FULL:
	case IC_WANTED:
	case IC_UNHEARD:
		if (result != IC_UNHEARD || take(&kernel.input, 1) & 1)
			ic_session_taken(session, session->hit_count, session->text_count);
		return 0;
	case IC_SLOW:
	case IC_LOST:
		MUST(kernel.sent && session->handed_length <= sizeof session->handed && session->handed_length > 0);
		MUST(!session->handed[session->handed_length - 1]);
		break;
	default:
		MUST(result == IC_MISS || result == IC_UNTAKEN);
		break;
	}
	MUST(out->id == kernel.now.id && out->nr == kernel.now.data.nr && out->tid == kernel.now.pid);
	check_answer(true);
	if (kernel.record)
		MUST(kernel.record->id == out->id);
	if (!slot->agent)
		ic_slot_put(slot, agent);
	ic_slot_want(slot, take(&kernel.input, 1) & 1);
	return take(&kernel.input, 1) & 0x80 ? 0 : out->id;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ic_type type[TYPES];
	static const uint64_t immutable[] = {2, 3, 5, 9}, leaf[] = {1};
	struct ic_session *session = calloc(1, sizeof *session);
	struct ic_record *record = calloc(1, sizeof *record);
	struct ic_agent agent = {.pid = 1, .socket = LINK, .cpu = -1};
	struct ic_slot slot = {&agent, 0};
	struct ic_pace pace = {0};
	struct ic_notification out = {0};
	struct ic_shortcut shortcut = {
		.types = TYPES, .type = type, .immutable = immutable, .leaf = leaf, .mount_namespace = 10, .user_namespace = 20,
		.first_id = 100000, .id_count = 65536, .deadline_ms = 5000, .slot = &slot,
	};
	struct ic_table *table;
	uint64_t id = 0;
	uint8_t shape;
	int result;

	memset(&kernel, 0, sizeof kernel);
	kernel.input = (struct input){data, size};
	kernel.open[NOTIFIER] = kernel.open[LINK] = true;
	shape = (uint8_t)take(&kernel.input, 1);
	kernel.table = table = make_table(&kernel.input);
	make_types(&kernel.input, type, TYPES);
	shortcut.restarts = shape & 1;
	shortcut.immutables = shape & 2 ? 4 : 0;
	shortcut.leaves = shape >> 6 & 1;
	session->notifier = NOTIFIER;
	session->poll_first = shape >> 2 & 1;
	ic_session_table(session, table);
	ic_session_shortcut(session, shape & 8 ? NULL : &shortcut);
	ic_session_pace(session, &pace);
	ic_pace_set(&pace, shape & 16 ? 1 : 0);
	kernel.record = out.record = shape & 32 ? NULL : record;
	for (;;) {
		int32_t note = -1;

		if (id && take(&kernel.input, 1) & 1)
			note = (int32_t)take(&kernel.input, 1);
		kernel.sent = false;
		result = ic_next(session, id, (int64_t)(id & 1), id & 2 ? EPERM : 0, 0, note, &out);
		if (result < 0)
			break;
		id = python(session, &slot, &agent, &out, result);
		kernel.now.id = 0;
		kernel.sent = false;
	}
	MUST(result == -ENODEV);
	ic_session_end(session);
	ic_journal_enter(NULL);
	for (int fd = FIRST_FREE; fd < FDS; fd++)
		MUST(!kernel.open[fd]);
	free(table);
	free(record);
	free(session);
	return 0;
}
