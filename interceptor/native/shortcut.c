#include "shortcut.h"
#include "notify.h"
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif
#ifndef UMOUNT_NOFOLLOW
#define UMOUNT_NOFOLLOW 8
#endif

#define STRING_MAX 1024u /* a longer string is not plain */
#define STRINGS 4
#define ARCH_I386 0x40000003u

/* The strings of one call, one behind the other, each with its NUL; null for a null pointer. */
struct strings {
	const char *at[STRINGS];
	uint32_t length;
	char text[STRINGS * STRING_MAX];
};

static uint64_t argument(const struct ic_notification *call, int index)
{
	return call->args[index] & (call->arch == ARCH_I386 ? UINT32_MAX : UINT64_MAX);
}

/* Whether every string was copied to its end. `from` are registers, in the order in which the kernel copies. */
static int copy_strings(const struct ic_notification *call, const int *from, int count, struct strings *strings)
{
	struct ic_piece piece[STRINGS];
	int pieces = 0, taken = 0;

	for (int i = 0; i < count; i++)
		if (argument(call, from[i]))
			piece[pieces++] = (struct ic_piece){.address = argument(call, from[i]), .limit = STRING_MAX, .terminated = 1};
	ic_pin_copy(call->tid, piece, pieces, strings->text, sizeof strings->text);
	strings->length = 0;
	for (int i = 0; i < count; i++) {
		char *copy = strings->text + strings->length;
		const struct ic_piece *copied = &piece[taken];

		strings->at[i] = 0;
		if (!argument(call, from[i]))
			continue;
		if (copied->length <= 0 || strings->text[copied->offset + (uint32_t)copied->length - 1])
			return 0;
		memmove(copy, strings->text + copied->offset, (size_t)copied->length);
		strings->at[i] = copy;
		strings->length += (uint32_t)copied->length;
		taken++;
	}
	return 1;
}

/* A descriptor of /proc/TID, kept from one call of a thread to its next. It belongs to the task that had the number when it
 * was opened, and everything below it fails once that task is gone (pin.h). So whoever finds something below it after a
 * notification came, and sees by ID_VALID that the notification still counts, has found it at the tracee's: one number is
 * not two tasks' at a time. (execve(2) in a thread gives its task the leader's number: then the descriptor of that number
 * is the descriptor of that task.) */
static int task_open(struct ic_task *task, uint32_t tid)
{
	char path[32];
	int proc;

	if (task->proc)
		close((int)task->proc - 1);
	task->proc = 0;
	task->comm_time = 0;
	snprintf(path, sizeof path, "/proc/%u", tid);
	proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return -errno;
	task->tid = tid;
	task->proc = (uint32_t)proc + 1;
	return proc;
}

/* Opens NAME below the tracee's /proc directory; a descriptor or -errno. */
static int task_below(struct ic_session *session, uint32_t tid, const char *name, int flags)
{
	struct ic_task *task = &session->task[tid % IC_TASKS];
	int fd;

	if (task->proc && task->tid == tid) {
		fd = openat((int)task->proc - 1, name, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	fd = task_open(task, tid);
	if (fd < 0)
		return fd;
	fd = openat(fd, name, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

#define COMM_AGE 10000000u /* ns: how old a thread's name may be in the trace; a loop of calls is not asked each time */

static const char *task_comm(struct ic_session *session, const struct ic_notification *call)
{
	struct ic_task *task = &session->task[call->tid % IC_TASKS];
	ssize_t n;
	int fd;

	if (task->proc && task->tid == call->tid && task->comm_time && call->received - task->comm_time < COMM_AGE)
		return task->comm;
	fd = task_below(session, call->tid, "comm", O_RDONLY);
	n = fd < 0 ? 0 : read(fd, task->comm, sizeof task->comm);
	if (fd >= 0)
		close(fd);
	task->comm[n > 0 ? n - 1 : 0] = 0; /* the kernel ends it with a newline */
	task->comm_time = call->received;
	return task->comm;
}

static int to_kernel(struct ic_session *session, const struct ic_notification *call, const struct strings *strings, uint32_t ending)
{
	const char *comm = task_comm(session, call);

	ic_answer(session->notifier, call->id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
	ic_remember(session, call, IC_LOOKED | ending, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE, comm, strings->text, strings->length);
	return IC_ANSWERED;
}

static const struct ic_type *entry(const struct ic_shortcut *shortcut, const char *name, size_t length)
{
	if (length < IC_TYPE_NAME)
		for (uint32_t i = 0; i + 1 < shortcut->types; i++)
			if (!strncmp(shortcut->type[i].name, name, length) && !shortcut->type[i].name[length])
				return &shortcut->type[i];
	return 0;
}

/* As Policy.filesystem(): a subtype without an entry is its type. */
static const struct ic_type *type_of(const struct ic_shortcut *shortcut, const char *name)
{
	const struct ic_type *found = entry(shortcut, name, strlen(name));

	if (!found)
		found = entry(shortcut, name, strcspn(name, "."));
	return found ? found : &shortcut->type[shortcut->types - 1];
}

static int look_mount(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call)
{
	enum { TYPE, SOURCE, DATA, TARGET };
	static const int copied[] = {[TYPE] = 2, [SOURCE] = 0, [DATA] = 4, [TARGET] = 1};
	const struct ic_type *type;
	struct strings strings;

	if (!copy_strings(call, copied, STRINGS, &strings))
		return IC_MISS;
	if (!strings.at[TYPE] || !*strings.at[TYPE] || !strings.at[TARGET] || !*strings.at[TARGET])
		return IC_MISS;
	type = type_of(shortcut, strings.at[TYPE]);
	if (type->action == IC_TYPE_CONTINUE)
		return to_kernel(session, call, &strings, type->ending);
	return IC_MISS;
}

static int is_immutable(const struct ic_shortcut *shortcut, uint64_t mount)
{
	uint32_t first = 0, last = shortcut->immutables;

	while (first < last) {
		uint32_t middle = first + (last - first) / 2;

		if (shortcut->immutable[middle] < mount)
			first = middle + 1;
		else
			last = middle;
	}
	return first < shortcut->immutables && shortcut->immutable[first] == mount;
}

/* Whether `path` certainly leads to something else than an immutable mount's root. It is walked in the tracee's root and in
 * the kernel's memory alone (RESOLVE_CACHED): no filesystem is asked, nothing can make us wait, and nothing happens. Where
 * that is not enough, or finds nothing, the answer is no. */
static int mutable(const struct ic_shortcut *shortcut, int root, const char *path, int follow)
{
	struct open_how how = {
		.flags = (uint64_t)(O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED,
	};
	int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
	struct statx facts;
	int error;

	if (fd < 0)
		return 0;
	error = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &facts);
	close(fd); /* before the kernel unmounts it: we would make it busy */
	if (error || !(facts.stx_mask & STATX_MNT_ID))
		return 0;
	return !(facts.stx_attributes & STATX_ATTR_MOUNT_ROOT) || !is_immutable(shortcut, facts.stx_mnt_id);
}

static int look_umount(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call)
{
	static const int copied[] = {0};
	struct strings strings;
	int root, sure;

	if (!copy_strings(call, copied, 1, &strings) || !strings.at[0] || strings.at[0][0] != '/')
		return IC_MISS;
	if (shortcut->immutables) {
		root = task_below(session, call->tid, "root", O_PATH);
		if (root < 0)
			return IC_MISS;
		sure = mutable(shortcut, root, strings.at[0], !(call->args[1] & UMOUNT_NOFOLLOW));
		close(root);
		if (!sure || ic_id_valid(session->notifier, call->id))
			return IC_MISS;
	}
	return to_kernel(session, call, &strings, shortcut->unmounted);
}

int ic_look(struct ic_session *session, const struct ic_notification *call, enum ic_look what)
{
	const struct ic_shortcut *shortcut = __atomic_load_n(&session->shortcut, __ATOMIC_ACQUIRE);

	if (!shortcut || !call->tid)
		return IC_MISS;
	return what == IC_LOOK_MOUNT ? look_mount(session, shortcut, call) : look_umount(session, shortcut, call);
}
