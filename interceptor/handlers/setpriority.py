"""setpriority(2), sched_setscheduler(2) and its like, ioprio_set(2): up to the ceilings of policy (`limits: nice:` …).

What raises a task's share of the machine asks for CAP_SYS_NICE of the host's, so that a container's root hears EPERM or
EACCES. Within a ceiling it is done for it, also to other tasks of its pid namespace whose ids are the container's.
Left to the kernel: all that asks for more than the ceiling, process groups and users, callers in nested user namespaces,
policies that are no privilege, SCHED_DEADLINE, which no ceiling bounds.

Source: setpriority(2), sched(7), sched_setattr(2), sched_setparam(2), ioprio_set(2); Linux kernel/sys.c setpriority(),
kernel/sched/syscalls.c do_sched_setscheduler(), sched_copy_attr(), user_check_sched_setscheduler(), block/ioprio.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from interceptor.args import Int, Pointer, UInt
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from interceptor.limits import Ceilings

PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
NICE_MIN, NICE_MAX = -20, 19
SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_RESET_ON_FORK = 0, 1, 2, 3, 0x4000_0000
SCHED_FLAG_RESET_ON_FORK = 1
PRIORITY_MAX = 99
ATTRIBUTES = Struct("=2IQiI3Q")
"""struct sched_attr as far as SCHED_ATTR_SIZE_VER0 (linux/sched/types.h): size, sched_policy, sched_flags, sched_nice,
sched_priority, sched_runtime, sched_deadline, sched_period.
"""
ATTRIBUTES_MAX, UTILISATION_END = 4096, 56
"""A page, beyond which the kernel says E2BIG; where the sched_util_* end, which only count under a flag of theirs."""
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
class SchedSetparamArgs:
    """The two registers of sched_setparam(2); `param` is one int."""

    pid: Int
    param: Pointer


@dataclass(frozen=True, slots=True)
class SchedSetattrArgs:
    """The three registers of sched_setattr(2); `attr` is a struct sched_attr."""

    pid: Int
    attr: Pointer
    flags: UInt


@dataclass(frozen=True, slots=True)
class IoprioSetArgs:
    """The three registers of ioprio_set(2)."""

    which: Int
    who: Int
    ioprio: Int


NEEDS = Needs(Cap.SYS_NICE, owner_of=Namespace.MOUNT)


def _of_processes(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    return None if ceilings.nice is None else (Masked("which", WHOLE, PRIO_PROCESS),)


def _to_realtime(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    found = (Masked("policy", WHOLE & ~SCHED_RESET_ON_FORK, policy) for policy in (SCHED_FIFO, SCHED_RR))
    return tuple(found) if ceilings.realtime_priority else None


def _all_with_realtime(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    return () if ceilings.realtime_priority else None


def _attributes(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    lends = ceilings.nice is not None or ceilings.realtime_priority
    return (Masked("flags", WHOLE, 0),) if lends else None


def _to_io_realtime(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    return None if ceilings.io_realtime is None else (Masked("ioprio", IO_CLASS_MASK, IO_CLASS_REALTIME),)


@handles("setpriority", lends=_of_processes, needs=NEEDS, note="Of one process or thread, down to `limits: nice:`.")
def setpriority(call: Call, args: SetpriorityArgs) -> Verdict:
    if not _is_lent_nice(call, args.prio):
        return _beyond()
    call.tracee.set_nice(args.who, max(NICE_MIN, min(args.prio, NICE_MAX)))
    return Return()


@handles(
    "sched_setscheduler",
    lends=_to_realtime,
    needs=NEEDS,
    note="SCHED_FIFO and SCHED_RR up to `limits: realtime-priority:`.",
)
def sched_setscheduler(call: Call, args: SchedSetschedulerArgs) -> Verdict:
    if args.pid < 0 or not args.param:
        return Fail(errno.EINVAL)
    priority = _priority(call, args.param)
    if not _is_lent_realtime(call, priority):
        return _beyond()
    call.tracee.set_scheduler(args.pid, args.policy, priority)
    return Return()


@handles("sched_setparam", lends=_all_with_realtime, given="param", needs=NEEDS, note="As sched_setscheduler.")
def sched_setparam(call: Call, args: SchedSetparamArgs) -> Verdict:
    if args.pid < 0:
        return Fail(errno.EINVAL)
    priority = _priority(call, args.param)
    if not priority or not _is_lent_realtime(call, priority):
        return _beyond()
    call.tracee.set_priority(args.pid, priority)
    return Return()


@handles(
    "sched_setattr",
    lends=_attributes,
    given="attr",
    needs=NEEDS,
    note="SCHED_FIFO and SCHED_RR as sched_setscheduler, nice values of SCHED_OTHER and SCHED_BATCH as setpriority.",
)
def sched_setattr(call: Call, args: SchedSetattrArgs) -> Verdict:
    if args.pid < 0:
        return Fail(errno.EINVAL)
    attributes = _plain(call, args.attr)
    if attributes is None:
        return Continue(because="of another form or policy than any ceiling is for: the kernel checks by itself")
    _, policy, _, nice, priority, *_ = ATTRIBUTES.unpack(attributes)
    if not (_is_lent_realtime(call, priority) if policy in (SCHED_FIFO, SCHED_RR) else _is_lent_nice(call, nice)):
        return _beyond()
    call.tracee.set_attributes(args.pid, attributes)
    return Return()


@handles(
    "ioprio_set",
    lends=_to_io_realtime,
    needs=NEEDS,
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


def _plain(call: Call, address: int) -> bytes | None:
    """The struct sched_attr at `address`, in its first form; None where it asks for what only a later one can say, or for
    another policy than those that ceilings are for, or where the kernel refuses it for its form.
    """
    size = int.from_bytes(call.tracee.read(address, 4), "little") or ATTRIBUTES.size
    if not ATTRIBUTES.size <= size <= ATTRIBUTES_MAX:
        return None
    given = call.tracee.read(address, size)
    _, policy, flags, *rest = ATTRIBUTES.unpack_from(given)
    known = policy in (SCHED_NORMAL, SCHED_BATCH, SCHED_FIFO, SCHED_RR) and not flags & ~SCHED_FLAG_RESET_ON_FORK
    if not known or any(given[UTILISATION_END:]):
        return None
    return ATTRIBUTES.pack(ATTRIBUTES.size, policy, flags, *rest)


def _priority(call: Call, address: int) -> int:
    """The one int of a struct sched_param."""
    return int.from_bytes(call.tracee.read(address, 4), "little", signed=True)


def _is_lent_nice(call: Call, nice: int) -> bool:
    lowest, nice = call.policy.limits.ceilings.nice, max(NICE_MIN, min(nice, NICE_MAX))
    if lowest is None or nice < lowest or call.tracee.in_nested_user_namespace:
        call.why = f"nice: {nice} is beyond `limits: nice:` of the container's policy ({lowest})"
        return False
    return True


def _is_lent_realtime(call: Call, priority: int) -> bool:
    highest = call.policy.limits.ceilings.realtime_priority
    if not 1 <= priority <= min(highest, PRIORITY_MAX) or call.tracee.in_nested_user_namespace:
        call.why = f"sched_priority: {priority} is beyond `limits: realtime-priority:` of the container's policy ({highest})"
        return False
    return True


def _beyond() -> Verdict:
    return Continue(because="nothing is lent beyond the ceiling, nor to nested user namespaces: the kernel checks by itself")
