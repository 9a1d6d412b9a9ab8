#include "notify.h"
#include "agentlink.h"
#include "forks.h"
#include "mountapi.h"
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
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
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000u
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

struct ic_agent *ic_slot_take(struct ic_slot *slot)
{
	return __atomic_exchange_n(&slot->agent, (struct ic_agent *)0, __ATOMIC_SEQ_CST);
}

int ic_slot_put(struct ic_slot *slot, struct ic_agent *agent)
{
	__atomic_store_n(&slot->agent, agent, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&slot->wanted, __ATOMIC_SEQ_CST);
}

void ic_slot_want(struct ic_slot *slot, int wanted)
{
	__atomic_store_n(&slot->wanted, wanted, __ATOMIC_SEQ_CST);
}

#define BASIS 0xcbf29ce484222325u
#define PRIME 0x100000001b3u /* FNV-1a: whoever makes two of its own calls look alike may lose one of its own mounts */

static uint64_t digest(uint64_t sum, const void *data, size_t size)
{
	for (const unsigned char *byte = data; size--; byte++)
		sum = (sum ^ *byte) * PRIME;
	return sum;
}

uint64_t ic_made_key(const void *again, uint64_t size)
{
	uint64_t sum = digest(BASIS, again, size);

	return sum ? sum : 1;
}

static uint64_t key_of(const struct ic_notification *call, const struct strings *strings)
{
	struct ic_again again = {call->tid, call->key, call->ip, {0}};
	uint64_t sum;

	memcpy(again.args, call->args, sizeof again.args);
	sum = digest(digest(BASIS, &again, sizeof again), strings->text, strings->length);
	return sum ? sum : 1;
}

static uint64_t clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t ic_made_find(const struct ic_session *session, uint64_t key)
{
	const struct ic_made *made = &session->made[key % IC_MADE];

	return made->call == key && clock_now() < made->expires ? made->mount : 0;
}

void ic_made_put(struct ic_session *session, uint64_t key, uint64_t mount, uint64_t nanoseconds)
{
	session->made[key % IC_MADE] = (struct ic_made){key, mount, clock_now() + nanoseconds, 0};
}

#define PATIENCE 3          /* after so many attempts that a signal interrupted, a call is carried through (dispatch.py) */
#define MEMORY 5000000000u  /* ns for which it is remembered which mount was made for a call that was answered … */
#define KEPT 60000000000u   /* … and for one whose tracee was gone */

/* Nothing was done, because a signal came first. */
static void interrupted(struct ic_session *session, uint64_t key)
{
	struct ic_made *made = &session->made[key % IC_MADE];

	if (made->call != key)
		*made = (struct ic_made){.call = key};
	made->attempts++;
}

static int carry_through(struct ic_session *session, uint64_t key)
{
	const struct ic_made *made = &session->made[key % IC_MADE];

	return made->call == key && made->attempts >= PATIENCE;
}

/* The inode of a namespace of the pinned task; 0: it is gone. */
static uint64_t namespace(struct ic_session *session, uint32_t tid, const char *name)
{
	const struct ic_task *task = &session->task[tid % IC_TASKS];
	struct stat st;

	return task->tid == tid && task->proc && fstatat((int)task->proc - 1, name, &st, 0) == 0 ? st.st_ino : 0;
}

/* The plain subject: the container's root, in the container's own user and mount namespace, with the capability that mounting
 * needs and with the one that makes its groups irrelevant (tracee.py). Its root directory, O_PATH; -1: somebody else. */
static int plain_subject(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call,
			 uint64_t *capabilities)
{
	const uint64_t needed = 1ull << CAP_SYS_ADMIN | 1ull << CAP_DAC_OVERRIDE;
	int root = task_below(session, call->tid, "root", O_PATH);
	struct stat st;

	if (root < 0)
		return -1;
	*capabilities = ic_pin_effective(call->tid);
	if ((*capabilities & needed) == needed && namespace(session, call->tid, "ns/mnt") == shortcut->mount_namespace &&
	    namespace(session, call->tid, "ns/user") == shortcut->user_namespace &&
	    fstat((int)session->task[call->tid % IC_TASKS].proc - 1, &st) == 0 && st.st_uid == shortcut->first_id &&
	    ic_id_valid(session->notifier, call->id) == 0)
		return root;
	close(root);
	return -1;
}

/* Paths whose meaning depends on who walks them (Tracee.anchor), and such as do not start at the root, are not plain. */
static int plain_path(const char *path)
{
	if (*path != '/')
		return 0;
	path += strspn(path, "/");
	return strncmp(path, "proc/", 5) && strncmp(path, "dev/", 4);
}

/* Closes what is the tracee's, before its call is answered. */
static void let_go(int fd)
{
	close(fd);
	ic_forks_settle();
}

struct action {
	struct agent_request request;
	char text[2 * STRING_MAX];
};

static uint32_t add_text(struct action *action, uint32_t used, enum agent_text kind, const char *text)
{
	size_t size = strlen(text) + 1;

	memcpy(action->text + used, text, size);
	action->request.texts |= 1u << kind;
	return used + (uint32_t)size;
}

static void fill(struct action *action, const struct ic_shortcut *shortcut, const struct ic_notification *call, const char *type,
		 const char *target)
{
	struct agent_request *request = &action->request;
	uint32_t used;

	memset(request, 0, sizeof *request);
	request->version = AGENT_WIRE_VERSION;
	request->op = AGENT_STAND_IN;
	request->cookie = call->id;
	request->flags = AGENT_AT_HOME | (shortcut->restarts ? 0 : AGENT_NO_ID);
	request->fds = 1u << AGENT_FD_ROOT;
	request->mount_flags = argument(call, 3);
	request->fsuid = request->root_uid = shortcut->first_id;
	request->fsgid = request->root_gid = shortcut->first_id;
	request->id_count = shortcut->id_count;
	request->deadline_ms = shortcut->deadline_ms;
	used = add_text(action, 0, AGENT_TEXT_PATH, target);
	request->text_length = add_text(action, used, AGENT_TEXT_TYPE, type);
}

static void hand_over(struct ic_session *session, const char *comm, const struct strings *strings)
{
	uint32_t name = (uint32_t)strlen(comm) + 1;

	memcpy(session->handed, comm, name);
	memcpy(session->handed + name, strings->text, strings->length);
	session->handed_length = name + strings->length;
}

/* The agent has answered: so do we. */
static void settle(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call, uint64_t key,
		   const struct agent_reply *reply, const struct strings *strings, uint32_t ending)
{
	const char *comm = task_comm(session, call);
	int gone = reply->outcome == AGENT_GONE, sent;

	if (gone) {
		if (shortcut->restarts)
			interrupted(session, key);
		ic_remember(session, call, IC_LOOKED | ending, 0, 0, IC_NOBODY, comm, strings->text, strings->length);
		return;
	}
	sent = ic_answer(session->notifier, call->id, 0, reply->error, 0);
	if (shortcut->restarts && !reply->error)
		ic_made_put(session, key, (uint64_t)reply->value, sent ? KEPT : MEMORY);
	ic_remember(session, call, IC_LOOKED | ending, 0, reply->error, 0, comm, strings->text, strings->length);
}

/* Sends the request and waits a moment for its reply; descriptors in the order of enum agent_fd. */
static int exchange(struct ic_session *session, const struct ic_shortcut *shortcut, struct action *action, struct ic_agent *agent, int root,
		    const struct ic_notification *call, uint64_t key, struct agent_reply *reply)
{
	int fds[] = {session->notifier, root}, first = 1;

	if (!shortcut->restarts || !carry_through(session, key)) {
		action->request.notification = call->id;
		action->request.fds |= 1u << AGENT_FD_NOTIFIER;
		first = 0;
	}
	if (shortcut->restarts)
		action->request.unless_mount = ic_made_find(session, key);
	return ic_agent_call(agent, action, sizeof action->request + action->request.text_length, fds + first, 2u - (unsigned)first,
			     reply);
}

static int stand_in(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call,
		    const struct strings *strings, const char *target, const struct ic_type *type)
{
	struct action action;
	struct agent_reply reply;
	uint64_t key;
	struct ic_agent *agent;
	int root, result;

	/* What runs elsewhere may be an earlier self of this call, and who runs it knows what to do then. */
	if (!plain_path(target) || (shortcut->restarts && __atomic_load_n(&session->parked, __ATOMIC_ACQUIRE)))
		return IC_MISS;
	fill(&action, shortcut, call, strings->at[0], target);
	root = plain_subject(session, shortcut, call, &action.request.capabilities);
	if (root < 0)
		return IC_MISS;
	agent = ic_slot_take(shortcut->slot);
	if (!agent) {
		close(root);
		return IC_MISS;
	}
	key = shortcut->restarts ? key_of(call, strings) : 0;
	result = exchange(session, shortcut, &action, agent, root, call, key, &reply);
	let_go(root);
	if (result == 1) {
		int wanted = ic_slot_put(shortcut->slot, agent);

		ic_agent_drop_given(&reply);
		if (reply.outcome != AGENT_DONE && reply.outcome != AGENT_GONE)
			return IC_MISS; /* nothing was done, and Python knows what it wants */
		settle(session, shortcut, call, key, &reply, strings, type->ending);
		return wanted ? IC_WANTED : IC_ANSWERED;
	}
	if (result == -EPIPE)
		return IC_UNTAKEN;
	hand_over(session, task_comm(session, call), strings);
	return result == 0 ? IC_SLOW : IC_LOST;
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
	if (type->action == IC_TYPE_STAND_IN)
		return stand_in(session, shortcut, call, &strings, strings.at[TARGET], type);
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

static int is_leaf(const struct ic_shortcut *shortcut, const struct statx *facts)
{
	uint64_t device = (uint64_t)facts->stx_dev_major << 32 | facts->stx_dev_minor;

	for (uint32_t i = 0; i < shortcut->leaves; i++)
		if (shortcut->leaf[i] == device)
			return 1;
	return 0;
}

/* The root of a proc or sysfs: both have inode 1 and no size. */
static int is_virtual(const struct statx *facts)
{
	return S_ISDIR(facts->stx_mode) && facts->stx_ino == 1 && !facts->stx_size;
}

/* Whether nothing is mounted on the mount of `fd`, in the tracee's mount namespace. No, too, where the kernel cannot say: before
 * Linux 6.11. */
static int is_bare(struct ic_session *session, uint32_t tid, int fd)
{
	struct statx facts;
	int namespace, bare;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID_UNIQUE, &facts) || !(facts.stx_mask & STATX_MNT_ID_UNIQUE))
		return 0;
	namespace = task_below(session, tid, "ns/mnt", O_RDONLY);
	if (namespace < 0)
		return 0;
	bare = ic_mounts_on(namespace, facts.stx_mnt_id) == 0;
	close(namespace);
	return bare;
}

/* Whether that is certainly something else than the root of an immutable mount, a leaf, or what has leaves. */
static int is_mutable(struct ic_session *session, const struct ic_shortcut *shortcut, uint32_t tid, int fd)
{
	struct statx facts;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &facts) || !(facts.stx_mask & STATX_MNT_ID))
		return 0;
	if (!(facts.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return 1;
	if (is_immutable(shortcut, facts.stx_mnt_id) || is_leaf(shortcut, &facts))
		return 0;
	return !shortcut->leaves || !is_virtual(&facts) || is_bare(session, tid, fd);
}

/* The same of what `path` leads to. It is walked in the tracee's root and in the kernel's memory alone (RESOLVE_CACHED): no
 * filesystem is asked, nothing can make us wait, and nothing happens. Where that is not enough, or finds nothing, the answer
 * is no. */
static int leads_to_mutable(struct ic_session *session, const struct ic_shortcut *shortcut, uint32_t tid, const char *path,
			    int follow)
{
	struct open_how how = {
		.flags = (uint64_t)(O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED,
	};
	int sure, fd, root = task_below(session, tid, "root", O_PATH);

	if (root < 0)
		return 0;
	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
	close(root);
	if (fd < 0)
		return 0;
	sure = is_mutable(session, shortcut, tid, fd);
	let_go(fd); /* before the kernel unmounts it: we would make it busy */
	return sure;
}

static int look_umount(struct ic_session *session, const struct ic_shortcut *shortcut, const struct ic_notification *call)
{
	static const int copied[] = {0};
	struct strings strings;

	if (!copy_strings(call, copied, 1, &strings) || !strings.at[0] || strings.at[0][0] != '/')
		return IC_MISS;
	if (shortcut->immutables || shortcut->leaves) {
		int follow = !(call->args[1] & UMOUNT_NOFOLLOW);

		if (!leads_to_mutable(session, shortcut, call->tid, strings.at[0], follow) || ic_id_valid(session->notifier, call->id))
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
