/* trusted.* attributes of the container's own files, for its root: setxattr(2), getxattr(2), listxattr(2), removexattr(2).
 *
 * Only inodes whose owner and group are ids of the container count: a file of the host's that lies in a container keeps its
 * attributes to itself. What names are asked about, policy decides before. Values go through a memfd of the supervisor's
 * (fd MEMORY), because they are larger than a request may be.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/limits.h>

#define NOT_OURS (-1) /* value of LIST_XATTR: the kernel's own answer is the right one */

/* The file: its descriptor, and a name that path calls take. */
struct file {
	long fd;
	int by_descriptor; /* an f-call: descriptors that are only paths are refused */
	char name[sizeof "self/fd/" + 11];
};

static char value[XATTR_SIZE_MAX];

static int is_ours(const struct call *call, long fd)
{
	const struct agent_request *request = call->request;
	struct facts facts;

	if (path_facts(fd, &facts))
		return 0;
	return facts.uid - request->root_uid < request->id_count && facts.gid - request->root_gid < request->id_count;
}

static long open_file(struct call *call, struct file *file)
{
	long error = path_enter(call);

	if (error)
		return error;
	file->fd = path_open(call, call->fd[AGENT_FD_BASE], call->text[AGENT_TEXT_PATH],
			     call->request->flags & AGENT_FOLLOW ? 0 : PATH_NOFOLLOW);
	if (file->fd < 0)
		return file->fd;
	file->by_descriptor = !!(call->request->flags & AGENT_DESCRIPTOR);
	memcpy(file->name, "self/fd/", sizeof "self/fd/");
	text_number(file->name + sizeof "self/fd/" - 1, (uint32_t)file->fd);
	return file->by_descriptor ? 0 : sys(fchdir, PROC_FD); /* setns() leads back after the request */
}

static long set(struct call *call, const struct file *file)
{
	const char *name = call->text[AGENT_TEXT_TYPE];
	uint64_t flags = call->request->number[0], size = call->request->number[1];

	if (size > sizeof value)
		return -E2BIG;
	if (size && sys(pread64, call->fd[AGENT_FD_MEMORY], value, size, 0) != (long)size)
		return -EIO;
	if (!is_ours(call, file->fd))
		return -EPERM;
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	return file->by_descriptor ? sys(fsetxattr, file->fd, name, value, size, flags) :
				     sys(setxattr, file->name, name, value, size, flags);
}

static long remove(struct call *call, const struct file *file)
{
	const char *name = call->text[AGENT_TEXT_TYPE];

	if (!is_ours(call, file->fd))
		return -EPERM;
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	return file->by_descriptor ? sys(fremovexattr, file->fd, name) : sys(removexattr, file->name, name);
}

static long hand_over(struct call *call, long size)
{
	call->value = size;
	return sys(pwrite64, call->fd[AGENT_FD_MEMORY], value, size, 0) == size ? 0 : -EIO;
}

static long get(struct call *call, const struct file *file)
{
	const char *name = call->text[AGENT_TEXT_TYPE];
	long size;

	if (!is_ours(call, file->fd))
		return -ENODATA;
	size = file->by_descriptor ? sys(fgetxattr, file->fd, name, value, sizeof value) :
				     sys(getxattr, file->name, name, value, sizeof value);
	return size < 0 ? size : hand_over(call, size);
}

static long list(struct call *call, const struct file *file)
{
	long size = NOT_OURS;

	if (is_ours(call, file->fd))
		size = file->by_descriptor ? sys(flistxattr, file->fd, value, sizeof value) :
					     sys(listxattr, file->name, value, sizeof value);
	if (size >= 0)
		return hand_over(call, size);
	call->value = NOT_OURS; /* it may answer the tracee where it does not answer us (FUSE) */
	return 0;
}

/* number: flags (XATTR_*), size. TYPE: the attribute's name. */
long act_xattr(struct call *call)
{
	struct file file;
	long error = open_file(call, &file);

	if (error && call->request->op == AGENT_LIST_XATTR) {
		call->value = NOT_OURS; /* nothing is lost: the kernel finds the file, or the same fault */
		return 0;
	}
	if (error)
		return error;
	switch (call->request->op) {
	case AGENT_SET_XATTR:
		return set(call, &file);
	case AGENT_GET_XATTR:
		return get(call, &file);
	case AGENT_LIST_XATTR:
		return list(call, &file);
	default:
		return remove(call, &file);
	}
}

/* value: 1 where chown(2) by the tracee is the kernel's to decide, also because the path leads nowhere for us (what is below
 * /proc/self, say); 0 where it cannot succeed: owner or group are of ids that the container has not. */
long act_may_chown(struct call *call)
{
	struct file file;

	call->value = open_file(call, &file) || is_ours(call, file.fd);
	return 0;
}
