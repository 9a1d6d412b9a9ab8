/* The agent's wire protocol: fixed-size messages over SOCK_SEQPACKET, one request at a time.
 *
 * Both ends are ours and run on one machine, so integers are native. The supervisor is trusted by the agent; the
 * agent is *not* trusted by the supervisor beyond its answer's errno and value: it works on paths of a hostile container.
 *
 * A request is `struct agent_request` followed by `text_length` bytes of text (the strings of the request, each
 * NUL-terminated, in the order of enum agent_text, those present named in `texts`). Descriptors come along by
 * SCM_RIGHTS in the order of enum agent_fd, those present named in `fds`.
 */
#ifndef INTERCEPTOR_AGENT_WIRE_H
#define INTERCEPTOR_AGENT_WIRE_H

#include <stdint.h>

#define AGENT_WIRE_VERSION 9
#define AGENT_TEXT_MAX 32768
#define AGENT_GROUPS_MAX 32
#define AGENT_TAKEN_MAX 200     /* SCM_MAX_FD is 253 */

/* The closed list of what an agent does. Nothing else, ever; each answers in docs/security.md. */
enum agent_op {
	AGENT_PING = 0,          /* answers 0 */
	AGENT_MOUNT = 1,         /* a fresh mount of TYPE (proc, sysfs, …), attached at PATH; value = its number (STATX_MNT_ID_UNIQUE) */
	AGENT_STAND_IN = 2,      /* an empty read-only tmpfs in the place of TYPE, attached at PATH */
	AGENT_OVERLAY = 3,       /* overlay with real-root privilege, mounter = the container's root kuid */
	AGENT_MOUNT_ID = 4,      /* value = STATX_MNT_ID of the mount root at PATH; EINVAL when it is no mount's root */
	                         /* with AGENT_UNIQUE: STATX_MNT_ID_UNIQUE; EINVAL when STATX_MNT_ID is not number[0] */
	AGENT_SETHOSTNAME = 5,   /* DATA, in the UTS namespace of fd UTSNS */
	AGENT_SETDOMAINNAME = 6,
	AGENT_HOME = 7,          /* keeps MNTNS and USERNS, the container's own, for requests with AGENT_AT_HOME */
	/* The new mount API; agent_newmount.c. Descriptors that an action gives come with its reply. */
	AGENT_FSOPEN = 16,       /* gives a context of TYPE, of the tracee's own namespaces; with AGENT_TWIN one of ours, too */
	AGENT_OVERLAY_OPTION = 17, /* KEY and VALUE (absent: a flag), or the directory BASE, for the overlay CONTEXT of ours */
	AGENT_OVERLAY_CREATE = 18, /* FSCONFIG_CMD_CREATE on it, mounter = the container's root kuid */
	AGENT_FSMOUNT = 19,      /* gives a detached mount of CONTEXT; without one, of a stand-in for TYPE; value = its STATX_MNT_ID */
	AGENT_OPEN_ROOT = 20,    /* gives the root directory of the mount CONTEXT, open for reading */
	AGENT_MOVE_MOUNT = 21,   /* attaches the detached mount CONTEXT at PATH */
	AGENT_MAKE_NODE = 32,    /* mknod(2) of a device at PATH; value = its inode number */
	AGENT_SET_XATTR = 33,    /* setxattr(2) of attribute TYPE of PATH; the value is in MEMORY */
	AGENT_GET_XATTR = 34,    /* value = its size; the attribute's value is written to MEMORY */
	AGENT_LIST_XATTR = 35,   /* the same with the list of names, those of trusted.* among them; value = -1: ask the kernel */
	AGENT_REMOVE_XATTR = 36,
	AGENT_MAY_CHOWN = 37,    /* value = whether PATH's owner and group are ids of the container */
	AGENT_READ = 96,         /* value = how many bytes of the file BASE, from an offset on, were copied to MEMORY */
	AGENT_DETACH = 128,      /* umount2(2) of PATH, with all that is mounted below it, if it is the mount number[0] (STATX_MNT_ID_UNIQUE) */
	/* Loop devices; agent_loop.c. PATH is absolute. */
	AGENT_LOOP_ATTACH = 112, /* attaches the file CONTEXT; without one, changes what AGENT_LOOP_* (number[0]) say */
	AGENT_LOOP_DETACH = 113, /* number[0]: AGENT_LOOP_* that it must have */
	AGENT_LOOP_STATUS = 114, /* value = AGENT_LOOP_* of what is attached; -1: nothing is */
	/* Filesystems with something behind them; agent_backed.c. OPTIONS is a list, each ended by '\n'. */
	AGENT_MOUNT_DEVICE = 115, /* the block device number[0] as TYPE, id-mapped by USERNS, at PATH; SOURCE is its name inside */
	AGENT_MOUNT_NETWORK = 116, /* SOURCE as TYPE through NETNS, at PATH */
	AGENT_OPS = 144,
};

/* Descriptors, in the order in which SCM_RIGHTS carries them; a request's `fds` has bit (1 << role) for each present. */
enum agent_fd {
	AGENT_FD_NOTIFIER = 0,   /* seccomp notify fd: ID_VALID of `notification` is asked immediately before attaching */
	AGENT_FD_MNTNS = 1,      /* the tracee's mount namespace */
	AGENT_FD_ROOT = 2,       /* the tracee's root directory, O_PATH */
	AGENT_FD_BASE = 3,       /* where PATH starts: cwd, or the tracee's fd N of /proc/self/fd/N; absent: ROOT */
	AGENT_FD_CWD = 4,        /* the tracee's cwd, O_PATH: where relative overlay layers start; absent: ROOT */
	AGENT_FD_USERNS = 5,     /* the tracee's user namespace: path resolution with its DAC capabilities */
	AGENT_FD_PIDNS = 6,      /* for proc */
	AGENT_FD_NETNS = 7,      /* for sysfs */
	AGENT_FD_UTSNS = 8,
	AGENT_FD_CONTEXT = 9,    /* a filesystem context, or a detached mount */
	AGENT_FD_MEMORY = 10,    /* a memfd for what is larger than a message */
	AGENT_FD_LEAVES = 11,    /* O_PATH: the directory below which the files of text LEAVES are */
	AGENT_FD_LEAVES_NS = 12, /* the mount namespace in which that is mounted */
	AGENT_FD_ROLES = 13,
	/* Behind these: the tracee's own descriptors whose numbers TAKEN lists. */
};

/* Texts, in the order in which they follow the request; `texts` has bit (1 << kind) for each present. */
enum agent_text {
	AGENT_TEXT_PATH = 0,     /* the target, as the tracee gave it; "" means the BASE descriptor itself */
	AGENT_TEXT_TYPE = 1,     /* filesystem type; name of an extended attribute */
	AGENT_TEXT_SOURCE = 2,   /* mount(2)'s source; shown in mountinfo */
	AGENT_TEXT_OPTIONS = 3,  /* mount(2)'s data string */
	/* What a fresh mount must hide because the old one does: the old mount point's path, then paths relative to it, each
	 * ended by '\n' (a '\n' or '\\' inside is written as "\012" or "\134", as mountinfo does). */
	AGENT_TEXT_COVERS = 4,
	AGENT_TEXT_DATA = 5,     /* host or domain name; `data_length` bytes count, NUL may be inside, one NUL follows */
	AGENT_TEXT_KEY = 6,      /* fsconfig(2)'s key and value */
	AGENT_TEXT_VALUE = 7,
	AGENT_TEXT_TAKEN = 8,    /* numbers of the tracee's descriptors, in decimal, each ended by ' ' */
	/* Files that are mounted over those of a fresh mount: for each its path there and its name below fd LEAVES, both ended
	 * by '\n'. */
	AGENT_TEXT_LEAVES = 9,
	AGENT_TEXT_KINDS = 10,
};

#define AGENT_FOLLOW 1u          /* MOUNT_ID, MOVE_MOUNT: PATH's last component may be a symbolic link (mounting always follows) */
#define AGENT_LOCK_COVERS 2u     /* MOUNT, FSMOUNT: covers cannot be unmounted (MNT_LOCKED), as in a nested user namespace */
#define AGENT_TWIN 4u            /* FSOPEN: a second context, with our rights, which is never the tracee's */
#define AGENT_OURS 8u            /* FSMOUNT: the superblock is of our making: nodev, locked */
#define AGENT_DESCRIPTOR 16u     /* *_XATTR: BASE itself is meant, as by the f-calls, and not what it is a path to */
#define AGENT_AT_HOME 32u        /* STAND_IN: MNTNS and USERNS are those of HOME and do not come along; PATH is absolute */
#define AGENT_NO_ID 64u          /* nobody needs the value of an action that mounts */
#define AGENT_UNIQUE 128u        /* MOUNT_ID: the number that no later mount gets; before Linux 6.8 there is none */

#define AGENT_LOOP_READ_ONLY 1u
#define AGENT_LOOP_AUTOCLEAR 2u

struct agent_request {
	uint32_t version;            /* AGENT_WIRE_VERSION */
	uint32_t op;                 /* enum agent_op */
	uint64_t cookie;             /* echoed */
	uint64_t notification;       /* seccomp_notif.id; 0: no ID_VALID is asked */
	uint32_t flags;              /* AGENT_* */
	uint32_t fds;                /* bits of enum agent_fd */
	uint32_t texts;              /* bits of enum agent_text */
	uint32_t text_length;        /* bytes after this struct */
	uint64_t mount_flags;        /* MS_*, for MOUNT, STAND_IN and OVERLAY; MOUNT_ATTR_* for FSMOUNT */
	uint64_t unless_mount;       /* number of a mount: if PATH is its root, nothing is attached; 0: always attach.
	                              * MAKE_NODE: inode number; if PATH is this file, nothing is made. */
	uint64_t number[4];          /* what an action takes besides, as it says itself */
	uint64_t capabilities;       /* the tracee's effective set (capabilities(7), bit per number) */
	uint32_t fsuid, fsgid;       /* the tracee's, as host ids; never 0: a container has no host root */
	uint32_t root_uid, root_gid; /* the container's root, as host ids: the first of its ranges */
	uint32_t id_count;           /* ids in each of the container's ranges */
	uint32_t deadline_ms;        /* the agent ends itself when the request takes longer; 0: never */
	uint32_t data_length;        /* bytes of DATA */
	uint32_t group_count;        /* supplementary groups in `groups`, host ids */
	uint32_t groups[AGENT_GROUPS_MAX]; /* the first ones; a tracee with more may be refused what the last would grant */
};

enum agent_outcome {
	AGENT_DONE = 0,          /* `error` and `value` are the action's */
	AGENT_GONE = 1,          /* the notification was no longer valid before attaching; nothing was done */
	AGENT_MALFORMED = 2,     /* no request of this protocol, or one that lacks a text or descriptor; nothing was done */
	AGENT_WANTS = 3,         /* nothing was done: `value` is the number of a descriptor of the tracee's that a path leads through */
};

#define AGENT_WANTED_CWD (-1)   /* AGENT_WANTS: the working directory, as role CWD */
#define AGENT_GIVEN_MAX 2

/* Memory that an agent shares with the supervisor alone, written immediately before something is changed: what was begun, if the
 * agent ends before it answers. */
struct agent_note {
	uint64_t cookie;             /* the request's */
	uint64_t made;               /* number of the mount that is about to be attached; 0: not known, or no mount */
};
#define AGENT_NOTE_SIZE 4096

struct agent_reply {
	uint64_t cookie;
	int32_t error;               /* 0 or a positive errno: the tracee's failure */
	uint32_t outcome;            /* enum agent_outcome */
	int64_t value;
	int32_t given[AGENT_GIVEN_MAX]; /* descriptors that came along, as the receiver has them; -1: none */
};

#endif
