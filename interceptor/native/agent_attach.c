/* The last step of every mount, and the way back. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/types.h>

#include <linux/mount.h>
#include <linux/seccomp.h>
#include <linux/stat.h>

/* move_mount(2) answers differently from mount(2), or not at all, where graft_tree() and do_add_mount() would refuse. */
static long acceptable(const struct facts *new, const struct facts *old)
{
	if (!S_ISDIR(old->mode))
		return -ENOTDIR;
	return old->mount_root && new->major == old->major && new->minor == old->minor ? -EBUSY : 0;
}

static struct agent_note *note;

long note_open(void)
{
	long at = sys(mmap, 0, AGENT_NOTE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, NOTE_FD, 0);

	if (at < 0 && at > -4096)
		return at;
	note = (struct agent_note *)at;
	return sys(close, NOTE_FD);
}

int still_waiting(const struct call *call)
{
	uint64_t id = call->request->notification;

	if (id && sys(ioctl, call->fd[AGENT_FD_NOTIFIER], SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
		return 0;
	note->made = (uint64_t)call->value;
	__atomic_store_n(&note->cookie, call->request->cookie, __ATOMIC_RELEASE);
	return 1;
}

long attach_moved(struct call *call, int mount, int target)
{
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	return sys(move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

long attach(struct call *call, int mount, int target)
{
	const struct agent_request *request = call->request;
	struct facts new = { 0 }, old;
	long error = path_facts_unique(target, &old);

	if (!error && request->unless_mount && old.mount_root && old.mount_id == request->unless_mount) {
		call->value = (int64_t)old.mount_id;
		return 0;
	}
	if (!error && (old.mount_root || !(request->flags & AGENT_NO_ID)))
		error = path_facts_unique(mount, &new);
	if (!error)
		error = acceptable(&new, &old);
	if (error)
		return error;
	call->value = (int64_t)new.mount_id;
	return attach_moved(call, mount, target);
}

#define MNT_DETACH 2

long detach(int mount)
{
	char name[24] = "self/fd/";
	long error = sys(fchdir, PROC_FD);

	text_number(name + text_size(name), mount);
	return error ? error : sys(umount2, name, MNT_DETACH);
}

long act_detach(struct call *call)
{
	const struct agent_request *request = call->request;
	struct facts facts;
	long fd, error = path_enter(call);

	if (error)
		return error;
	fd = path_open(call, call->fd[AGENT_FD_BASE], call->text[AGENT_TEXT_PATH], request->flags & AGENT_FOLLOW ? 0 : PATH_NOFOLLOW);
	if (fd < 0)
		return fd;
	error = path_facts_unique(fd, &facts);
	if (error)
		return error;
	if (!facts.mount_root || facts.mount_id != request->number[0])
		return -EINVAL;
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	return detach(fd);
}
