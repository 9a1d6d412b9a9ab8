"""fsmount(2): a detached mount of a context.

Proc and sysfs are too revealing for a nested user namespace, and for any that sees none (mount_too_revealing()): that check
asks for the caller's mount namespace, so the agent makes the mount of the tracee's own context in the host's, and covers it as
mount(2) does. What the tracee gets is a descriptor of the mount's root directory, because a mount's own cannot be injected;
move_mount(2), open_tree(2) and mount_setattr(2) take the one for the other.

Source: fsmount(2); Linux fs/namespace.c fsmount(), mount_too_revealing().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Fd, Flags
from interceptor.policy import Mount
from interceptor.ports import Call, Cap, Context, Namespace
from interceptor.registry import Needs, Redo, handles
from interceptor.verdict import AddFd, Continue, Fail, Verdict


class FsmountFlag(enum.IntFlag):
    """The flags of fsmount(2) (linux/mount.h)."""

    FSMOUNT_CLOEXEC = 1


class MountAttr(enum.IntFlag):
    """MOUNT_ATTR_* (linux/mount.h)."""

    MOUNT_ATTR_RDONLY = 1
    MOUNT_ATTR_NOSUID = 2
    MOUNT_ATTR_NODEV = 4
    MOUNT_ATTR_NOEXEC = 8
    MOUNT_ATTR_NOATIME = 0x10
    MOUNT_ATTR_STRICTATIME = 0x20
    MOUNT_ATTR_NODIRATIME = 0x80
    MOUNT_ATTR_NOSYMFOLLOW = 0x200000


ATIME = 0x70
"""MOUNT_ATTR__ATIME: a number, of which three values exist."""
VALID = ATIME | sum(MountAttr)


@dataclass(frozen=True, slots=True)
class FsmountArgs:
    """The three registers of fsmount(2)."""

    fd: Fd
    flags: Annotated[int, Flags(FsmountFlag, bits=32)]
    attr_flags: Annotated[int, Flags(MountAttr, bits=32)]


@handles(
    "fsmount",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="Of an emulated context: made by us, and injected as a descriptor of its root directory.",
    redo=Redo.RESUMED,
)
def fsmount(call: Call, args: FsmountArgs) -> Verdict:
    context = call.contexts.find(args.fd)
    if context is None:
        return Continue(because="the context is one of the kernel's")
    call.rule = context.choice.rule
    if args.flags & ~int(FsmountFlag.FSMOUNT_CLOEXEC) or args.attr_flags & ~VALID or args.attr_flags & ATIME not in (0, 16, 32):
        return Continue(because="flags that do not exist are the kernel's to refuse")
    if not _is_ready(call, context):
        return Continue(because="nothing was made that could be lent, or not to a nested user namespace")
    if context.choice.mount is Mount.DENY or context.given:
        return _refused(call, context)
    # A signal may have come before the descriptor could be injected: then the mount is there.
    if not context.mounted and not _mount(call, args, context):
        return Continue(because="without a visible one nobody knows what it may reveal; the kernel checks that itself")
    cloexec = bool(args.flags & FsmountFlag.FSMOUNT_CLOEXEC)
    contexts = call.contexts

    def delivered() -> None:
        context.given = True
        contexts.note(context)

    return AddFd(call.agent.open_mount(context), cloexec=cloexec, delivered=delivered)


def _refused(call: Call, context: Context) -> Verdict:
    if context.given:
        return Fail(errno.EBUSY)
    return call.deny(context.choice.errno, f"filesystem type {context.fstype.decode(errors='replace')!r}")


def _is_ready(call: Call, context: Context) -> bool:
    """Trusted attributes of an overlay are the container's own user namespace's, whoever opened the context."""
    if _is_overlay(context) and call.tracee.in_nested_user_namespace:
        return False
    return context.created or (context.choice.mount is Mount.EMULATE and not _is_overlay(context))


def _mount(call: Call, args: FsmountArgs, context: Context) -> bool:
    """Whether there is a mount now; errors are the kernel's."""
    like: tuple[bytes, ...] = ()
    fresh = context.choice.mount is Mount.EMULATE and not _is_overlay(context)
    if fresh and call.tracee.in_nested_user_namespace:
        like = tuple(call.tracee.covered(context.fstype.decode()))
        if not like:
            return False
    leaves = call.leaves(context.fstype.decode()) if fresh else None
    call.agent.mount_context(context, args.attr_flags, like=like, leaves=leaves)
    context.mounted = True
    return True


def _is_overlay(context: Context) -> bool:
    return context.fstype == b"overlay"
