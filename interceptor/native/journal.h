/* The journal: what was received and not yet answered, in a memfd that outlives the process.
 *
 * The kernel does not deliver a notification twice: one that a dead supervisor had received stays unanswered until somebody
 * who knows its id answers it. So it is received straight into a record: seccomp_notify_recv() writes it there before a
 * SIGKILL can take effect, and no moment is left in which it is nowhere. The same holds for an agent's reply. A record
 * costs a few stores.
 *
 * One record for each receiving thread, which has one notification at a time.
 */
#ifndef INTERCEPTOR_JOURNAL_H
#define INTERCEPTOR_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "agent_wire.h"

#define IC_JOURNAL_VERSION 1u
#define IC_JOURNAL_RECORDS 16384 /* one a thread; what is not used costs nothing */
#define IC_JOURNAL_REQUEST 128   /* bytes for struct seccomp_notif, which may grow (SECCOMP_GET_NOTIF_SIZES) */

enum ic_stage {
	IC_RECEIVED = 0, /* nothing has been done for it, if anything was received: then `id` is not 0 */
	IC_ACTING = 1,   /* agent number `agent` was sent request `cookie`: `flags` is its action, `value` the first number that goes
	                  * with it; `reply` is there when it has that cookie */
	IC_ACTED = 2,    /* something was done, and this is the answer */
	IC_GIVING = 3,   /* the descriptor in parcel `cookie` is being given to the tracee, with `flags` O_CLOEXEC or not */
};

struct ic_record {
	uint64_t notifier;  /* the number of a kept notifier; 0: the record is free */
	uint32_t stage;     /* enum ic_stage */
	uint32_t agent;
	uint64_t cookie;
	struct agent_reply reply;
	int64_t value;
	int32_t error;
	uint32_t flags;
	union {
		uint64_t id;    /* of struct seccomp_notif, its first member; 0: nothing was received */
		char request[IC_JOURNAL_REQUEST];
	};
};

struct ic_journal {
	uint32_t version;
	uint32_t record_size;
	uint32_t records;
	uint32_t top;       /* records from here on were never used */
	char padding[240];
	struct ic_record record[];
};

#define IC_JOURNAL_SIZE (sizeof(struct ic_journal) + IC_JOURNAL_RECORDS * sizeof(struct ic_record))

struct ic_notification;

/* Maps a memfd of IC_JOURNAL_SIZE bytes. NULL with errno; EPROTO for a journal of another layout. */
struct ic_journal *ic_journal_map(int memfd);
/* The notification that a record holds. */
void ic_journal_read(const struct ic_record *record, struct ic_notification *out);
/* The calling thread works on what `record` holds; NULL: on nothing. ic_next() says so by itself. */
void ic_journal_enter(struct ic_record *record);
/* Nothing is held any more; the record is free when `release`. */
void ic_journal_strike(struct ic_record *record, int release);
/* The calling thread is about to change something itself, without an agent: who comes after it does not know whether it did. */
void ic_journal_alone(void);
/* Before and after a descriptor is given: the call is then to be answered with its number. */
void ic_journal_give(uint64_t parcel, uint32_t cloexec);
void ic_journal_given(int64_t number);
size_t ic_journal_size(void);

/* ---- for C ---- */

extern __thread struct ic_record *ic_current;

/* An answer to notification `id` is about to be sent. */
static inline void ic_journal_answer(uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
	struct ic_record *record = ic_current;

	if (!record || record->id != id || record->stage != IC_ACTING)
		return;
	record->value = value;
	record->error = error;
	record->flags = flags;
	__atomic_store_n(&record->stage, IC_ACTED, __ATOMIC_RELEASE);
}

/* Agent `agent` is about to be sent a request that may change something. */
static inline void ic_journal_act(struct ic_record *record, uint32_t agent, const struct agent_request *request)
{
	record->agent = agent;
	record->cookie = request->cookie;
	record->flags = request->op;
	record->value = (int64_t)request->number[0];
	record->reply.cookie = 0;
	__atomic_store_n(&record->stage, IC_ACTING, __ATOMIC_RELEASE);
}

#endif
