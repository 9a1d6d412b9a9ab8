/* The notification path: receive, look up the compiled decision table, answer; back to Python only for a miss.
 *
 * Measured against handing notifications to another thread or an event loop: a blocking receive on a thread of its own
 * and the table inside the same call is within a few per cent of the bare receive–answer loop (bench/roundtrip.py).
 *
 * Source: seccomp_unotify(2); Linux kernel/seccomp.c seccomp_notify_recv(), seccomp_notify_send().
 */
#ifndef INTERCEPTOR_NOTIFY_H
#define INTERCEPTOR_NOTIFY_H

#include <stdint.h>

#define IC_CONDITIONS 4
#define IC_HITS 1024 /* a power of two: calls answered without ceremony, remembered per session for the trace */
#define IC_NOTE 0x80000000u /* set in ic_hit.rule: the rest is the `note` of ic_next(), not a row of the table */

enum ic_action { IC_CONTINUE = 0, IC_ERRNO = 1, IC_RETURN = 2 };

struct ic_condition {
	uint32_t index;      /* 0 … 5 */
	uint64_t mask;
	uint64_t value;      /* holds iff (args[index] & mask) == value */
};

struct ic_row {
	uint32_t arch;       /* AUDIT_ARCH_* */
	int32_t nr;
	uint32_t conditions; /* how many of `condition` count; all must hold */
	struct ic_condition condition[IC_CONDITIONS];
	uint32_t action;     /* enum ic_action */
	int64_t value;       /* the errno (positive) or the returned value */
	uint32_t rule;       /* the row's number for the trace */
};

struct ic_table {
	uint32_t length;
	uint8_t present[512]; /* by nr & 511: whether any row may match */
	struct ic_row row[];
};

/* struct seccomp_notif, flattened, and what became of the previous answer. */
struct ic_notification {
	uint64_t id;
	uint64_t key;        /* arch << 32 | nr */
	uint32_t tid;
	uint32_t arch;
	int32_t nr;
	int32_t sent;        /* 0 or -errno of the answer that the same call sent first; -ENOENT: the tracee was gone */
	uint64_t ip;
	uint64_t args[6];
	uint64_t received;   /* CLOCK_MONOTONIC, ns */
};

struct ic_hit {
	uint64_t time;       /* CLOCK_MONOTONIC when it was answered, ns */
	uint64_t args[6];
	uint32_t tid;
	uint32_t arch;
	int32_t nr;
	uint32_t rule;
	uint32_t nanoseconds; /* receive to answer */
	int64_t value;
	int32_t error;
	uint32_t flags;
};

struct ic_session {
	int notifier;
	int poll_first;      /* RECV does not return when all tracees are gone (before 6.11): ask poll(2) first */
	struct ic_table *table; /* replaced with ic_session_table(); the caller keeps old ones until the session ended */
	uint64_t hit_count;
	struct ic_hit hit[IC_HITS];
};

/* Zeroed memory that costs nothing until it is touched: most sessions answer little. Null when there is none. */
void *ic_reserve(uint64_t size);
void ic_release(void *memory, uint64_t size);

int ic_set_sync_wake_up(int notifier);
void ic_session_table(struct ic_session *session, struct ic_table *table);

/* Answers notification `id` when it is not 0, then receives until one is a miss. With `note` >= 0 the answered call, which
 * must be the one in `out`, is remembered as a hit under that number.
 * 0: `out` is filled. -ENODEV: all tracees are gone. Another -errno: the kernel's. */
int ic_next(struct ic_session *session, uint64_t id, int64_t value, int32_t error, uint32_t flags,
	    int32_t note, struct ic_notification *out);

/* 0, or -ENOENT when the tracee is gone. `error` is 0 or a positive errno. */
int ic_answer(int notifier, uint64_t id, int64_t value, int32_t error, uint32_t flags);
/* The number of the descriptor in the tracee, or -errno. */
int ic_answer_fd(int notifier, uint64_t id, int fd, int cloexec);
/* 0 or -ENOENT. */
int ic_id_valid(int notifier, uint64_t id);
/* Whether RECV returns once all tracees are gone (Linux 6.11); asked of the kernel itself with a child that installs a
 * filter and exits. 1, 0 or -errno (no user notification at all). Before any thread is started. */
int ic_probe_receive_returns(void);

#endif
