/* Thin calls on the new mount API; see mountapi.h. Source: mount_setattr(2), open_tree(2), fsopen(2), openat2(2). */
#include "mountapi.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int answer(long value)
{
	return value < 0 ? -errno : (int)value;
}

int ic_open_tree(int dirfd, const char *path, unsigned flags)
{
	return answer(syscall(SYS_open_tree, dirfd, path, flags | OPEN_TREE_CLOEXEC));
}

int ic_move_mount(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned flags)
{
	return answer(syscall(SYS_move_mount, from_dirfd, from_path, to_dirfd, to_path, flags));
}

int ic_mount_setattr(int dirfd, const char *path, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation,
		     int user_namespace)
{
	struct mount_attr attributes = {
		.attr_set = set, .attr_clr = clear, .propagation = propagation,
		.userns_fd = user_namespace < 0 ? 0 : (uint64_t)user_namespace,
	};

	return answer(syscall(SYS_mount_setattr, dirfd, path, flags, &attributes, sizeof(attributes)));
}

int ic_fsopen(const char *fstype)
{
	return answer(syscall(SYS_fsopen, fstype, FSOPEN_CLOEXEC));
}

int ic_fsconfig(int context, unsigned command, const char *key, const char *value, int aux)
{
	return answer(syscall(SYS_fsconfig, context, command, key, value, aux));
}

int ic_fsmount(int context, unsigned attributes)
{
	return answer(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
}

int ic_fs_log(int context, char *text, unsigned size)
{
	unsigned stored = 0;
	ssize_t got;

	/* One message per read(2), ENODATA at the end. */
	while (stored + 1 < size && (got = read(context, text + stored, size - stored - 1)) > 0)
		stored += (unsigned)got;
	text[stored] = '\0';
	return (int)stored;
}

int ic_openat2(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};

	return answer(syscall(SYS_openat2, dirfd, path, &how, sizeof(how)));
}

int ic_mount_id(int dirfd, const char *path, unsigned flags, uint64_t *mount_id, int *is_root)
{
	struct statx found;

	if (statx(dirfd, path, (int)flags | AT_STATX_DONT_SYNC, STATX_MNT_ID, &found)) /* it may be a FUSE filesystem that hangs */
		return -errno;
	if (!(found.stx_mask & STATX_MNT_ID))
		return -ENOSYS;
	*mount_id = found.stx_mnt_id;
	*is_root = !!(found.stx_attributes & STATX_ATTR_MOUNT_ROOT);
	return 0;
}

int ic_umount2(const char *path, int flags)
{
	return answer(umount2(path, flags));
}

#ifndef NS_GET_MNTNS_ID
#define NS_GET_MNTNS_ID _IOR(NSIO, 0x5, uint64_t)
#endif
#ifndef SYS_listmount
#define SYS_listmount 458
#endif

int ic_mounts_on(int mount_namespace, uint64_t mount)
{
	struct { /* struct mnt_id_req (linux/mount.h), by a name of its own: older headers lack the last member */
		uint32_t size, spare;
		uint64_t mount, after, namespace;
	} request = {.size = sizeof request, .mount = mount};
	uint64_t on;

	if (ioctl(mount_namespace, NS_GET_MNTNS_ID, &request.namespace))
		return -errno;
	return answer((int)syscall(SYS_listmount, &request, &on, (size_t)1, 0));
}

int ic_clone_all(int directory, const char *const *names, unsigned count, int *trees)
{
	for (unsigned i = 0; i < count; i++) {
		trees[i] = ic_open_tree(directory, names[i], OPEN_TREE_CLONE | AT_RECURSIVE);
		if (trees[i] < 0) {
			int error = trees[i];

			while (i--)
				close(trees[i]);
			return error;
		}
	}
	return 0;
}

static int cover(int directory, const char *path, int tree)
{
	uint64_t mount_id;
	int target = ic_openat2(directory, path, O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	int is_root, error;

	if (target < 0)
		return -target;
	error = ic_mount_id(target, "", AT_EMPTY_PATH, &mount_id, &is_root);
	if (!error && is_root)
		error = -EBUSY;
	if (!error)
		error = ic_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	close(target);
	return -error;
}

void ic_cover_all(int directory, const char *const *paths, const int *trees, unsigned count, int *errors)
{
	for (unsigned i = 0; i < count; i++)
		errors[i] = cover(directory, paths[i], trees[i]);
}

int ic_filesystem_type(int fd, uint64_t *type)
{
	struct statfs found;

	if (fstatfs(fd, &found))
		return -errno;
	*type = (uint64_t)found.f_type;
	return 0;
}

int ic_setns(int fd, int type)
{
	return answer(setns(fd, type));
}

int ic_unshare(int flags)
{
	return answer(unshare(flags));
}

int ic_owning_user_namespace(int namespace_fd)
{
	return answer(ioctl(namespace_fd, NS_GET_USERNS));
}

int ic_lock(int fd)
{
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* -- a user namespace without inhabitants -------------------------------------------------------------------- */

/* Runs on its own stack in our memory: raw system calls only, no errno (it is our thread's), no locks. It is killed long
 * before its minute is over, unless we die first.
 */
static int wait_to_be_killed(void *unused)
{
	struct timespec minute = {.tv_sec = 60};

	(void)unused;
#if defined(__x86_64__)
	register long fourth __asm__("r10") = 0;
	long ignored;

	__asm__ volatile("syscall"
			 : "=a"(ignored)
			 : "a"(SYS_ppoll), "D"(0), "S"(0), "d"(&minute), "r"(fourth)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long number __asm__("x8") = SYS_ppoll;
	register long first __asm__("x0") = 0;
	register long second __asm__("x1") = 0;
	register long third __asm__("x2") = (long)&minute;
	register long fourth __asm__("x3") = 0;

	__asm__ volatile("svc 0" : "+r"(first) : "r"(number), "r"(second), "r"(third), "r"(fourth) : "memory");
#else
#error "the waiting system call of this architecture is missing"
#endif
	return 0;
}

static int write_map(pid_t pid, const char *name, const char *map)
{
	char path[64];
	size_t length = strlen(map);
	int fd, error = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, map, length) != (ssize_t)length)
		error = -errno;
	close(fd);
	return error;
}

int ic_user_namespace(const char *uid_map, const char *gid_map)
{
	/* The child's stack: it calls nothing but one system call. */
	char stack[8192] __attribute__((aligned(64)));
	char path[64];
	pid_t child;
	int result;

	/* No exit signal: wait(2) of other threads (subprocess, trio) never sees it. CLONE_FILES: the child must not hold
	 * copies of our descriptors.
	 */
	child = clone(wait_to_be_killed, stack + sizeof(stack), CLONE_VM | CLONE_FILES | CLONE_NEWUSER, NULL);
	if (child < 0)
		return -errno;
	result = write_map(child, "uid_map", uid_map);
	if (!result)
		result = write_map(child, "gid_map", gid_map);
	if (!result) {
		snprintf(path, sizeof(path), "/proc/%d/ns/user", child);
		result = answer(open(path, O_RDONLY | O_CLOEXEC));
	}
	kill(child, SIGKILL);
	while (waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
		;
	return result;
}

/* -- an overlay mounted by the container's root -------------------------------------------------------------- */

struct overlay {
	unsigned uid, gid;
	const char *const *keys;
	const char *const *values;
	const int *fds;
	unsigned count, attributes;
	char *log;
	unsigned log_size;
	const char *target, *options; /* mount(2) instead */
	int result;
};

/* Of the calling thread alone, hence raw system calls: glibc changes every thread's ids. Leaving uid 0 drops the effective file capabilities (capabilities(7)); they are taken again.
 */
static int become(unsigned uid, unsigned gid)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return -errno;
	syscall(SYS_setfsgid, gid);
	syscall(SYS_setfsuid, uid);
	if ((unsigned)syscall(SYS_setfsuid, -1) != uid || (unsigned)syscall(SYS_setfsgid, -1) != gid)
		return -EPERM;
	if (syscall(SYS_capset, &header, data))
		return -errno;
	return 0;
}

static int configure_overlay(const struct overlay *o, int context)
{
	for (unsigned i = 0; i < o->count; i++) {
		int error;

		if (o->fds[i] >= 0)
			error = ic_fsconfig(context, FSCONFIG_SET_FD, o->keys[i], NULL, o->fds[i]);
		else if (o->values[i])
			error = ic_fsconfig(context, FSCONFIG_SET_STRING, o->keys[i], o->values[i], 0);
		else
			error = ic_fsconfig(context, FSCONFIG_SET_FLAG, o->keys[i], NULL, 0);
		if (error)
			return error;
	}
	return ic_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

static int create_overlay(const struct overlay *o)
{
	int context = ic_fsopen("overlay");
	int result;

	if (context < 0)
		return context;
	result = configure_overlay(o, context);
	if (!result)
		result = ic_fsmount(context, o->attributes);
	if (result < 0)
		ic_fs_log(context, o->log, o->log_size);
	close(context);
	return result;
}

static void *mount_overlay(void *argument)
{
	struct overlay *o = argument;

	o->result = become(o->uid, o->gid);
	if (!o->result)
		o->result = o->target ? answer(mount("overlay", o->target, "overlay", 0, o->options)) : create_overlay(o);
	return NULL;
}

/* A thread inherits its creator's mount namespace, root and cwd, so paths mean what they mean to the caller. */
static int on_a_thread(struct overlay *o)
{
	int dumpable = prctl(PR_GET_DUMPABLE);
	pthread_t thread;
	int error = pthread_create(&thread, NULL, mount_overlay, o);

	if (error)
		return -error;
	pthread_join(thread, NULL);
	/* commit_creds() makes the whole process undumpable when a thread's fsuid changes. */
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	return o->result;
}

int ic_mount_overlay(unsigned uid, unsigned gid, const char *const *keys, const char *const *values, const int *fds,
		     unsigned count, unsigned attributes, char *log, unsigned log_size)
{
	struct overlay o = {
		.uid = uid, .gid = gid, .keys = keys, .values = values, .fds = fds, .count = count,
		.attributes = attributes, .log = log, .log_size = log_size,
	};

	log[0] = '\0';
	return on_a_thread(&o);
}

int ic_mount_overlay_at(unsigned uid, unsigned gid, const char *target, const char *options)
{
	struct overlay o = {.uid = uid, .gid = gid, .target = target, .options = options};

	return on_a_thread(&o);
}

int ic_takes_descriptor(const char *fstype, const char *key, int fd)
{
	int context = ic_fsopen(fstype);
	int result;

	if (context < 0)
		return context;
	result = ic_fsconfig(context, FSCONFIG_SET_FD, key, NULL, fd);
	close(context);
	return result;
}
