/* Credentials.
 *
 * The agent is uid 0 of the host with the capabilities of its list, but its filesystem ids are always a tracee's (or
 * nobody's): the kernel then keeps the DAC capabilities, CHOWN, FOWNER, FSETID and MKNOD out of the effective set by
 * itself (cap_task_fix_setuid(), LSM_SETID_FS). They never become effective in this process again; a child takes them.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#define NOBODY 65534u
#define BIT(capability) (1ull << (capability))

/* Effective in the agent: entering namespaces and roots, taking the tracee's ids. */
#define ACTING (BIT(CAP_SYS_ADMIN) | BIT(CAP_SYS_CHROOT) | BIT(CAP_SETUID) | BIT(CAP_SETGID))
/* Only permitted: what an overlay's mounter needs to copy files up with their owners, modes and attributes. */
#define MOUNTER (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | \
		 BIT(CAP_MKNOD) | BIT(CAP_SETFCAP))

static struct {
	uint32_t fsuid, fsgid, group_count;
	uint32_t groups[AGENT_GROUPS_MAX];
} now;

static long set_capabilities(uint64_t permitted, uint64_t effective)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ .effective = effective, .permitted = permitted },
		{ .effective = effective >> 32, .permitted = permitted >> 32 },
	};

	return sys(capset, &header, data);
}

static long get_permitted(uint64_t *permitted)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	long error = sys(capget, &header, data);

	*permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	return error;
}

/* setfsuid() and setfsgid() tell no errors: they answer the id before, so an impossible one asks for the present one. */
static long set_fsids(uint32_t fsuid, uint32_t fsgid)
{
	if (fsgid != now.fsgid) {
		sys(setfsgid, fsgid);
		now.fsgid = sys(setfsgid, -1);
	}
	if (fsuid != now.fsuid) {
		sys(setfsuid, fsuid);
		now.fsuid = sys(setfsuid, -1);
	}
	return now.fsuid == fsuid && now.fsgid == fsgid ? 0 : -EINVAL;
}

long creds_start(void)
{
	uint64_t held;
	long error = get_permitted(&held);

	if (!error)
		error = sys(setgroups, 0, 0);
	if (!error)
		error = set_fsids(NOBODY, NOBODY);
	if (!error)
		error = set_capabilities(held & (ACTING | MOUNTER), held & ACTING);
	sys(prctl, PR_SET_DUMPABLE, 0);
	return error;
}

static int same_groups(const struct agent_request *request)
{
	uint32_t i;

	if (request->group_count != now.group_count)
		return 0;
	for (i = 0; i < now.group_count; i++)
		if (request->groups[i] != now.groups[i])
			return 0;
	return 1;
}

long creds_of_tracee(const struct agent_request *request)
{
	long error = 0;

	if (same_groups(request) && request->fsuid == now.fsuid && request->fsgid == now.fsgid)
		return 0;
	if (!same_groups(request)) {
		error = sys(setgroups, request->group_count, request->groups);
		if (error)
			return error;
		now.group_count = request->group_count;
		memcpy(now.groups, request->groups, request->group_count * sizeof now.groups[0]);
	}
	error = set_fsids(request->fsuid, request->fsgid);
	sys(prctl, PR_SET_DUMPABLE, 0); /* commit_creds() made it fs.suid_dumpable */
	return error;
}

/* All ids of this process, without losing the permitted capabilities. */
static long set_ids(uint32_t uid, uint32_t gid)
{
	long error = sys(prctl, PR_SET_KEEPCAPS, 1);

	if (!error)
		error = sys(setresgid, gid, gid, gid);
	if (!error)
		error = sys(setresuid, uid, uid, uid);
	return error;
}

long creds_of_mounter(const struct agent_request *request)
{
	uint64_t held;
	long error = sys(setgroups, 0, 0);

	if (!error)
		error = set_ids(request->root_uid, request->root_gid);
	if (!error)
		error = get_permitted(&held);
	if (!error)
		error = set_capabilities(held, held);
	sys_harden();
	return error;
}

long creds_enter_userns(const struct call *call)
{
	const struct agent_request *request = call->request;
	uint64_t held;
	long error = get_permitted(&held);

	if (!error)
		error = set_ids(request->fsuid, request->fsgid);
	if (!error)
		error = set_capabilities(held, held & ACTING);
	if (!error)
		error = sys(setns, call->fd[AGENT_FD_USERNS], CLONE_NEWUSER);
	sys_harden();
	return error;
}

long creds_borrow(uint64_t capabilities)
{
	uint64_t held;
	long error = get_permitted(&held);

	if (!error)
		error = set_capabilities(held & capabilities, held & capabilities);
	sys_harden();
	return error;
}

long creds_nobody(uint64_t capabilities)
{
	sys(setfsgid, NOBODY);
	sys(setfsuid, NOBODY);
	return (uint32_t)sys(setfsuid, -1) == NOBODY ? creds_borrow(capabilities) : -EPERM;
}

long creds_limit(uint64_t capabilities)
{
	long error = set_capabilities(capabilities, capabilities);

	sys_harden();
	return error;
}
