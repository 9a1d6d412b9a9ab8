/* Filesystems with something behind them that policy lends: a block device of the host's, an export of a server.
 *
 * The superblock is the host's (fsopen(2) by us): such filesystems can be mounted by nobody else. What the container may say of
 * it is next to nothing: the device, its type and the options of a device are policy's, the options of a network filesystem an
 * allow-list of the supervisor's. The mount is nodev, and what of its attributes matters is locked (stage()), before the
 * container sees it.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/stat.h>

#define DEV "/dev/"
#define BIT(capability) (1ull << (capability))

/* One mount in the making. */
struct backed {
	const struct call *call;
	int context, root; /* root: a tmpfs that holds nothing but the device's node, under the name that the container knows */
	long result;
};

/* Options, each ended by '\n': a value may hold commas. */
static long options(int context, char *text)
{
	long error = 0;

	while (!error && *text) {
		char *key = text, *value = 0;

		for (; *text && *text != '\n'; text++)
			if (*text == '=' && !value)
				value = text;
		if (*text)
			*text++ = 0;
		if (value)
			*value++ = 0;
		error = value ? context_set(context, key, value) : context_flag(context, key);
	}
	return error;
}

static long set_up(int context, const struct call *call)
{
	long error = context_common(context, call);

	return error || !call->text[AGENT_TEXT_OPTIONS] ? error : options(context, (char *)call->text[AGENT_TEXT_OPTIONS]);
}

/* -- devices */

static long empty_root(void)
{
	long context = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
	long error;

	if (context < 0)
		return context;
	error = context_set(context, "size", "4k");
	if (!error)
		error = context_set(context, "mode", "0755");
	if (!error)
		error = context_create(context);
	return error ? error : sys(fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}

static int make_node(void *argument)
{
	struct backed *backed = argument;
	const struct call *call = backed->call;
	long error = creds_borrow(BIT(CAP_MKNOD));

	backed->result = error ? error : sys(mknodat, backed->root, call->text[AGENT_TEXT_SOURCE] + 1, S_IFBLK | 0600,
					     call->request->number[0]);
	return 0;
}

/* The kernel looks the source up when the superblock is made, and shows it for ever after (/proc/PID/mountinfo): so it is looked
 * up where the container's name for the device leads to it. */
static int create_there(void *argument)
{
	struct backed *backed = argument;
	long error = sys(fchdir, backed->root);

	if (!error)
		error = sys(chroot, ".");
	if (!error)
		error = creds_borrow(BIT(CAP_SYS_ADMIN));
	backed->result = error ? error : context_create(backed->context);
	return 0;
}

static long run(int (*child)(void *), struct backed *backed)
{
	long error = sys_run_child(child, backed);

	return error ? error : backed->result;
}

static int is_name(const char *source)
{
	unsigned i;

	for (i = 0; DEV[i]; i++)
		if (!source || source[i] != DEV[i])
			return 0;
	source += i;
	for (i = 0; source[i]; i++)
		if (source[i] == '/')
			return 0;
	return i && *source != '.';
}

static long make_device(struct backed *backed)
{
	const struct call *call = backed->call;
	long error;

	backed->root = empty_root();
	if (backed->root < 0)
		return backed->root;
	error = sys(mkdirat, backed->root, "dev", 0755);
	if (!error)
		error = run(make_node, backed);
	if (!error)
		error = set_up(backed->context, call);
	return error ? error : run(create_there, backed);
}

static long id_map(long mount, const struct call *call)
{
	const struct mount_attr attributes = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = call->fd[AGENT_FD_USERNS] };

	return sys(mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
}

/* number: the device, as mknod(2) encodes it. SOURCE: /dev/NAME. */
long act_mount_device(struct call *call)
{
	struct backed backed = { .call = call };
	long mount, target, error;

	if (!is_name(call->text[AGENT_TEXT_SOURCE])) {
		call->outcome = AGENT_MALFORMED;
		return 0;
	}
	target = path_enter_target(call);
	if (target < 0)
		return target;
	backed.context = sys(fsopen, call->text[AGENT_TEXT_TYPE], FSOPEN_CLOEXEC);
	if (backed.context < 0)
		return backed.context;
	error = make_device(&backed);
	mount = error ? error : context_mount(backed.context, call, MOUNT_ATTR_NODEV);
	if (mount < 0)
		return mount;
	error = id_map(mount, call);
	if (error)
		return error;
	mount = stage(call, mount, 0, 0, 1);
	return mount < 0 ? mount : attach(call, mount, target);
}

/* -- networks */

static const char *const network_types[] = { "nfs", "nfs4", "cifs", "smb3" };

static int is_network(const char *type)
{
	unsigned i;

	for (i = 0; i < sizeof network_types / sizeof network_types[0]; i++)
		if (text_equal(type, network_types[i]))
			return 1;
	return 0;
}

/* These filesystems talk through the network namespace of who opens the context. */
static long make_there(const struct call *call)
{
	long context, error = sys(setns, call->fd[AGENT_FD_NETNS], CLONE_NEWNET);
	long mount = error, back;

	if (!error) {
		context = sys(fsopen, call->text[AGENT_TEXT_TYPE], FSOPEN_CLOEXEC);
		error = context < 0 ? context : set_up(context, call);
		if (!error)
			error = context_create(context);
		mount = error ? error : context_mount(context, call, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID);
	}
	back = sys(setns, HOST_NETNS_FD, CLONE_NEWNET);
	return back ? back : mount;
}

long act_mount_network(struct call *call)
{
	long mount, target;

	if (!is_network(call->text[AGENT_TEXT_TYPE])) {
		call->outcome = AGENT_MALFORMED;
		return 0;
	}
	target = path_enter_target(call);
	if (target < 0)
		return target;
	mount = make_there(call);
	if (mount >= 0)
		mount = stage(call, mount, 0, 0, 1);
	return mount < 0 ? mount : attach(call, mount, target);
}
