/* Loop devices without a device: attaching a file is to mount that very file over /dev/loopN.
 *
 * Before, a node of the null device lies there; after, the file's content is what is read there, which is what programs want of
 * a loop device. Everything that is remembered of it the mount itself remembers, so that it outlives the supervisor: attached
 * is where a regular file is mounted, read-only what is mounted so, and nosymfollow, which means nothing for a file, says that
 * it is to be detached with its last use (LO_FLAGS_AUTOCLEAR).
 *
 * Whoever may mount can do the same by mount --bind and umount -l: nothing is lent.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>
#include <sys/vfs.h>

#define NULL_MAJOR 1
#define NULL_MINOR 3
#define ST_RDONLY 1
#define ST_NOSYMFOLLOW 0x2000
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

/* What is at PATH: 0, a device to which nothing is attached; 1, one with a file. -ENOTTY: it is none of this kind. */
static long look(const struct call *call, long *device)
{
	struct facts facts;
	long error;

	*device = path_open(call, -1, call->text[AGENT_TEXT_PATH], PATH_NOFOLLOW);
	if (*device < 0)
		return *device;
	error = path_facts(*device, &facts);
	if (error)
		return error;
	if (S_ISCHR(facts.mode) && facts.device_major == NULL_MAJOR && facts.device_minor == NULL_MINOR)
		return 0;
	return S_ISREG(facts.mode) && facts.mount_root ? 1 : -ENOTTY;
}

static uint64_t attributes_of(uint64_t flags)
{
	return (flags & AGENT_LOOP_READ_ONLY ? MOUNT_ATTR_RDONLY : 0) |
	       (flags & AGENT_LOOP_AUTOCLEAR ? MOUNT_ATTR_NOSYMFOLLOW : 0);
}

static long change(int mount, uint64_t flags, uint64_t set)
{
	const struct mount_attr attributes = {
		.attr_set = attributes_of(flags) | set, .attr_clr = MOUNT_ATTR_NOSYMFOLLOW,
	};

	return sys(mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
}

/* The file's own mount is what is copied, so that what is read-only stays so; only one of the tracee's mount namespace can be. */
static long copy_of(int file, uint64_t flags)
{
	struct facts facts;
	long mount, error = path_facts(file, &facts);

	if (error)
		return error;
	if (!S_ISREG(facts.mode))
		return -EINVAL;
	mount = sys(open_tree, file, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (mount < 0)
		return mount;
	error = change(mount, flags, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	return error ? error : mount;
}

/* number: AGENT_LOOP_*. With CONTEXT, a descriptor of a file, attaches it (-EBUSY where one is); without, changes what is
 * remembered of the one that is attached (-ENXIO where none is). */
long act_loop_attach(struct call *call)
{
	uint64_t flags = call->request->number[0];
	long device, mount, attached, error = path_enter(call);

	if (error)
		return error;
	attached = look(call, &device);
	if (attached < 0)
		return attached;
	if (call->fd[AGENT_FD_CONTEXT] < 0)
		return attached ? change(device, flags, 0) : -ENXIO;
	if (attached)
		return -EBUSY;
	mount = copy_of(call->fd[AGENT_FD_CONTEXT], flags);
	return mount < 0 ? mount : attach_moved(call, mount, device);
}

/* value: AGENT_LOOP_* of what is attached; -1: nothing is. */
static long status(const struct call *call, long *device, int64_t *value)
{
	struct statfs facts;
	long attached = look(call, device), error;

	*value = -1;
	if (attached <= 0)
		return attached;
	error = sys(fstatfs, *device, &facts);
	if (error)
		return error;
	*value = (facts.f_flags & ST_RDONLY ? AGENT_LOOP_READ_ONLY : 0) |
		 (facts.f_flags & ST_NOSYMFOLLOW ? AGENT_LOOP_AUTOCLEAR : 0);
	return 0;
}

long act_loop_status(struct call *call)
{
	long device, error = path_enter(call);

	return error ? error : status(call, &device, &call->value);
}

/* number: AGENT_LOOP_AUTOCLEAR: only one that is to be detached with its last use. -ENXIO: there is none. */
long act_loop_detach(struct call *call)
{
	uint64_t only = call->request->number[0];
	long device, error = path_enter(call);
	int64_t flags;

	if (!error)
		error = status(call, &device, &flags);
	if (!error && (flags < 0 || (only & ~(uint64_t)flags)))
		error = -ENXIO;
	if (error)
		return error;
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	error = detach((int)device);
	return error == -EINVAL ? -ENXIO : error; /* another has just done it: what lies there now is the node */
}
