/* Paths of the tracee, walked once, as the kernel walks them for the tracee.
 *
 * We stand in its mount namespace and in its root directory, so ".." and absolute symbolic links mean what they mean to
 * it; its filesystem ids and groups decide what may be searched. What its DAC capabilities or a FUSE filesystem grant only
 * to a member of its user namespace, a child does again as exactly that: EACCES is the only answer for which it may differ.
 * Magic links (/proc/PID/root and the like) would lead out of what was pinned; what of them is the tracee's own is walked by
 * agent_links.c, others are refused with ELOOP.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/stat.h>

/* The mount namespace that we are in, and whether our root directory is that namespace's. */
static enum { HOST, HOME, ASTRAY } standing;

static long back_to_host(void)
{
	long error = sys(setns, HOST_MNTNS_FD, CLONE_NEWNS);

	standing = HOST;
	return error;
}

long path_begin(const struct agent_request *request)
{
	return standing == HOME && !(request->flags & AGENT_AT_HOME) ? back_to_host() : 0;
}

long path_leave(const struct agent_request *request)
{
	return request->flags & AGENT_AT_HOME && standing != ASTRAY ? 0 : back_to_host();
}

static long stand_at_root(const struct call *call)
{
	long error = sys(fchdir, call->fd[AGENT_FD_ROOT]);

	return error ? error : sys(chroot, ".");
}

static long walk(const struct call *call, int base, const char *path, uint32_t flags)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | (flags & PATH_NOFOLLOW ? O_NOFOLLOW : 0),
		.resolve = RESOLVE_NO_MAGICLINKS,
	};
	long fd = sys(openat2, base < 0 ? AT_FDCWD : base, path, &how, sizeof how);
	long list;

	if (fd == -ELOOP || fd == -ENOENT) /* we are nobody in a procfs of the container's: there is no `self` (proc_self_get_link()) */
		fd = links_walk(call, base, path, flags);
	if (fd < 0 || !(flags & (PATH_READABLE | PATH_LIST)))
		return fd;
	list = sys(openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (list < 0 || flags & PATH_LIST)
		return list;
	sys(close, list);
	return fd;
}

#define ATTEMPTS 16

/* As `walk` from the root directory for who has not entered it; only for absolute paths. EAGAIN says that the tree changed while
 * ".." was followed; who has to walk through magic links enters the root after all. */
static long walk_in_root(const struct call *call, const char *path, uint32_t flags)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | (flags & PATH_NOFOLLOW ? O_NOFOLLOW : 0),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd, error;
	int i;

	for (i = 0; i < ATTEMPTS; i++) {
		fd = sys(openat2, call->fd[AGENT_FD_ROOT], path, &how, sizeof how);
		if (fd != -EAGAIN)
			break;
	}
	if (fd != -EAGAIN && fd != -ELOOP && fd != -ENOENT)
		return fd;
	standing = ASTRAY;
	error = stand_at_root(call);
	return error ? error : walk(call, call->fd[AGENT_FD_ROOT], path, flags);
}

struct inside {
	const struct call *call;
	const char *path;
	int base;
	uint32_t flags;
	long result;
};

static int walk_inside(void *argument)
{
	struct inside *inside = argument;
	const struct call *call = inside->call;
	long error = creds_enter_userns(call);

	if (!error)
		error = stand_at_root(call);
	if (!error)
		error = creds_limit(call->request->capabilities);
	inside->result = error ? error : walk(call, inside->base, inside->path, inside->flags);
	return 0;
}

static long enter_home(void)
{
	long error = standing == HOME ? 0 : sys(setns, HOME_MNTNS_FD, CLONE_NEWNS);

	if (!error)
		standing = HOME;
	return error;
}

long path_enter(struct call *call)
{
	long error = creds_of_tracee(call->request);

	if (!error && call->request->flags & AGENT_AT_HOME)
		return enter_home();
	if (!error)
		error = sys(setns, call->fd[AGENT_FD_MNTNS], CLONE_NEWNS);
	if (error)
		return error;
	error = stand_at_root(call);
	call->denied = error == -EACCES;
	return call->denied ? 0 : error;
}

long path_open(const struct call *call, int base, const char *path, uint32_t flags)
{
	struct inside inside = { .call = call, .path = path, .base = base, .flags = flags };
	long fd, error;

	if (!*path && base >= 0)
		return base;
	if (base < 0)
		base = call->fd[AGENT_FD_ROOT];
	inside.base = base;
	if (call->denied)
		fd = -EACCES;
	else if (call->request->flags & AGENT_AT_HOME)
		fd = walk_in_root(call, path, flags);
	else
		fd = walk(call, base, path, flags);
	if (fd != -EACCES || call->fd[AGENT_FD_USERNS] < 0)
		return fd;
	error = sys_run_child(walk_inside, &inside);
	return error ? error : inside.result;
}

long path_enter_target(struct call *call)
{
	long error = path_enter(call);

	return error ? error : path_open(call, call->fd[AGENT_FD_BASE], call->text[AGENT_TEXT_PATH], 0);
}

/* No attribute is in the mask: fuse_getattr() then answers from what it has, and the mount's facts are filled in regardless. */
static long look(int fd, uint32_t mask, struct facts *facts)
{
	struct statx found;
	long error = sys(statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, &found);

	if (error)
		return error;
	facts->mount_id = found.stx_mnt_id;
	facts->mount_root = !!(found.stx_attributes & STATX_ATTR_MOUNT_ROOT);
	facts->inode = found.stx_ino;
	facts->mode = found.stx_mode;
	facts->uid = found.stx_uid;
	facts->gid = found.stx_gid;
	facts->major = found.stx_dev_major;
	facts->minor = found.stx_dev_minor;
	facts->device_major = found.stx_rdev_major;
	facts->device_minor = found.stx_rdev_minor;
	return 0;
}

long path_facts(int fd, struct facts *facts)
{
	return look(fd, 0, facts);
}

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000u
#endif

long path_facts_unique(int fd, struct facts *facts)
{
	return look(fd, STATX_MNT_ID_UNIQUE, facts);
}

long act_mount_id(struct call *call)
{
	struct facts facts;
	long fd, error = path_enter(call);

	if (error)
		return error;
	fd = path_open(call, call->fd[AGENT_FD_BASE], call->text[AGENT_TEXT_PATH],
		       call->request->flags & AGENT_FOLLOW ? 0 : PATH_NOFOLLOW);
	if (fd < 0)
		return fd;
	error = path_facts(fd, &facts);
	if (error)
		return error;
	if (!facts.mount_root)
		return -EINVAL;
	if (call->request->flags & AGENT_UNIQUE) {
		if (facts.mount_id != call->request->number[0])
			return -EINVAL;
		error = path_facts_unique(fd, &facts);
	}
	call->value = (int64_t)facts.mount_id;
	return error;
}
