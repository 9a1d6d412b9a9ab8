"""setpriority(2), sched_setscheduler(2), ioprio_set(2): up to the ceilings of policy (`limits: nice:` and its like).

What raises a task's share of the machine asks for CAP_SYS_NICE of the host's, so that a container's root hears EPERM or
EACCES. Within a ceiling it is done for it, also to other tasks of its pid namespace whose ids are the container's.
Left to the kernel: all that asks for more than the ceiling, process groups and users, callers in nested user namespaces,
policies that are no privilege.

Source: setpriority(2), sched(7), ioprio_set(2); Linux kernel/sys.c setpriority(), kernel/sched/syscalls.c
do_sched_setscheduler(), block/ioprio.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from interceptor.args import Int, Pointer
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Continue, Fail, Return, Verdict

PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
NICE_MIN, NICE_MAX = -20, 19
SCHED_FIFO, SCHED_RR, SCHED_RESET_ON_FORK = 1, 2, 0x4000_0000
PRIORITY_MAX = 99
IO_CLASS_MASK, IO_CLASS_REALTIME, IO_LEVEL_MASK = 0xE000, 0x2000, 0x7
"""linux/sched.h, linux/ioprio.h."""
WHOLE = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class SetpriorityArgs:
    """The three registers of setpriority(2)."""

    which: Int
    who: Int
    prio: Int


@dataclass(frozen=True, slots=True)
class SchedSetschedulerArgs:
    """The three registers of sched_setscheduler(2); `param` is one int."""

    pid: Int
    policy: Int
    param: Pointer


@dataclass(frozen=True, slots=True)
class IoprioSetArgs:
    """The three registers of ioprio_set(2)."""

    which: Int
    who: Int
    ioprio: Int


NEEDS = Needs(Cap.SYS_NICE, owner_of=Namespace.MOUNT)


@handles(
    "setpriority",
    when=(Masked("which", WHOLE, PRIO_PROCESS),),
    needs=NEEDS,
    optional=True,
    note="Of one process or thread, down to `limits: nice:`.",
)
def setpriority(call: Call, args: SetpriorityArgs) -> Verdict:
    lowest, nice = call.policy.limits.ceilings.nice, max(NICE_MIN, min(args.prio, NICE_MAX))
    if lowest is None or nice < lowest or call.tracee.in_nested_user_namespace:
        call.why = f"prio: {nice} is beyond `limits: nice:` of the container's policy ({lowest})"
        return _beyond()
    call.tracee.set_nice(args.who, nice)
    return Return()


@handles(
    "sched_setscheduler",
    when=tuple(Masked("policy", WHOLE & ~SCHED_RESET_ON_FORK, policy) for policy in (SCHED_FIFO, SCHED_RR)),
    needs=NEEDS,
    optional=True,
    note="SCHED_FIFO and SCHED_RR up to `limits: realtime-priority:`.",
)
def sched_setscheduler(call: Call, args: SchedSetschedulerArgs) -> Verdict:
    if args.pid < 0 or not args.param:
        return Fail(errno.EINVAL)
    priority = int.from_bytes(call.tracee.read(args.param, 4), "little", signed=True)
    highest = call.policy.limits.ceilings.realtime_priority
    if not 1 <= priority <= min(highest, PRIORITY_MAX) or call.tracee.in_nested_user_namespace:
        call.why = f"sched_priority: {priority} is beyond `limits: realtime-priority:` of the container's policy ({highest})"
        return _beyond()
    call.tracee.set_scheduler(args.pid, args.policy, priority)
    return Return()


@handles(
    "ioprio_set",
    when=(Masked("ioprio", IO_CLASS_MASK, IO_CLASS_REALTIME),),
    needs=NEEDS,
    optional=True,
    note="IOPRIO_CLASS_RT of one process or thread, up to `limits: io-realtime:`.",
)
def ioprio_set(call: Call, args: IoprioSetArgs) -> Verdict:
    strongest, level = call.policy.limits.ceilings.io_realtime, args.ioprio & IO_LEVEL_MASK
    if args.which != IOPRIO_WHO_PROCESS or args.ioprio != IO_CLASS_REALTIME | level:
        return Continue(because="process groups, users and hints are the kernel's, which asks for its own capability")
    if strongest is None or level < strongest or call.tracee.in_nested_user_namespace:
        call.why = f"ioprio: level {level} is beyond `limits: io-realtime:` of the container's policy ({strongest})"
        return _beyond()
    call.tracee.set_io_priority(args.who, args.ioprio)
    return Return()


def _beyond() -> Verdict:
    return Continue(because="nothing is lent beyond the ceiling, nor to nested user namespaces: the kernel checks by itself")
