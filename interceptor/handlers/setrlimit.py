"""setrlimit(2), prlimit(2): hard limits are raised up to the ceilings of policy (`limits: rlimits:`).

The kernel asks for CAP_SYS_RESOURCE of the host's before it raises a hard limit, so that a container's root hears EPERM: of
`ulimit -Hn`, of LimitNOFILE= in a unit, of an inner engine's `--ulimit`. Within a ceiling it is done for it, also to other
processes of its pid namespace whose ids are the container's.
Left to the kernel: whatever does not raise a hard limit, asks for more than the ceiling, or comes from a nested user namespace.
A call that only asks (NULL in the place of new limits), and every resource without a ceiling, never leaves it.

Source: setrlimit(2), prlimit(2); Linux kernel/sys.c do_prlimit(), check_prlimit_permission(),
COMPAT_SYSCALL_DEFINE2(setrlimit).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from interceptor.args import Int, Pointer, UInt
from interceptor.limits import RLIM_INFINITY
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Continue, Return, Verdict

if TYPE_CHECKING:
    from interceptor.limits import Ceilings

WIDE, NARROW = Struct("=2Q"), Struct("=2I")
"""struct rlimit64, which is also a 64-bit struct rlimit, and struct compat_rlimit: rlim_cur, rlim_max."""
COMPAT_INFINITY = 0xFFFF_FFFF
"""COMPAT_RLIM_INFINITY (asm/compat.h)."""


@dataclass(frozen=True, slots=True)
class SetrlimitArgs:
    """The two registers of setrlimit(2); `rlim` is a struct rlimit."""

    resource: UInt
    rlim: Pointer


@dataclass(frozen=True, slots=True)
class Prlimit64Args:
    """The four registers of prlimit(2); the last two are struct rlimit64, or NULL."""

    pid: Int
    resource: UInt
    new_limit: Pointer
    old_limit: Pointer


def _lent(ceilings: Ceilings) -> tuple[Masked, ...] | None:
    return tuple(Masked("resource", 0xFFFF_FFFF, resource) for resource in sorted(ceilings.rlimits)) or None


NEEDS = Needs(Cap.SYS_RESOURCE, owner_of=Namespace.MOUNT)


@handles("setrlimit", lends=_lent, given="rlim", needs=NEEDS, note="Hard limits are raised up to `limits: rlimits:`.")
def setrlimit(call: Call, args: SetrlimitArgs) -> Verdict:
    if call.tracee.long_bits == 64:  # noqa: PLR2004 - bits
        soft, hard = WIDE.unpack(call.tracee.read(args.rlim, WIDE.size))
    else:
        narrow = NARROW.unpack(call.tracee.read(args.rlim, NARROW.size))
        soft, hard = (RLIM_INFINITY if value == COMPAT_INFINITY else value for value in narrow)
    if not _is_lent(call, 0, args.resource, soft, hard):
        return _kernels()
    call.tracee.set_limit(0, args.resource, soft, hard)
    return Return()


@handles("prlimit64", lends=_lent, given="new_limit", needs=NEEDS, note="As setrlimit, also of other processes.")
def prlimit64(call: Call, args: Prlimit64Args) -> Verdict:
    soft, hard = WIDE.unpack(call.tracee.read(args.new_limit, WIDE.size))
    if not _is_lent(call, args.pid, args.resource, soft, hard):
        return _kernels()
    before = call.tracee.set_limit(args.pid, args.resource, soft, hard)
    if args.old_limit:
        call.tracee.write(args.old_limit, WIDE.pack(*before))
    return Return()


def _is_lent(call: Call, number: int, resource: int, soft: int, hard: int) -> bool:
    """Whether these limits raise the hard one, as they may."""
    ceiling = call.policy.limits.ceilings.rlimits.get(resource)
    if soft > hard or ceiling is None or call.tracee.in_nested_user_namespace:
        return False
    if hard <= call.tracee.limit(number, resource)[1]:
        return False
    if hard > ceiling:
        call.why = f"rlim_max: {hard} is beyond `limits: rlimits:` of the container's policy ({ceiling})"
    return hard <= ceiling


def _kernels() -> Verdict:
    return Continue(because="raises nothing, or more than is lent: the kernel checks by itself")
