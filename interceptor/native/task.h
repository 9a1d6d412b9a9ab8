/* What is done to one task of a pid namespace by its number there: by a child that lives in that namespace, so that the
 * number can name nobody outside of it. The child is root of the host's, shares our memory and ends at once (as vfork(2)).
 *
 * Source: pid_namespaces(7), clone(2); Linux kernel/pid.c find_task_by_vpid(), kernel/sys.c setpriority(),
 * kernel/sched/syscalls.c, block/ioprio.c.
 */
#ifndef INTERCEPTOR_TASK_H
#define INTERCEPTOR_TASK_H

enum ic_task_action { IC_TASK_OPEN, IC_TASK_NICE, IC_TASK_SCHEDULER, IC_TASK_IO };

/* OPEN: pidfd_open(2) of task `number` of pid namespace `pidns`, a descriptor of ours. NICE: its nice value becomes `value`.
 * SCHEDULER: sched_setscheduler(2) to policy `value` with `priority`. IO: ioprio_set(2) to `value`. Or -errno. */
int ic_task_do(int pidns, enum ic_task_action action, int number, int value, int priority);

#endif
