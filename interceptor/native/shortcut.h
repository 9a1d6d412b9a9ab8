/* What is decided without Python although registers alone do not tell: mount(2) by its filesystem type, umount2(2) by the
 * mount that its target is. Only the plain case; whatever is out of the ordinary is a miss, and the handlers decide it.
 *
 * The result of a look is that the kernel goes on with the call by itself, or what the table of types says. A refusal by
 * policy is never decided here: the handler looks once more, and explains it.
 */
#ifndef INTERCEPTOR_SHORTCUT_H
#define INTERCEPTOR_SHORTCUT_H

#include <stdint.h>

struct ic_agent;

/* A place where one idle agent of the container's lies, for whoever comes first: the pool, or a session in C. */
struct ic_slot {
	struct ic_agent *agent; /* null: none is here. Whoever takes it away has it for itself */
	int wanted;          /* somebody waits for an agent: who puts one back tells the pool */
};

struct ic_session;
struct ic_notification;

enum ic_look { IC_LOOK_MOUNT = 1, IC_LOOK_UMOUNT = 2 };

enum ic_type_action {
	IC_TYPE_ASK = 0,      /* the handler */
	IC_TYPE_CONTINUE = 1, /* the kernel, with what the tracee has itself */
	IC_TYPE_STAND_IN = 2, /* the agent, for the container's root in the container's own namespaces */
};

#define IC_TYPE_NAME 32

struct ic_type {
	char name[IC_TYPE_NAME];
	uint32_t action;     /* enum ic_type_action */
	uint32_t ending;     /* for the trace: see IC_LOOKED */
};

/* What is known of one container and its policy. It does not change once a session has it. */
struct ic_shortcut {
	uint32_t types;      /* how many; the last one is for whatever has no entry */
	uint32_t immutables, leaves;
	uint32_t unmounted;  /* the ending of an umount2(2) that is the kernel's */
	const struct ic_type *type;
	const uint64_t *immutable; /* STATX_MNT_ID of mounts that the handler is asked about, ascending */
	const uint64_t *leaf;      /* devices (major << 32 | minor) of files that are mounted over those of a proc or sysfs */
	uint64_t mount_namespace;  /* st_ino of init's */
	uint64_t user_namespace;
	uint32_t first_id, id_count;
	uint32_t deadline_ms;
	uint32_t restarts;   /* a signal interrupts calls, which then come again: no WAIT_KILLABLE_RECV */
	struct ic_slot *slot;
};

/* The agent in `slot`, for the caller alone, or null. */
struct ic_agent *ic_slot_take(struct ic_slot *slot);
/* 1: somebody waits for it. */
int ic_slot_put(struct ic_slot *slot, struct ic_agent *agent);
/* Whether somebody waits from now on. */
void ic_slot_want(struct ic_slot *slot, int wanted);

#define IC_MADE 64

/* A mount that was made for a call, should a signal interrupt the call before its answer is heard. */
struct ic_made {
	uint64_t call;       /* ic_made_key(); 0: empty */
	uint64_t mount;      /* its number, as the agent says it; 0: none was made */
	uint64_t expires;    /* CLOCK_MONOTONIC, ns */
	uint32_t attempts;   /* how often it was interrupted before anything was done */
};

/* What a restarted call shares with its earlier self; its strings, as in ic_hit, follow. */
struct ic_again {
	uint64_t tid, call, ip, args[6]; /* `call` is ic_notification.key */
};
/* A number for that, never 0. */
uint64_t ic_made_key(const void *again, uint64_t size);
/* The mount that was made for the call, or 0. */
uint64_t ic_made_find(const struct ic_session *session, uint64_t key);
void ic_made_put(struct ic_session *session, uint64_t key, uint64_t mount, uint64_t nanoseconds);

/* IC_ANSWERED, or what ic_next() is to return. */
int ic_look(struct ic_session *session, const struct ic_notification *call, enum ic_look what);

#endif
