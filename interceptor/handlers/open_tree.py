"""open_tree(2), open_tree_attr(2), fspick(2), mount_setattr(2): the kernel's; here for policies that switch the API off.

What these do with a mount the kernel allows whoever has CAP_SYS_ADMIN over the mount namespace; locked flags and mounts stay
locked, and id maps need the filesystem's own user namespace. Nothing is lent here.

Source: open_tree(2), fspick(2), mount_setattr(2); Linux fs/namespace.c, fs/fsopen.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from interceptor.args import DirFd, MaybeStr, Pointer, UInt, ULong
from interceptor.ports import Call
from interceptor.registry import handles
from interceptor.verdict import Continue, Verdict

_NATIVE = Continue(because="the kernel does it with what the tracee has itself")


@dataclass(frozen=True, slots=True)
class OpenTreeArgs:
    """The three registers of open_tree(2)."""

    dfd: DirFd
    filename: MaybeStr
    flags: UInt


@dataclass(frozen=True, slots=True)
class OpenTreeAttrArgs:
    """The five registers of open_tree_attr(2)."""

    dfd: DirFd
    filename: MaybeStr
    flags: UInt
    uattr: Pointer
    usize: ULong


@dataclass(frozen=True, slots=True)
class FspickArgs:
    """The three registers of fspick(2)."""

    dfd: DirFd
    path: MaybeStr
    flags: UInt


@dataclass(frozen=True, slots=True)
class MountSetattrArgs:
    """The five registers of mount_setattr(2)."""

    dfd: DirFd
    path: MaybeStr
    flags: UInt
    uattr: Pointer
    usize: ULong


@handles("open_tree", optional=True, note="The kernel's, unless a rule says otherwise.")
def open_tree(_call: Call, _args: OpenTreeArgs) -> Verdict:
    return _NATIVE


@handles("open_tree_attr", optional=True, young=True, note="As open_tree; ENOSYS where a rule needs a newer libseccomp.")
def open_tree_attr(_call: Call, _args: OpenTreeAttrArgs) -> Verdict:
    return _NATIVE


@handles("fspick", optional=True, note="As open_tree.")
def fspick(_call: Call, _args: FspickArgs) -> Verdict:
    return _NATIVE


@handles("mount_setattr", optional=True, note="As open_tree.")
def mount_setattr(_call: Call, _args: MountSetattrArgs) -> Verdict:
    return _NATIVE
