/* What is decided without Python although registers alone do not tell: mount(2) by its filesystem type, umount2(2) by the
 * mount that its target is. Only the plain case; whatever is out of the ordinary is a miss, and the handlers decide it.
 *
 * The result of a look is that the kernel goes on with the call by itself, or what the table of types says. A refusal by
 * policy is never decided here: the handler looks once more, and explains it.
 */
#ifndef INTERCEPTOR_SHORTCUT_H
#define INTERCEPTOR_SHORTCUT_H

#include <stdint.h>

struct ic_session;
struct ic_notification;

enum ic_look { IC_LOOK_MOUNT = 1, IC_LOOK_UMOUNT = 2 };

enum ic_type_action {
	IC_TYPE_ASK = 0,      /* the handler */
	IC_TYPE_CONTINUE = 1, /* the kernel, with what the tracee has itself */
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
	uint32_t immutables;
	uint32_t unmounted;  /* the ending of an umount2(2) that is the kernel's */
	const struct ic_type *type;
	const uint64_t *immutable; /* STATX_MNT_ID of mounts that the handler is asked about, ascending */
};

/* IC_ANSWERED, or what ic_next() is to return. */
int ic_look(struct ic_session *session, const struct ic_notification *call, enum ic_look what);

#endif
