"""umount2(2): mounts that the container was created with, and the leaves of proc and sysfs, stay where programs expect them.

EBUSY and EINVAL for them are guard rails, not a boundary: nothing that isolates the container rests on a mount that it could
unmount. So after the look the kernel does the work itself, with its own check of who may and of what is busy. But to the kernel
a proc with leaves is busy, whoever mounted it: that one is unmounted with its leaves, in one step, if nobody uses it.

A leaf of a proc or sysfs elsewhere, a chroot's say, is the kernel's to unmount: `umount -R` takes a tree apart leaf by leaf.

Source: umount2(2), mount_namespaces(7); Linux fs/namespace.c ksys_umount(), can_umount(), propagate_mount_busy().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from interceptor.args import Flags, Path
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Look, Needs, Redo, Shortcut, handles
from interceptor.verdict import Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from interceptor.ports import Mounted
    from interceptor.wire import Anchor


class UmountFlag(enum.IntFlag):
    """The flags of umount2(2) (linux/fs.h)."""

    MNT_FORCE = 1
    MNT_DETACH = 2
    MNT_EXPIRE = 4
    UMOUNT_NOFOLLOW = 8


@dataclass(frozen=True, slots=True)
class Umount2Args:
    """The two registers of umount2(2)."""

    target: Path
    flags: Annotated[int, Flags(UmountFlag, bits=32, first=True)]


@handles(
    "umount2",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    shortcut=Shortcut(Look.UMOUNT, because="the mount was made inside; the kernel checks the rest"),
    note="EBUSY for mounts that existed when the container was created (in its own mount namespace), EINVAL for a leaf of "
    "/proc or /sys; a proc or sysfs goes with its leaves; all else is the kernel's.",
    redo=Redo.DETECTABLE,
)
def umount2(call: Call, args: Umount2Args) -> Verdict:
    immutable = _immutable(call)
    if not immutable and not call.container.leaves:
        return Continue(because="no immutable mount lives in this mount namespace")
    follow = not args.flags & UmountFlag.UMOUNT_NOFOLLOW
    anchor = call.tracee.anchor(args.target)
    try:
        mount_id = call.agent.mount_id(anchor, follow=follow)
    except OSError:
        return Continue(because="what cannot be found or is no mount is the kernel's to refuse")
    mounts = call.tracee.mounts(mount_id) if call.container.leaves else ()
    if mounts and mounts[0].device in call.container.leaves and mounts[0].point.startswith(WHERE_PROGRAMS_LOOK):
        return call.deny(errno.EINVAL, "target: a file that describes the container (leaves)", allow="leaves: none")
    if mount_id in immutable:
        why = "target: a mount that the container was created with (immutable-mounts)"
        return call.deny(errno.EBUSY, why, allow="immutable-mounts: false")
    if args.flags & ~UmountFlag.UMOUNT_NOFOLLOW or not _has_nothing_but_leaves(call, mounts):
        return Continue(because="the mount was made inside; the kernel checks the rest")
    return _with_leaves(call, anchor, mounts, follow=follow)


def _with_leaves(call: Call, at: Anchor, mounts: Sequence[Mounted], *, follow: bool) -> Verdict:
    if call.tracee.in_use({mounted.mount_id for mounted in mounts}):
        call.why = "target: a process has a file of it open, or is in it"
        return Fail(errno.EBUSY)
    call.agent.detach(at, mounts[0].mount_id, follow=follow)
    return Return()


WHERE_PROGRAMS_LOOK = (b"/proc/", b"/sys/")


def _immutable(call: Call) -> Collection[int]:
    own = call.tracee.namespace_id(Namespace.MOUNT) == call.container.mount_namespace
    return call.container.immutable if own and call.policy.immutable_mounts else ()


def _has_nothing_but_leaves(call: Call, mounts: Sequence[Mounted]) -> bool:
    return (
        len(mounts) > 1
        and mounts[0].fstype in (b"proc", b"sysfs")
        and all(mounted.device in call.container.leaves for mounted in mounts[1:])
    )
