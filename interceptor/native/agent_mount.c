/* Fresh mounts of proc, sysfs and other filesystems without a backing device, and empty ones in their place. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>

#define COVERS_MAX 256
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* What MOUNT mounts. None of them has a source that would be looked up. `refused` options would be read in our place and not
 * in the tracee's: a path in our namespaces and with our rights, an id as the host's. */
static const struct type {
	const char *name;
	int (*make)(void *made);
	const char *refused[3];
} types[];

struct made {
	const struct call *call;
	const struct type *type;
	int use_pidns, context;
	long result;
};

static int has_key(const char *options, const char *key)
{
	size_t size = text_size(key);

	while (*options) {
		size_t i = 0;

		while (i < size && options[i] == key[i])
			i++;
		if (i == size && (options[i] == '=' || options[i] == ',' || !options[i]))
			return 1;
		while (*options && *options++ != ',')
			;
	}
	return 0;
}

static long set_up(int context, const struct made *made)
{
	const struct call *call = made->call;
	const char *options = call->text[AGENT_TEXT_OPTIONS];
	const char *const *refused;
	long error;

	for (refused = made->type->refused; options && *refused; refused++)
		if (has_key(options, *refused))
			return -EINVAL;
	error = context_common(context, call);
	if (!error && options)
		error = context_options(context, options);
	return error ? error : context_create(context);
}

static int set_up_inside(void *argument)
{
	struct made *made = argument;
	long error = creds_enter_userns(made->call);

	made->result = error ? error : set_up(made->context, made);
	return 0;
}

/* proc's gid= is read at its creation as an id of the creator's user namespace (proc_fill_super()): a child's then. */
static long set_up_as_tracee(struct made *made)
{
	const char *options = made->call->text[AGENT_TEXT_OPTIONS];
	long error;

	if (!options || !has_key(options, "gid") || made->call->fd[AGENT_FD_USERNS] < 0)
		return set_up(made->context, made);
	error = sys_run_child(set_up_inside, made);
	return error ? error : made->result;
}

static int make(void *argument)
{
	struct made *made = argument;
	long context = sys(fsopen, made->type->name, FSOPEN_CLOEXEC);
	long error;

	made->context = made->result = context;
	if (context < 0)
		return 0;
	error = made->use_pidns ? context_fd(context, "pidns", made->call->fd[AGENT_FD_PIDNS]) : 0;
	if (!error)
		error = set_up_as_tracee(made);
	made->result = error ? error : context_mount(context, made->call, 0);
	return 0;
}

/* Whether proc takes the pid namespace as an option (Linux 6.17); asked of the kernel once. */
static int takes_pidns(int pidns)
{
	static int known, takes;
	long context;

	if (known || AGENT_NEWEST_KERNEL < 617)
		return takes;
	context = sys(fsopen, "proc", FSOPEN_CLOEXEC);
	if (context < 0)
		return 0;
	takes = context_fd(context, "pidns", pidns) == 0;
	known = 1;
	sys(close, context);
	return takes;
}

/* Before that, the pid namespace of a proc is that of whoever opens it: a child's. */
static int make_proc(void *argument)
{
	struct made *made = argument;
	int pidns = made->call->fd[AGENT_FD_PIDNS];
	long error, back;

	made->use_pidns = takes_pidns(pidns);
	if (made->use_pidns)
		return make(made);
	error = sys(setns, pidns, CLONE_NEWPID);
	if (!error)
		error = sys_run_child(make, made);
	back = sys(setns, HOST_PIDNS_FD, CLONE_NEWPID);
	if (error || back)
		made->result = error ? error : back;
	return 0;
}

static int make_sysfs(void *argument)
{
	struct made *made = argument;
	long error = sys(setns, made->call->fd[AGENT_FD_NETNS], CLONE_NEWNET);

	if (error)
		made->result = error;
	else
		make(made);
	error = sys(setns, HOST_NETNS_FD, CLONE_NEWNET);
	if (error)
		made->result = error;
	return 0;
}

static const struct type types[] = {
	{ "proc", make_proc, { "pidns" } },
	{ "sysfs", make_sysfs, { 0 } },
	{ "tmpfs", make, { "uid", "gid" } },   /* what the others are measured by */
	{ "hugetlbfs", make, { "uid", "gid" } },
	{ "bpf", make, { "uid", "gid" } },
};

static const struct type *find_type(const char *name)
{
	unsigned i;

	for (i = 0; i < sizeof types / sizeof types[0]; i++)
		if (text_equal(types[i].name, name))
			return &types[i];
	return 0;
}

/* The character of an escape, \NNN in octal digits; -1: it is none. */
static int escaped(const char *text)
{
	int i, value = 0;

	for (i = 1; i < 4; i++) {
		if (text[i] < '0' || text[i] > '7')
			return -1;
		value = value << 3 | (text[i] - '0');
	}
	return *text == '\\' ? value : -1;
}

/* Takes one entry off the list of covers, in place: undoes the escapes, ends it with a NUL. */
static char *next_cover(char **list)
{
	char *entry = *list, *in = entry, *out = entry;

	while (*in && *in != '\n') {
		int character = escaped(in);

		*out++ = character < 0 ? *in : (char)character;
		in += character < 0 ? 1 : 4;
	}
	*list = in + (*in == '\n');
	*out = 0;
	return entry;
}

/* A detached copy of what is mounted at `path` below `old`, with everything below that: the kernel parts no mount from its
 * locked children. -ENOENT when nothing is. */
static long copy_cover(int old, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	struct facts facts;
	long fd = sys(openat2, old, path, &how, sizeof how);
	long error;

	if (fd < 0)
		return fd;
	error = path_facts(fd, &facts);
	if (error)
		return error;
	if (!facts.mount_root)
		return -ENOENT;
	return sys(open_tree, fd, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

/* Whether `path` came along with a cover that was taken before. */
static int included(const char *path, const struct cover *covers, unsigned count)
{
	while (count--) {
		const char *taken = covers[count].path;
		size_t i = 0;

		while (taken[i] && taken[i] == path[i])
			i++;
		if (!taken[i] && (path[i] == '/' || !path[i]))
			return 1;
	}
	return 0;
}

/* Everything that hides something in the tracee's old mount goes over the new one. What cannot be taken over must not be
 * revealed either, and then the answer is the one that mount_too_revealing() gives. Answers how many there are. */
static long take_covers(const struct call *call, struct cover *covers)
{
	char *list = (char *)call->text[AGENT_TEXT_COVERS];
	unsigned count = 0;
	long old;

	if (!list)
		return 0;
	old = path_open(call, -1, next_cover(&list), 0);

	if (old < 0)
		return -EPERM;
	while (*list) {
		const char *path = next_cover(&list);
		long fd;

		if (included(path, covers, count))
			continue;
		fd = copy_cover(old, path);
		if (fd == -ENOENT || fd == -ENOTDIR)
			fd = NO_COVER; /* it is gone, or something else was mounted over it so that we do not find it */
		else if (fd < 0)
			return -EPERM;
		if (count == COVERS_MAX)
			return -EPERM;
		covers[count].path = path;
		covers[count++].fd = fd;
	}
	return count;
}

long finish_fresh(const struct call *call, int mount)
{
	static struct cover covers[COVERS_MAX];
	long count = take_covers(call, covers);
	long leaves = count < 0 ? count : leaves_take(call, covers + count, COVERS_MAX - count);

	if (leaves < 0)
		return leaves;
	count += leaves;
	return count ? stage(call, mount, covers, count, call->request->flags & AGENT_LOCK_COVERS) : mount;
}

static int complete(const struct call *call, const struct type *type)
{
	if (!type)
		return 0;
	if (type->make == make_proc && call->fd[AGENT_FD_PIDNS] < 0)
		return 0;
	if (type->make == make_sysfs && call->fd[AGENT_FD_NETNS] < 0)
		return 0;
	return !(call->request->flags & AGENT_LOCK_COVERS) || call->fd[AGENT_FD_USERNS] >= 0;
}

long act_mount(struct call *call)
{
	struct made made = { .call = call, .type = find_type(call->text[AGENT_TEXT_TYPE]) };
	long target, mount, error;

	if (!complete(call, made.type)) {
		call->outcome = AGENT_MALFORMED;
		return 0;
	}
	error = creds_of_tracee(call->request);
	if (error)
		return error;
	made.type->make(&made);  /* in the host's mount namespace: see mount_too_revealing() */
	mount = made.result;
	target = path_enter_target(call);
	if (target < 0)
		return target;   /* mount(2) looks at the target before anything else */
	if (mount >= 0)
		mount = finish_fresh(call, mount);
	return mount < 0 ? mount : attach(call, mount, target);
}

/* The root directory belongs to the container's root, which is what a tmpfs gives it anyway when that is who asks. */
static long own(int context, const struct agent_request *request)
{
	char number[11];
	long error = 0;

	if (request->fsuid != request->root_uid) {
		text_number(number, request->root_uid);
		error = context_set(context, "uid", number);
	}
	if (!error && request->fsgid != request->root_gid) {
		text_number(number, request->root_gid);
		error = context_set(context, "gid", number);
	}
	return error ? error : context_set(context, "mode", "0755");
}

/* A new superblock. */
static long new_stand_in(const struct call *call, uint64_t attributes)
{
	long context = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
	long error;

	if (context < 0)
		return context;
	error = context_set(context, "source", call->text[AGENT_TEXT_TYPE]);
	if (!error)
		error = own(context, call->request);
	if (!error)
		error = context_flag(context, "ro");
	if (!error)
		error = context_create(context);
	return error ? error : sys(fsmount, context, FSMOUNT_CLOEXEC, attributes);
}

/* Mounts of which stand-ins are copies, at STAND_IN_FD and the descriptors behind it: the filesystem in whose place they are is
 * one for all of its mounts, too. */
static struct {
	char name[24];
	uint64_t attributes;
} kept[FIRST_FREE_FD - STAND_IN_FD];

#define KEPT (sizeof kept / sizeof kept[0])

static long copy_of(long mount)
{
	return sys(open_tree, mount, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

/* A copy of `mount`, which is kept; or `mount` itself where detached mounts cannot be copied (before Linux 6.15). */
static long keep(long mount, const char *name, uint64_t attributes)
{
	static unsigned next;
	size_t size = text_size(name) + 1;
	long copy = size > 1 && size <= sizeof kept[0].name ? copy_of(mount) : -1;

	if (copy < 0 || sys(dup3, mount, STAND_IN_FD + next, O_CLOEXEC) < 0)
		return mount;
	memcpy(kept[next].name, name, size);
	kept[next].attributes = attributes;
	next = (next + 1) % KEPT;
	return copy;
}

/* A copy of one that was kept with other attributes. */
static long change(unsigned number, const char *name, uint64_t attributes)
{
	long copy = copy_of(STAND_IN_FD + number);
	long error = copy < 0 ? copy : context_change(copy, attributes);

	return error ? error : keep(copy, name, attributes);
}

long make_stand_in(const struct call *call, uint64_t attributes)
{
	const char *name = call->text[AGENT_TEXT_TYPE];
	unsigned i, same_name = KEPT;
	long mount;

	attributes |= MOUNT_ATTR_RDONLY;
	for (i = 0; i < KEPT; i++) {
		if (!*name || !text_equal(kept[i].name, name))
			continue;
		if (kept[i].attributes == attributes)
			return copy_of(STAND_IN_FD + i);
		same_name = i;
	}
	if (same_name < KEPT)
		return change(same_name, name, attributes);
	mount = new_stand_in(call, attributes);
	return mount < 0 ? mount : keep(mount, name, attributes);
}

long act_stand_in(struct call *call)
{
	long mount, target = path_enter_target(call);

	if (target < 0)
		return target;
	mount = make_stand_in(call, context_attributes(call->request->mount_flags));
	return mount < 0 ? mount : attach(call, mount, target);
}
