"""chown(2), lchown(2), fchown(2), fchownat(2): success for files that the container cannot own.

Package managers and service scripts set owners of what is there, also where it is the host's: files below /sys and /proc,
sockets and files that were bound into the container. The kernel refuses (the ids are not the container's), and the
installation stops. Where policy has a rule for these calls, such a file keeps its owner and the caller hears of success; a
file of the container's own, and a path that leads nowhere, get the kernel's own answer.

Off unless a policy has a rule for a call: see policies/chown.yaml.

Source: chown(2), user_namespaces(7); Linux fs/open.c chown_common(), fs/attr.c setattr_prepare().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import DirFd, Fd, Flags, Path, String, UInt
from interceptor.ports import AT_FDCWD, Call, Cap, Namespace, Way
from interceptor.registry import Needs, Redo, handles
from interceptor.verdict import Continue, Return, Verdict
from interceptor.wire import Anchor


class AtFlag(enum.IntFlag):
    """AT_* (linux/fcntl.h) that fchownat(2) takes."""

    AT_SYMLINK_NOFOLLOW = 0x100
    AT_EMPTY_PATH = 0x1000


FLAGS = int(AtFlag.AT_SYMLINK_NOFOLLOW | AtFlag.AT_EMPTY_PATH)


@dataclass(frozen=True, slots=True)
class ChownArgs:
    """The three registers of chown(2) and lchown(2). An owner or group of -1 stays what it is."""

    pathname: Path
    owner: UInt
    group: UInt


@dataclass(frozen=True, slots=True)
class FchownArgs:
    """The three registers of fchown(2)."""

    fd: Fd
    owner: UInt
    group: UInt


@dataclass(frozen=True, slots=True)
class FchownatArgs:
    """The five registers of fchownat(2)."""

    dirfd: DirFd
    pathname: Annotated[bytes, String(too_long=errno.ENAMETOOLONG)]
    owner: UInt
    group: UInt
    flags: Annotated[int, Flags(AtFlag, bits=32, first=True)]


NEEDS = Needs(Cap.CHOWN, owner_of=Namespace.MOUNT)
NOTE = "Success without an effect for files of ids that the container has not; everything else is the kernel's."
ALSO = "As chown."


@handles("chown", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=NOTE)
def chown(call: Call, args: ChownArgs) -> Verdict:
    return _change(call, call.tracee.anchor(args.pathname), Way.FOLLOW)


@handles("lchown", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def lchown(call: Call, args: ChownArgs) -> Verdict:
    return _change(call, call.tracee.anchor(args.pathname), Way.NOFOLLOW)


@handles("fchown", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def fchown(call: Call, args: FchownArgs) -> Verdict:
    if args.fd < 0:
        return Continue(because="it is no descriptor, which the kernel says")
    return _change(call, call.tracee.anchor(b"", args.fd), Way.DESCRIPTOR)


@handles("chown32", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note="As chown: its 32-bit form on i386, as the next.")
def chown32(call: Call, args: ChownArgs) -> Verdict:
    return chown(call, args)


@handles("lchown32", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def lchown32(call: Call, args: ChownArgs) -> Verdict:
    return lchown(call, args)


@handles("fchown32", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def fchown32(call: Call, args: FchownArgs) -> Verdict:
    return fchown(call, args)


@handles("fchownat", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def fchownat(call: Call, args: FchownatArgs) -> Verdict:
    if args.flags & ~FLAGS:
        return Continue(because="flags that the kernel does not know, it refuses")
    if not args.pathname and (args.dirfd == AT_FDCWD or not args.flags & AtFlag.AT_EMPTY_PATH):
        return Continue(because="without a path it is the working directory, or nothing: the kernel's")
    how = Way.NOFOLLOW if args.flags & AtFlag.AT_SYMLINK_NOFOLLOW else Way.FOLLOW
    return _change(call, call.tracee.anchor(args.pathname, args.dirfd), how if args.pathname else Way.DESCRIPTOR)


def _change(call: Call, at: Anchor, how: Way) -> Verdict:
    if call.tracee.in_nested_user_namespace or call.agent.may_chown(at, how=how):
        return Continue(because="the file is of ids that the kernel decides about")
    call.why = "the file is the host's and keeps its owner"
    return Return()
