/* What this host's kernel really does, tried in children that take everything with them when they end.
 *
 * Each function runs one experiment in a process of its own, killed after PROBE_SECONDS, in namespaces of its own.
 * They fork, so they are for a single-threaded caller: `interceptor doctor`, never the supervisor.
 */
#ifndef INTERCEPTOR_PROBE_H
#define INTERCEPTOR_PROBE_H

#define IC_PROBE_STAGE 96

/* error: 0 or a positive errno; stage: what was being done when it came, "" after success. */
struct ic_probe {
	int error;
	char stage[IC_PROBE_STAGE];
};

enum ic_notify_probe {
	IC_NOTIFY_ANSWER,	/* RECV, ID_VALID, SEND with a value */
	IC_NOTIFY_CONTINUE,	/* SEND with SECCOMP_USER_NOTIF_FLAG_CONTINUE */
	IC_NOTIFY_ADDFD_SEND,	/* ADDFD with SECCOMP_ADDFD_FLAG_SEND */
	IC_NOTIFY_SYNC_WAKE_UP, /* SET_FLAGS with SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */
	IC_NOTIFY_WAIT_KILLABLE /* a filter with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV */
};

void ic_probe_notify(struct ic_probe *result, enum ic_notify_probe what);

/* Host ids first … first + size - 1 are mapped to 0 … size - 1 in what follows. */
void ic_probe_user_namespace(struct ic_probe *result, unsigned int first, unsigned int size);
void ic_probe_time_namespace(struct ic_probe *result);
/* A hard limit, lowered and raised again: EPERM without CAP_SYS_RESOURCE, which host root has not everywhere. */
void ic_probe_raise_limit(struct ic_probe *result);

/* `directory` is an empty directory of root's on the filesystem in question; the caller removes it with its contents. */
void ic_probe_idmapped_mount(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size);
void ic_probe_idmapped_overlay(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size);
void ic_probe_unprivileged_overlay(struct ic_probe *result, const char *directory, unsigned int first, unsigned int size);
#endif
