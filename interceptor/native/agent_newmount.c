/* The new mount API: contexts for the tracee, mounts of them, and where they go.
 *
 * A context that the tracee gets is of its own namespaces and rights, as if it had opened it: whatever it sets there, it could
 * have set anyway. What its rights do not suffice for is done on a context of ours, which it never has (AGENT_TWIN).
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>

struct opening {
	const struct call *call;
	long context;
};

/* may_mount() asks for the mount namespace's owner, the context is of the opener's user namespace: both are the tracee's. */
static int open_inside(void *argument)
{
	struct opening *opening = argument;
	long error = creds_enter_userns(opening->call);

	opening->context = error ? error : sys(fsopen, opening->call->text[AGENT_TEXT_TYPE], FSOPEN_CLOEXEC);
	return 0;
}

/* proc_init_fs_context() takes the pid namespace of who opens, sysfs_init_fs_context() the network namespace. */
static long open_as_tracee(const struct call *call)
{
	struct opening opening = { .call = call };
	long error = 0, back = 0;

	if (call->fd[AGENT_FD_PIDNS] >= 0)
		error = sys(setns, call->fd[AGENT_FD_PIDNS], CLONE_NEWPID);
	if (!error && call->fd[AGENT_FD_NETNS] >= 0)
		error = sys(setns, call->fd[AGENT_FD_NETNS], CLONE_NEWNET);
	if (!error)
		error = sys_run_child(open_inside, &opening);
	if (call->fd[AGENT_FD_PIDNS] >= 0)
		back = sys(setns, HOST_PIDNS_FD, CLONE_NEWPID);
	if (!back && call->fd[AGENT_FD_NETNS] >= 0)
		back = sys(setns, HOST_NETNS_FD, CLONE_NEWNET);
	return error ? error : back ? back : opening.context;
}

long act_fsopen(struct call *call)
{
	long context, twin = -1, error = path_enter(call);

	if (error)
		return error;
	if (call->request->flags & AGENT_TWIN) {
		if (!overlay_takes_options_one_by_one())
			return -ENOSYS; /* programs then use mount(2) */
		twin = sys(fsopen, "overlay", FSOPEN_CLOEXEC);
		if (twin < 0)
			return twin;
	}
	context = open_as_tracee(call);
	if (context < 0)
		return context;
	call->given[0] = context;
	call->given[1] = twin;
	return 0;
}

static long give_mount(struct call *call, long mount)
{
	struct facts facts;
	long error = mount < 0 ? mount : path_facts(mount, &facts);

	if (error)
		return error;
	call->value = (int64_t)facts.mount_id;
	call->given[0] = mount;
	return 0;
}

long act_fsmount(struct call *call)
{
	int context = call->fd[AGENT_FD_CONTEXT];
	uint64_t attributes = call->request->mount_flags;
	long mount, error;

	if (context < 0 && !call->text[AGENT_TEXT_TYPE]) {
		call->outcome = AGENT_MALFORMED;
		return 0;
	}
	error = creds_of_tracee(call->request);
	if (error)
		return error;
	if (context < 0)
		return give_mount(call, make_stand_in(call, attributes));
	if (call->request->flags & AGENT_OURS)
		attributes |= MOUNT_ATTR_NODEV;
	mount = sys(fsmount, context, FSMOUNT_CLOEXEC, attributes); /* in the host's mount namespace: see mount_too_revealing() */
	if (mount < 0)
		return mount;
	error = path_enter(call);
	if (error)
		return error;
	if (call->request->flags & AGENT_OURS)
		return give_mount(call, stage(call, mount, 0, 0, 1));
	return give_mount(call, finish_fresh(call, mount));
}

/* ADDFD takes no O_PATH descriptor, which a mount's is; the root directory of the mount does for all that may be done with it. */
long act_open_root(struct call *call)
{
	long list, error = path_enter(call);

	if (error)
		return error;
	list = path_open(call, call->fd[AGENT_FD_CONTEXT], ".", PATH_LIST);
	if (list < 0)
		return list;
	call->given[0] = list;
	return 0;
}

long act_move_mount(struct call *call)
{
	long target, error = path_enter(call);

	if (error)
		return error;
	target = path_open(call, call->fd[AGENT_FD_BASE], call->text[AGENT_TEXT_PATH],
			   call->request->flags & AGENT_FOLLOW ? 0 : PATH_NOFOLLOW);
	return target < 0 ? target : attach_moved(call, call->fd[AGENT_FD_CONTEXT], target);
}
