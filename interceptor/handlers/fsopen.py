"""fsopen(2): the door to the new mount API for types that mount(2) emulates.

Until the calls behind it are emulated, ENOSYS for exactly these types sends util-linux, systemd and runc back to
mount(2), which is; every other type, and proc and sysfs where the kernel itself can mount them, stays native. Never EPERM:
programs fall back on ENOSYS only.

Source: fsopen(2); Linux fs/fsopen.c.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import PAGE_SIZE, Flags, String
from interceptor.policy import Mount
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Needs, Support, handles
from interceptor.verdict import Continue, Fail, Verdict


class FsopenFlag(enum.IntFlag):
    """The flags of fsopen(2) (linux/mount.h)."""

    FSOPEN_CLOEXEC = 1


@dataclass(frozen=True, slots=True)
class FsopenArgs:
    """The two registers of fsopen(2)."""

    fsname: Annotated[bytes, String(limit=PAGE_SIZE)]
    flags: Annotated[int, Flags(FsopenFlag, bits=32)]


@handles(
    "fsopen",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    support=Support.PARTIAL,
    note="ENOSYS for types that mount(2) emulates, so that programs fall back on it; native otherwise.",
)
def fsopen(call: Call, args: FsopenArgs) -> Verdict:
    choice = call.policy.filesystem(args.fsname)
    call.rule = choice.rule
    if choice.mount is Mount.NATIVE or (
        args.fsname in _NATIVE_UNLESS_NESTED and not call.tracee.in_nested_user_namespace
    ):
        return Continue(because="the kernel opens it with what the tracee has itself")
    call.why = f"fall back on mount(2) for {args.fsname.decode(errors='replace')}"
    return Fail(errno.ENOSYS)


_NATIVE_UNLESS_NESTED = frozenset({b"proc", b"sysfs"})
