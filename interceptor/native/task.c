#include "task.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define STACK 16384

struct work {
	enum ic_task_action action;
	int number, value, priority;
	void *data;
	long result;
};

static long act(const struct work *work)
{
	const struct sched_param priority = {.sched_priority = work->priority};
	struct ic_limits *limits = work->data;
	long result;

	switch (work->action) {
	case IC_TASK_OPEN:
		result = syscall(SYS_pidfd_open, work->number, PIDFD_THREAD); /* before Linux 6.9: first threads only */
		return result < 0 && errno == EINVAL ? syscall(SYS_pidfd_open, work->number, 0) : result;
	case IC_TASK_NICE:
		return syscall(SYS_setpriority, PRIO_PROCESS, work->number, work->value);
	case IC_TASK_SCHEDULER:
		return syscall(SYS_sched_setscheduler, work->number, work->value, &priority);
	case IC_TASK_PRIORITY:
		return syscall(SYS_sched_setparam, work->number, &priority);
	case IC_TASK_ATTRIBUTES:
		return syscall(SYS_sched_setattr, work->number, work->data, 0);
	case IC_TASK_LIMIT:
		return syscall(SYS_prlimit64, work->number, work->value, 0, limits->was);
	case IC_TASK_LIMIT_SET:
		return syscall(SYS_prlimit64, work->number, work->value, limits->set, limits->was);
	case IC_TASK_IO:
		return syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, work->number, work->value);
	}
	errno = EINVAL;
	return -1;
}

static int child(void *memory)
{
	struct work *work = memory;
	long result = act(work);

	work->result = result < 0 ? -errno : result;
	return 0;
}

/* Signals are held back: a handler of ours would run in the child, too. */
static int in_child(struct work *work)
{
	_Alignas(16) char stack[STACK];
	sigset_t all, before;
	int status, pid, error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = clone(child, stack + STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES, work);
	error = errno;
	if (pid > 0)
		while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, 0);
	if (pid < 0)
		return error == ENOMEM ? -ESRCH : -error; /* ENOMEM: that namespace's init has ended */
	return (int)work->result;
}

int ic_task_do(int pidns, enum ic_task_action action, int number, int value, int priority, void *data)
{
	struct work work = {action, number, value, priority, data, -ESRCH};
	int result, own;

	if (number <= 0) /* would be the child itself, or nobody */
		return -ESRCH;
	own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (own < 0)
		return -errno;
	result = setns(pidns, CLONE_NEWPID) < 0 ? -errno : in_child(&work);
	if (setns(own, CLONE_NEWPID) < 0)
		abort(); /* every later child of this thread would be the container's */
	close(own);
	return result;
}
