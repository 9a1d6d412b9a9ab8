/* The mount and namespace system calls of the OCI runtime's side, which glibc 2.36 wraps only in part.
 *
 * Every function answers its value, or the negative errno. None keeps state, none blocks on anything but the kernel.
 * Two of them exist because Python cannot do it at all: a user namespace without a process that lives in it, and an
 * overlay whose mounter is somebody else; both change what belongs to one thread only, by raw system calls.
 */
#ifndef INTERCEPTOR_MOUNTAPI_H
#define INTERCEPTOR_MOUNTAPI_H

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <stdint.h>
#include <sys/mount.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

int ic_open_tree(int dirfd, const char *path, unsigned flags);
int ic_move_mount(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned flags);
int ic_mount_setattr(int dirfd, const char *path, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation,
		     int user_namespace);
int ic_fsopen(const char *fstype);
int ic_fsconfig(int context, unsigned command, const char *key, const char *value, int aux);
int ic_fsmount(int context, unsigned attributes);
/* What the kernel wrote into the context's log for people: bytes stored in `text`. */
int ic_fs_log(int context, char *text, unsigned size);
int ic_openat2(int dirfd, const char *path, uint64_t flags, uint64_t resolve);
/* STATX_MNT_ID; *is_root says whether path is the root of that mount. */
int ic_mount_id(int dirfd, const char *path, unsigned flags, uint64_t *mount_id, int *is_root);
int ic_umount2(const char *path, int flags);
/* How many mounts lie on the mount `mount` (STATX_MNT_ID_UNIQUE) of a mount namespace, one at most; -ENOENT: it is not there.
 * Before Linux 6.11 nobody knows (-ENOTTY). */
int ic_mounts_on(int mount_namespace, uint64_t mount);

/* `trees[i]` becomes a detached clone of the mount at `names[i]` (below `directory`) alone. The first failure's negative errno
 * is answered, and nothing is left open.
 */
int ic_clone_all(int directory, const char *const *names, unsigned count, int *trees);
/* Attaches the detached mount `trees[i]` over `paths[i]`, which leads through no symbolic link and stays below `directory`;
 * `errors[i]` becomes 0 or an errno: EBUSY where something is mounted already.
 */
void ic_cover_all(int directory, const char *const *paths, const int *trees, unsigned count, int *errors);
/* statfs(2)'s f_type of the filesystem that `fd` lies on. */
int ic_filesystem_type(int fd, uint64_t *type);
int ic_setns(int fd, int type);
int ic_unshare(int flags);

/* A user namespace with these maps (lines of user_namespaces(7): "INSIDE OUTSIDE COUNT\n"), as an O_CLOEXEC descriptor
 * of /proc/PID/ns/user. Its only process is a child that shares our memory, waits, and is reaped before we return: no
 * SIGCHLD, nothing for anybody's wait(2).
 */
int ic_user_namespace(const char *uid_map, const char *gid_map);

/* NS_GET_USERNS: the user namespace that owns a namespace. */
int ic_owning_user_namespace(int namespace_fd);

/* fsopen("overlay") … fsmount() with file-system uid and gid of `uid` and `gid` but the caller's capabilities: overlayfs keeps
 * its mounter's credentials for everything it does to its layers, and through id-mapped layers the host's root has no id
 * to create files with. `keys[i]` is set to the directory `fds[i]` (overlay layer options by descriptor: Linux 6.13) where
 * fds[i] ≥ 0, to the string `values[i]` where that is not NULL, and as a flag otherwise. Answers a detached mount;
 * on failure `log` holds the kernel's explanation, or is empty.
 */
int ic_mount_overlay(unsigned uid, unsigned gid, const char *const *keys, const char *const *values, const int *fds,
		     unsigned count, unsigned attributes, char *log, unsigned log_size);

/* mount(2) of an overlay at `target` by the same mounter, for kernels that take no layers by descriptor. Relative paths in
 * `target` and `options` start at the calling thread's cwd.
 */
int ic_mount_overlay_at(unsigned uid, unsigned gid, const char *target, const char *options);

/* Whether `fstype` takes a descriptor as the value of option `key`: 0, or the negative errno. */
int ic_takes_descriptor(const char *fstype, const char *key, int fd);

/* Exclusive flock(2) that waits. */
int ic_lock(int fd);

#endif
