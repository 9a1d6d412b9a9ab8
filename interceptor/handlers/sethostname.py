"""sethostname(2), setdomainname(2): a name of its own also for a container without CAP_SYS_ADMIN.

Performed by us whenever policy says emulate, so that the name that was allowed is the name that is set. Lent to the
container's root only, and only for a UTS namespace that belongs to its user namespace: never the host's.

Source: sethostname(2), uts_namespaces(7); Linux kernel/sys.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Buffer, Int
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Redo, handles
from interceptor.verdict import Fail, Return, Verdict

NAME_MAX = 64
"""__NEW_UTS_LEN (linux/utsname.h)."""


@dataclass(frozen=True, slots=True)
class NameArgs:
    """The two registers: a name that need not end in NUL, and its length."""

    name: Annotated[bytes | None, Buffer("length", NAME_MAX, lenient=True)]
    length: Int


@handles(
    "sethostname",
    note="By policy on the name; works without CAP_SYS_ADMIN for the container's root.",
    redo=Redo.HARMLESS,
)
def sethostname(call: Call, args: NameArgs) -> Verdict:
    if not _may(call):
        return Fail(errno.EPERM)
    call.agent.set_hostname(_name(args))
    return Return()


@handles("setdomainname", note="As sethostname.", redo=Redo.HARMLESS)
def setdomainname(call: Call, args: NameArgs) -> Verdict:
    if not _may(call):
        return Fail(errno.EPERM)
    call.agent.set_domainname(_name(args))
    return Return()


def _name(args: NameArgs) -> bytes:
    """Mistakes are told to who may set a name."""
    if not 0 <= args.length <= NAME_MAX:
        raise OSError(errno.EINVAL, f"length is {args.length}; at most {NAME_MAX} are taken")
    if args.name is None:
        raise OSError(errno.EFAULT, "unreadable")
    return args.name


def _may(call: Call) -> bool:
    """With CAP_SYS_ADMIN as the kernel says; without it the container's root, in a UTS namespace of the container's."""
    if call.tracee.capable(Cap.SYS_ADMIN, Namespace.UTS):
        return True
    allowed = call.tracee.uid_inside == 0 and call.tracee.owns(Namespace.UTS)
    if not allowed:
        call.why = "only the container's root may set the name, and only of a UTS namespace of the container's own"
    return allowed
