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

#include "pace.h"
#include "shortcut.h"

#define IC_CONDITIONS 4
#define IC_HITS 1024        /* a power of two: calls answered without ceremony, remembered per session for the trace */
#define IC_TEXT 32768       /* a power of two: bytes of their strings */
#define IC_TEXT_MAX 4096    /* of one call's */
#define IC_NOTE 0x80000000u /* set in ic_hit.rule: the rest is the `note` of ic_next(), not a row of the table */
#define IC_LOOKED 0x40000000u /* set in ic_hit.rule: the rest is an ending of the shortcut's (shortcut.h) */
#define IC_NOBODY 0x80000000u /* set in ic_hit.flags: the tracee was gone before anything was done */
#define IC_TASKS 4

enum ic_action { IC_CONTINUE = 0, IC_ERRNO = 1, IC_RETURN = 2, IC_LOOK = 3 /* `value` is an enum ic_look */, IC_ASK = 4 /* Python */ };

/* What ic_next() says of a call. Negative: an errno. */
enum ic_next {
	IC_MISS = 0,         /* Python decides */
	IC_FULL = 1,         /* nothing was received: more hits can only be remembered once somebody took these */
	IC_ANSWERED = 2,     /* only from ic_look() to ic_next() */
	/* About the agent of the shortcut's slot. In the first three cases the call in `out` is not answered yet. */
	IC_UNTAKEN = 3,      /* it has ended before it took the call: a miss otherwise */
	IC_SLOW = 4,         /* it has taken the call, with its id for a cookie, and has not answered yet; see `handed` */
	IC_LOST = 5,         /* it has taken the call and ended; see `handed` */
	IC_WANTED = 6,       /* it is back, and somebody waits for it; nothing was received */
	IC_UNHEARD = 7,      /* the tracee was gone when it was answered (`sent`): nothing was received, so that whoever acted can
	                      * note that before the same call comes again. Not of calls with a note */
};

struct ic_condition {
	uint32_t index;      /* 0 … 5 */
	uint64_t mask;
	uint64_t value;      /* holds iff (args[index] & mask) == value */
};

#define IC_PATTERN 64

/* What a string of the call's is or begins with; looked at only once for a call, and only for such rows. */
struct ic_text {
	uint32_t length;     /* of `pattern`; 0: the row does not look at strings */
	uint32_t index;      /* the register that points to it */
	uint32_t exact;      /* the whole string, not only its beginning */
	char pattern[IC_PATTERN];
};

struct ic_row {
	uint32_t arch;       /* AUDIT_ARCH_* */
	int32_t nr;
	uint32_t conditions; /* how many of `condition` count; all must hold */
	struct ic_condition condition[IC_CONDITIONS];
	struct ic_text text;
	uint32_t action;     /* enum ic_action */
	int64_t value;       /* the errno (positive), the returned value, or what to look at */
	uint32_t rule;       /* the row's number for the trace */
};

struct ic_table {
	uint32_t length;
	uint8_t present[512]; /* by nr & 511: whether any row may match */
	struct ic_row row[];
};

/* struct seccomp_notif, flattened, and what became of the previous answer. */
struct ic_record;

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
	struct ic_record *record; /* where it is received to (journal.h); null: nowhere that outlives us */
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
	uint32_t text;       /* where in ic_session.text its strings are … */
	uint32_t text_length; /* … and how long: comm, then those of the call in the order in which they were copied, each with
			       * its NUL; 0 where nobody looked */
};

/* A thread that was here before, held by its /proc directory: see ic_task_open(). */
struct ic_task {
	uint32_t tid;
	uint32_t proc;       /* descriptor + 1, so that zeroed memory holds none */
	uint64_t comm_time;  /* since when `comm` is known; 0: never */
	char comm[16];
};

struct ic_session {
	int notifier;
	int poll_first;      /* RECV does not return when all tracees are gone (before 6.11): ask poll(2) first */
	struct ic_table *table; /* replaced with ic_session_table(); the caller keeps old ones until the session ended */
	struct ic_pace *pace; /* null: calls come as fast as they come */
	struct ic_shortcut *shortcut; /* null: whatever the table says is to be looked at is a miss; replaced likewise */
	struct ic_task task[IC_TASKS];
	struct ic_made made[IC_MADE];
	uint32_t parked;        /* calls of this session that are being carried out elsewhere */
	uint32_t handed_length; /* of the strings, as in ic_hit, that a call had which is handed over with IC_SLOW or IC_LOST */
	char handed[IC_TEXT_MAX + 16];
	uint64_t hit_count;
	uint64_t hits_taken;    /* the reader's, as the next but one; between taken and count the ring is full */
	uint64_t text_count;    /* bytes of text that were ever remembered */
	uint64_t text_taken;
	struct ic_hit hit[IC_HITS];
	char text[IC_TEXT];
};

/* Zeroed memory that costs nothing until it is touched: most sessions answer little. Null when there is none. */
void *ic_reserve(uint64_t size);
void ic_release(void *memory, uint64_t size);

int ic_set_sync_wake_up(int notifier);
void ic_session_table(struct ic_session *session, struct ic_table *table);
void ic_session_shortcut(struct ic_session *session, struct ic_shortcut *shortcut);
/* Before anybody is in ic_next(); `pace` lives as long as the session. */
void ic_session_pace(struct ic_session *session, struct ic_pace *pace);
/* The hits up to number `hits` and their text up to `text` were read. */
void ic_session_taken(struct ic_session *session, uint64_t hits, uint64_t text);
/* Lets go of what the session holds; not of the notifier. When nobody is in ic_next() any more. */
void ic_session_end(struct ic_session *session);

/* Answers notification `id` when it is not 0, then receives until one is a miss. With `note` >= 0 the answered call, which
 * must be the one in `out`, is remembered as a hit under that number.
 * An enum ic_next. -ENODEV: all tracees are gone. Another -errno: the kernel's.
 *
 * Every notification is received in receive() and every answer sent by ic_answer() or ic_give_fd(). */
int ic_next(struct ic_session *session, uint64_t id, int64_t value, int32_t error, uint32_t flags,
	    int32_t note, struct ic_notification *out);

/* 0, or -ENOENT when the tracee is gone. `error` is 0 or a positive errno. */
int ic_answer(int notifier, uint64_t id, int64_t value, int32_t error, uint32_t flags);
/* The number of the tracee's new descriptor, or -errno; with `answer` it is what the call returns, otherwise it still waits. */
int ic_give_fd(int notifier, uint64_t id, int fd, int cloexec, int answer);
/* 0 or -ENOENT. */
int ic_id_valid(int notifier, uint64_t id);
/* Whether RECV returns once all tracees are gone (Linux 6.11); asked of the kernel itself with a child that installs a
 * filter and exits. 1, 0 or -errno (no user notification at all). Before any thread is started. */
int ic_probe_receive_returns(void);

/* For journal.c: everything but `sent` and `record`. */
struct seccomp_notif;
void ic_flatten(const struct seccomp_notif *request, struct ic_notification *out);

/* For shortcut.c: what becomes of a call is kept for the trace. */
void ic_remember(struct ic_session *session, const struct ic_notification *call, uint32_t rule, int64_t value, int32_t error,
		 uint32_t flags, const char *comm, const char *text, uint32_t length);

#endif
