#include "journal.h"
#include "notify.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(sizeof(struct seccomp_notif) <= IC_JOURNAL_REQUEST, "a notification fits into a record");
_Static_assert(offsetof(struct seccomp_notif, id) == 0, "a record's id is the notification's");

__thread struct ic_record *ic_current;

size_t ic_journal_size(void)
{
	return IC_JOURNAL_SIZE;
}

struct ic_journal *ic_journal_map(int memfd)
{
	struct ic_journal *journal = mmap(0, IC_JOURNAL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (journal == MAP_FAILED)
		return 0;
	if (journal->version == 0) {
		journal->record_size = sizeof(struct ic_record);
		journal->records = IC_JOURNAL_RECORDS;
		journal->version = IC_JOURNAL_VERSION;
	}
	if (journal->version == IC_JOURNAL_VERSION && journal->record_size == sizeof(struct ic_record) &&
	    journal->records == IC_JOURNAL_RECORDS)
		return journal;
	munmap(journal, IC_JOURNAL_SIZE);
	errno = EPROTO;
	return 0;
}

void ic_journal_read(const struct ic_record *record, struct ic_notification *out)
{
	ic_flatten((const struct seccomp_notif *)record->request, out);
}

void ic_journal_enter(struct ic_record *record)
{
	ic_current = record;
}

void ic_journal_alone(void)
{
	static const struct agent_request nobody = {.cookie = 1}; /* which no agent has, nor any reply */

	if (ic_current)
		ic_journal_act(ic_current, 0, &nobody);
}

void ic_journal_give(uint64_t parcel, uint32_t cloexec)
{
	if (!ic_current)
		return;
	ic_current->cookie = parcel;
	ic_current->flags = cloexec;
	__atomic_store_n(&ic_current->stage, IC_GIVING, __ATOMIC_RELEASE);
}

void ic_journal_given(int64_t number)
{
	if (!ic_current)
		return;
	ic_current->value = number;
	ic_current->error = 0;
	ic_current->flags = 0;
	__atomic_store_n(&ic_current->stage, IC_ACTED, __ATOMIC_RELEASE);
}

void ic_journal_strike(struct ic_record *record, int release)
{
	record->stage = IC_RECEIVED;
	memset(record->request, 0, sizeof record->request);
	if (release)
		__atomic_store_n(&record->notifier, 0, __ATOMIC_RELEASE);
}
