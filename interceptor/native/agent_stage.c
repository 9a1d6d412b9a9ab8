/* Assembles a mount and what must cover parts of it in a mount namespace of our own, so that the tracee never sees the one
 * without the other, and lets the kernel lock the result.
 *
 * The kernel locks mounts when it copies them into a mount namespace of another owner. A child therefore enters the tracee's
 * user namespace, unshares its mount namespace, and hands out a detached copy of the (now locked) tree.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>

#define STAGE "/stage"
#define MNT_DETACH 2
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#define COPY_TREE (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)

static int staging_exists;

/* An empty read-only directory tree becomes the root of our present mount namespace; everything else leaves it. */
static long become_empty(void)
{
	long mount, context, error;

	error = sys(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
	if (error)
		return error;
	context = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (context < 0)
		return context;
	error = context_set(context, "mode", "0755");
	if (!error)
		error = context_create(context);
	if (error)
		return error;
	mount = sys(fsmount, context, FSMOUNT_CLOEXEC, 0);
	if (mount < 0)
		return mount;
	error = sys(move_mount, mount, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
	if (!error)
		error = sys(fchdir, mount);
	if (!error)
		error = sys(mkdirat, mount, STAGE + 1, 0755);
	if (!error)
		error = sys(pivot_root, ".", ".");
	return error ? error : sys(umount2, ".", MNT_DETACH);
}

static long make_staging(void)
{
	long fd, error = sys(unshare, CLONE_NEWNS);

	if (error)
		return error;
	error = become_empty();
	if (error)
		return error;
	fd = sys(openat, PROC_FD, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fd;
	error = sys(dup3, fd, STAGING_FD, O_CLOEXEC);
	staging_exists = error >= 0;
	return staging_exists ? 0 : error;
}

static long enter_staging(void)
{
	long error;

	if (staging_exists)
		return sys(setns, STAGING_FD, CLONE_NEWNS);
	error = sys(setns, HOST_MNTNS_FD, CLONE_NEWNS);
	return error ? error : make_staging();
}

static long cover_one(int mount, const struct cover *cover)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long target = sys(openat2, mount, cover->path, &how, sizeof how);

	if (target == -ENOENT || target == -ENOTDIR)
		return 0; /* nothing is there that could be revealed */
	if (target < 0)
		return target;
	if (cover->fd == NO_COVER)
		return -EPERM;
	return sys(move_mount, cover->fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

struct copying {
	const struct call *call;
	long tree;
};

static int copy_locked(void *argument)
{
	struct copying *copying = argument;
	long error = creds_enter_userns(copying->call);

	if (!error)
		error = sys(unshare, CLONE_NEWNS);
	copying->tree = error ? error : sys(open_tree, AT_FDCWD, STAGE, COPY_TREE);
	return 0;
}

static long copy(const struct call *call, int locked)
{
	struct copying copying = { .call = call };
	long error;

	if (!locked)
		return sys(open_tree, AT_FDCWD, STAGE, COPY_TREE);
	error = sys_run_child(copy_locked, &copying);
	return error ? error : copying.tree;
}

static long assemble(const struct call *call, int mount, const struct cover *covers, unsigned count, int locked)
{
	long error = sys(move_mount, mount, "", AT_FDCWD, STAGE, MOVE_MOUNT_F_EMPTY_PATH);
	unsigned i;
	long tree;

	if (error)
		return error;
	for (i = 0; !error && i < count; i++)
		error = cover_one(mount, &covers[i]);
	tree = error ? error : copy(call, locked);
	error = sys(umount2, STAGE, MNT_DETACH);
	return error ? error : tree;
}

static long take_one(int mount, const char *path)
{
	long error = sys(move_mount, mount, "", AT_FDCWD, STAGE, MOVE_MOUNT_F_EMPTY_PATH);
	long tree;

	if (error)
		return error;
	tree = sys(openat, mount, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (tree >= 0)
		tree = sys(open_tree, tree, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	error = sys(umount2, STAGE, MNT_DETACH);
	return error ? error : tree;
}

long stage_one(const struct call *call, int mount, const char *name)
{
	long error = enter_staging();
	long tree = error ? error : take_one(mount, name);

	error = sys(setns, call->fd[AGENT_FD_MNTNS], CLONE_NEWNS);
	return error ? error : tree;
}

long stage(const struct call *call, int mount, const struct cover *covers, unsigned count, int locked)
{
	long error = enter_staging();
	long tree = error ? error : assemble(call, mount, covers, count, locked);

	error = sys(setns, call->fd[AGENT_FD_MNTNS], CLONE_NEWNS);
	return error ? error : tree;
}
