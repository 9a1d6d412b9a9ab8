#include "forks.h"

#include <pthread.h>

/* Children are its readers: many at a time, and none begins while somebody waits for those before it. */
static pthread_rwlock_t young = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

void ic_fork_begin(void)
{
	pthread_rwlock_rdlock(&young);
}

void ic_fork_end(void)
{
	pthread_rwlock_unlock(&young);
}

void ic_forks_settle(void)
{
	pthread_rwlock_wrlock(&young);
	pthread_rwlock_unlock(&young);
}
