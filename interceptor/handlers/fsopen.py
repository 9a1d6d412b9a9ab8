"""fsopen(2): the door to the new mount API.

What mount(2) would do for a type decides: types that are the kernel's stay there. For the others the agent opens the context,
in the tracee's namespaces and with its rights, so that later calls recognise it (fsconfig(2), fsmount(2)); what is denied is
denied by fsmount(2). An overlay gets a second context with our rights, which the tracee never has. Kernels on which that
cannot be done (before 6.5) answer ENOSYS, and programs go back to mount(2).

Source: fsopen(2); Linux fs/fsopen.c.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import PAGE_SIZE, Flags, String
from interceptor.limits import NETWORK_FILESYSTEMS
from interceptor.policy import Mount
from interceptor.ports import Call, Cap, Context, Namespace
from interceptor.registry import Needs, handles
from interceptor.verdict import AddFd, Continue, Fail, Verdict


class FsopenFlag(enum.IntFlag):
    """The flags of fsopen(2) (linux/mount.h)."""

    FSOPEN_CLOEXEC = 1


@dataclass(frozen=True, slots=True)
class FsopenArgs:
    """The two registers of fsopen(2)."""

    fsname: Annotated[bytes, String(limit=PAGE_SIZE)]
    flags: Annotated[int, Flags(FsopenFlag, bits=32, first=True)]


@handles(
    "fsopen",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="As mount(2) of that type: contexts that are to be emulated are opened by us, with the tracee's rights.",
)
def fsopen(call: Call, args: FsopenArgs) -> Verdict:
    choice = call.policy.filesystem(args.fsname)
    call.rule = choice.rule
    if args.flags & ~int(FsopenFlag.FSOPEN_CLOEXEC):
        return Continue(because="flags that do not exist are the kernel's to refuse")
    if _takes_mount(call, args.fsname, choice.mount):
        call.why = "what it is mounted of decides, which only mount(2) says at once: fall back on that"
        return Fail(errno.ENOSYS)
    if choice.mount is Mount.NATIVE or (choice.mount is Mount.EMULATE and args.fsname not in _EMULATED):
        return Continue(because="the kernel opens it with what the tracee has itself")
    twin = choice.mount is Mount.EMULATE and args.fsname == b"overlay"
    if twin and call.tracee.in_nested_user_namespace:
        return Continue(because="trusted attributes are lent to the container's own user namespace only")
    context = call.agent.open_context(Context(args.fsname, choice), twin=twin)
    return AddFd(context, cloexec=bool(args.flags & FsopenFlag.FSOPEN_CLOEXEC))


def _takes_mount(call: Call, fsname: bytes, choice: Mount) -> bool:
    """A FUSE program wants source and target, a device or a server that is lent is known by its name."""
    name = fsname.decode(errors="surrogateescape")
    if name in call.policy.device_types or choice is Mount.FUSE:
        return True
    return choice is Mount.EMULATE and name in NETWORK_FILESYSTEMS


_EMULATED = frozenset({b"proc", b"sysfs", b"overlay"})
