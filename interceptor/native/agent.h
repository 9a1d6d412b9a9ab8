/* What the agent's parts know of each other. Functions return a negative errno for failure unless they say otherwise. */
#ifndef INTERCEPTOR_AGENT_H
#define INTERCEPTOR_AGENT_H

#include "agent_wire.h"

/* The agent's own descriptors. Whatever is above FIRST_FREE belongs to one request and is closed before its answer. */
enum {
	LINK_FD = 3,        /* the socket to the supervisor */
	NOTE_FD = 5,        /* struct agent_note, until it is mapped at the start */
	HOST_MNTNS_FD = 4,
	HOST_UTSNS_FD = 5,
	HOST_NETNS_FD = 6,
	HOST_PIDNS_FD = 7,
	PROC_FD = 8,        /* the host's /proc, O_PATH: our own entries also while we stand in another namespace */
	STAGING_FD = 9,     /* mount namespace in which trees are assembled; a placeholder until the first needs it */
	HOME_MNTNS_FD = 10, /* the container's own namespaces, once somebody said which they are; placeholders before */
	HOME_USERNS_FD = 11,
	STAND_IN_FD = 12,   /* detached mounts of which stand-ins are copies; placeholders before the first of each */
	FIRST_FREE_FD = 16,
};

/* One request, taken apart. Absent descriptors are -1, absent texts null. */
struct call {
	const struct agent_request *request;
	int fd[AGENT_FD_ROLES];
	unsigned taken_count;
	int taken[AGENT_TAKEN_MAX], taken_number[AGENT_TAKEN_MAX];
	const char *text[AGENT_TEXT_KINDS];
	int denied;         /* the tracee's root cannot be entered with its filesystem ids alone */
	uint32_t outcome;
	int64_t value;
	int given[AGENT_GIVEN_MAX]; /* descriptors that go with the reply; -1: none */
};

/* For tests of what is done on older kernels: features newer than this (617: Linux 6.17) are not used. */
#ifndef AGENT_NEWEST_KERNEL
#define AGENT_NEWEST_KERNEL 99999
#endif

/* agent_creds.c: who we are while we do what. */
long creds_start(void);
/* The tracee's fsuid, fsgid and groups, and no DAC capabilities: what may be reached then is what it may reach, or less. */
long creds_of_tracee(const struct agent_request *request);
/* For a child: uid and gid of the container's root and every capability of our list, in the host's user namespace. */
long creds_of_mounter(const struct agent_request *request);
/* For a child: the tracee's ids, all capabilities inside its user namespace; then only `capabilities`. */
long creds_enter_userns(const struct call *call);
long creds_limit(uint64_t capabilities);
/* For a child: these of the permitted capabilities become effective, besides the ids that it has. */
long creds_borrow(uint64_t capabilities);
/* The same, with filesystem ids that own nothing. */
long creds_nobody(uint64_t capabilities);

/* agent_path.c */
/* Enters the tracee's mount namespace and root directory, with its credentials; path_leave() leads back after each request.
 * At home the mount namespace is all that is entered: paths then start at the root directory's descriptor. */
long path_enter(struct call *call);
/* Makes sure that we stand where a request expects us: in the host's mount namespace and root directory, or, for one that
 * is at home, perhaps still in the container's. */
long path_begin(const struct agent_request *request);
/* Back to the host's mount namespace; from a request at home only when we strayed from its root directory. */
long path_leave(const struct agent_request *request);
/* O_PATH descriptor of `path` as the tracee would walk it, starting at `base` (-1: its root). */
long path_open(const struct call *call, int base, const char *path, uint32_t flags);
#define PATH_NOFOLLOW 1u
#define PATH_READABLE 2u   /* a directory that the tracee may also list */
#define PATH_LIST 4u       /* the same, and the descriptor is one for listing it */
/* path_enter(), and then the target of a mount. */
long path_enter_target(struct call *call);

/* agent_links.c: the same walk, step by step, for paths that lead through magic links. */
long links_walk(const struct call *call, int base, const char *path, uint32_t flags);
void links_begin(void);
/* Whether the last request's path led through a descriptor that was not taken, and which. */
int links_wanted(int64_t *number);

/* Facts of the file under an O_PATH descriptor that are known without asking its filesystem (it may be a hostile FUSE). */
struct facts {
	uint64_t mount_id;
	uint64_t inode;
	uint32_t mode, uid, gid, major, minor, device_major, device_minor;
	int mount_root;
};
long path_facts(int fd, struct facts *facts);
/* The same, with an id that no later mount gets; before Linux 6.8 there is none. */
long path_facts_unique(int fd, struct facts *facts);

/* agent_context.c: fsopen(2), fsconfig(2), fsmount(2) */
long context_set(int context, const char *key, const char *value);
long context_flag(int context, const char *key);
long context_fd(int context, const char *key, int fd);
/* Source and superblock flags of mount(2). */
long context_common(int context, const struct call *call);
/* mount(2)'s data string, split as generic_parse_monolithic() does. */
long context_options(int context, const char *options);
long context_create(int context);
/* What of mount(2)'s flags is MOUNT_ATTR_*. */
uint64_t context_attributes(uint64_t flags);
/* fsmount with the MOUNT_ATTR_* of mount(2)'s flags and `add`. */
long context_mount(int context, const struct call *call, uint64_t add);
/* Gives a detached mount these MOUNT_ATTR_* in place of others. */
long context_change(int mount, uint64_t attributes);

/* agent_attach.c: ID_VALID, then move_mount onto `target`; refused where mount(2) would refuse it. */
long attach(struct call *call, int mount, int target);
/* Maps the memory that is shared with the supervisor. */
long note_open(void);
/* ID_VALID: to be asked immediately before anything is changed, which is noted. */
int still_waiting(const struct call *call);
/* The same for move_mount(2), which refuses by itself. */
long attach_moved(struct call *call, int mount, int target);
/* umount2(2) by descriptor, so that it is the mount that was looked at; the kernel asks what it asks everybody (can_umount()). */
long detach(int mount);

/* agent_overlay.c: whether this kernel's overlay takes layers one by one, when they are set (Linux 6.5). */
int overlay_takes_options_one_by_one(void);

/* A detached, empty, read-only tmpfs in the place of TYPE, with these MOUNT_ATTR_*. */
long make_stand_in(const struct call *call, uint64_t attributes);

/* agent_mount.c: what every fresh proc and sysfs gets, however it was made. A detached mount, with what must cover parts of it
 * (text COVERS) and what is mounted over its files (text LEAVES); `mount` itself where there is neither. Stands in the tracee's
 * mount namespace before and after. */
long finish_fresh(const struct call *call, int mount);

/* agent_stage.c: trees assembled where nobody looks. */
#define NO_COVER -1
struct cover {
	const char *path;   /* relative to the mount that it covers */
	int fd;             /* a detached mount, or NO_COVER: what is there in the new mount must not be revealed (EPERM) */
};
/* A detached copy of `mount` with `covers` attached in it. With `locked`, what lies below its root is MNT_LOCKED, and its
 * ro, nosuid, nodev and noexec cannot be taken back by the owner of the tracee's user namespace (lock_mnt_tree()).
 * Ends in the tracee's mount namespace. */
long stage(const struct call *call, int mount, const struct cover *covers, unsigned count, int locked);

/* A detached mount of the file `name` in the root directory of the detached `mount`. Ends in the tracee's mount namespace. */
long stage_one(const struct call *call, int mount, const char *name);

/* agent_leaves.c: detached mounts of the files of text LEAVES, at most `room`; answers how many. What is not there is left
 * out. Ends in the tracee's mount namespace. */
long leaves_take(const struct call *call, struct cover *covers, unsigned room);

/* The actions, in the order of enum agent_op. */
long act_home(struct call *call);
long act_mount(struct call *call);   /* agent_mount.c */
long act_stand_in(struct call *call);
long act_overlay(struct call *call); /* agent_overlay.c */
long act_mount_id(struct call *call);
long act_hostname(struct call *call);
long act_detach(struct call *call);    /* agent_attach.c */
long act_make_node(struct call *call); /* agent_node.c */
long act_fsopen(struct call *call);  /* agent_newmount.c */
long act_fsmount(struct call *call);
long act_open_root(struct call *call);
long act_move_mount(struct call *call);
long act_overlay_option(struct call *call); /* agent_overlay.c */
long act_overlay_create(struct call *call);
long act_xattr(struct call *call);     /* agent_xattr.c */
long act_may_chown(struct call *call);
long act_read(struct call *call); /* agent_read.c */
long act_loop_attach(struct call *call); /* agent_loop.c */
long act_loop_detach(struct call *call);
long act_loop_status(struct call *call);
long act_mount_device(struct call *call); /* agent_backed.c */
long act_mount_network(struct call *call);

/* agent_filter.c: from here on only the system calls of the list; any other ends the process. */
long filter_install(void);

#endif
