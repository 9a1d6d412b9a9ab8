/* What is done to one task of a pid namespace by its number there: by a child that lives in that namespace, so that the
 * number can name nobody outside of it. The child is root of the host's, shares our memory and ends at once (as vfork(2)).
 *
 * Source: pid_namespaces(7), clone(2); Linux kernel/pid.c find_task_by_vpid(), kernel/sys.c setpriority() and prlimit64(),
 * kernel/sched/syscalls.c, block/ioprio.c.
 */
#ifndef INTERCEPTOR_TASK_H
#define INTERCEPTOR_TASK_H

#include <stdint.h>

enum ic_task_action {
	IC_TASK_OPEN,
	IC_TASK_NICE,
	IC_TASK_SCHEDULER,
	IC_TASK_PRIORITY,
	IC_TASK_ATTRIBUTES,
	IC_TASK_IO,
	IC_TASK_LIMIT,
	IC_TASK_LIMIT_SET
};

struct ic_limits {
	uint64_t set[2], was[2]; /* struct rlimit64: rlim_cur, rlim_max */
};

/* OPEN: pidfd_open(2) of task `number` of pid namespace `pidns`, a descriptor of ours. NICE: its nice value becomes `value`.
 * SCHEDULER: sched_setscheduler(2) to policy `value` with `priority`. PRIORITY: sched_setparam(2) with `priority`.
 * ATTRIBUTES: sched_setattr(2) with `data`, a struct sched_attr. IO: ioprio_set(2) to `value`. LIMIT: prlimit(2) of resource
 * `value`, `data` a struct ic_limits whose `was` is filled in; LIMIT_SET: and `set` set. Or -errno. */
int ic_task_do(int pidns, enum ic_task_action action, int number, int value, int priority, void *data);

#endif
