/* mknod(2) of a device, for a tracee that the kernel refuses it.
 *
 * The file is made by a child with the tracee's filesystem ids and CAP_MKNOD of the host, so that the directory's
 * permissions, its id map and default ACL, umask and owner are the kernel's own business. What the tracee's DAC
 * capabilities grant inside its user namespace is asked of the kernel as the tracee first (faccessat2(2)); only then the
 * child takes CAP_DAC_OVERRIDE as well, for that one directory.
 *
 * On a filesystem that belongs to a user namespace no device can be opened (SB_I_NODEV). Where it is a tmpfs, a node of the
 * same numbers, owner and mode, on a tmpfs of our own that holds nothing else, is mounted over the one just made. A
 * filesystem that lasts gets the node only: a mount would not be what is copied from it. A mount that its owner made
 * nodev keeps what was asked for.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <sys/vfs.h>

#define PATH_MAX 4096
#define ST_NODEV 4
#define NODE "node"
#define BIT(capability) (1ull << (capability))
#ifndef RAMFS_MAGIC
#define RAMFS_MAGIC 0x858458f6
#endif

/* What becomes of one name in one directory. */
struct node {
	const struct call *call;
	long directory;
	const char *name;
	uint64_t capabilities; /* of the host, for the child */
	uint32_t mode, device, umask;
	long result;
};

static char last[PATH_MAX];

/* Parts PATH at its last component, trailing slashes included, as filename_create() does: the directory's descriptor. */
static long open_directory(struct call *call)
{
	char *path = (char *)call->text[AGENT_TEXT_PATH];
	size_t end = text_size(path), start;

	while (end && path[end - 1] == '/')
		end--;
	if (!end)
		return -EEXIST; /* the root, or a descriptor itself */
	start = end;
	while (start && path[start - 1] != '/')
		start--;
	if (text_size(path + start) >= sizeof last)
		return -ENAMETOOLONG;
	memcpy(last, path + start, text_size(path + start) + 1);
	path[start] = 0;
	return path_open(call, call->fd[AGENT_FD_BASE], path, 0);
}

static int may_write(void *argument)
{
	struct node *node = argument;
	long error = creds_enter_userns(node->call);

	if (!error)
		error = creds_limit(node->call->request->capabilities);
	if (!error)
		error = sys(faccessat2, node->directory, "", 2 | 1 /* W_OK | X_OK */, AT_EMPTY_PATH | AT_EACCESS);
	node->result = error;
	return 0;
}

static int make_node(void *argument)
{
	struct node *node = argument;
	long error = creds_borrow(node->capabilities);

	sys(umask, node->umask); /* this child's: it does not share our fs_struct */
	if (!error)
		error = sys(mknodat, node->directory, node->name, node->mode, node->device);
	node->result = error;
	return 0;
}

static long run(int (*child)(void *), struct node *node)
{
	long error = sys_run_child(child, node);

	return error ? error : node->result;
}

static long make(struct node *node)
{
	long error;

	node->capabilities = BIT(CAP_MKNOD);
	error = run(make_node, node);
	if (error != -EACCES || node->call->fd[AGENT_FD_USERNS] < 0)
		return error;
	error = run(may_write, node);
	if (error)
		return error;
	node->capabilities |= BIT(CAP_DAC_OVERRIDE);
	error = run(make_node, node);
	return error == -EACCES ? -EPERM : error; /* a FUSE filesystem of the container's serves its own people only */
}

static int open_strangely(void *argument)
{
	struct node *node = argument;
	long error = creds_nobody(BIT(CAP_DAC_OVERRIDE));

	node->result = error ? error : sys(openat, node->directory, node->name, O_RDONLY | O_NONBLOCK | O_NOATIME | O_NOFOLLOW);
	return 0;
}

/* Whether the new node could be opened where it is, without opening it: may_open() looks at nodev first (EACCES), and then
 * denies O_NOATIME to whoever is not the owner (EPERM), before it asks the driver. */
static int works(struct node *node)
{
	return run(open_strangely, node) != -EACCES;
}

static int is_of_a_user_namespace(long directory)
{
	struct statfs facts;

	if (sys(fstatfs, directory, &facts) || facts.f_flags & ST_NODEV)
		return 0;
	return facts.f_type == TMPFS_MAGIC || facts.f_type == RAMFS_MAGIC;
}

/* A detached mount of a node like the one under `file`, alone on a tmpfs of the host's user namespace. */
static long twin(const struct call *call, const struct node *like, long file)
{
	struct node node = { .call = call, .name = NODE, .device = like->device, .capabilities = BIT(CAP_MKNOD) };
	struct facts facts;
	long context, error = path_facts(file, &facts);

	if (error)
		return error;
	context = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (context < 0)
		return context;
	error = context_set(context, "source", "device");
	if (!error)
		error = context_set(context, "size", "4k");
	if (!error)
		error = context_set(context, "nr_inodes", "2");
	if (!error)
		error = context_set(context, "mode", "0777");
	if (!error)
		error = context_create(context);
	if (error)
		return error;
	node.directory = sys(fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	if (node.directory < 0)
		return node.directory;
	node.mode = facts.mode;
	error = run(make_node, &node);
	return error ? error : stage_one(call, node.directory, NODE);
}

static long cover(struct call *call, const struct node *node)
{
	long mount, file = sys(openat, node->directory, node->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (file < 0)
		return file;
	mount = twin(call, node, file);
	if (mount < 0)
		return mount;
	return sys(move_mount, mount, "", file, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Whether what is there was made by this call's earlier self, whose answer a signal may have swallowed. */
static int was_made(const struct call *call, const struct node *node)
{
	struct statx found;

	if (!call->request->unless_mount)
		return 0;
	if (sys(statx, node->directory, node->name, AT_SYMLINK_NOFOLLOW, STATX_INO, &found))
		return 0;
	return found.stx_ino == call->request->unless_mount;
}

/* number: mode (umode_t with its file type), device (as mknod(2) encodes it), umask. value = the inode's number. */
long act_make_node(struct call *call)
{
	const uint64_t *number = call->request->number;
	struct node node = { .call = call, .name = last, .mode = number[0], .device = number[1], .umask = number[2] };
	struct statx made;
	long error = path_enter(call);

	if (error)
		return error;
	node.directory = open_directory(call);
	if (node.directory < 0)
		return node.directory;
	if (!still_waiting(call)) {
		call->outcome = AGENT_GONE;
		return 0;
	}
	error = make(&node);
	if (error == -EEXIST && was_made(call, &node))
		error = 0;
	else if (!error && is_of_a_user_namespace(node.directory) && !works(&node))
		error = cover(call, &node);
	if (!error && !sys(statx, node.directory, last, AT_SYMLINK_NOFOLLOW, STATX_INO, &made))
		call->value = (int64_t)made.stx_ino;
	return error;
}
