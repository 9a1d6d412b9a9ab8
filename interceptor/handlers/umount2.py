"""umount2(2): mounts that the container was created with stay where programs expect them.

EBUSY for them is a guard rail, not a boundary: nothing that isolates the container rests on a mount that it could
unmount. So after the look the kernel does the work itself, with its own check of who may and of what is busy.

Source: umount2(2), mount_namespaces(7); Linux fs/namespace.c ksys_umount(), can_umount().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Flags, Path
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Look, Needs, Redo, Shortcut, handles
from interceptor.verdict import Continue, Verdict


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
    flags: Annotated[int, Flags(UmountFlag, bits=32)]


@handles(
    "umount2",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    shortcut=Shortcut(Look.UMOUNT, because="the mount was made inside; the kernel checks the rest"),
    note="EBUSY for mounts that existed when the container was created (in its own mount namespace); "
    "all else is the kernel's.",
    redo=Redo.HARMLESS,
)
def umount2(call: Call, args: Umount2Args) -> Verdict:
    immutable = call.container.immutable if call.policy.immutable_mounts else frozenset()
    if not immutable or call.tracee.namespace_id(Namespace.MOUNT) != call.container.mount_namespace:
        return Continue(because="no immutable mount lives in this mount namespace")
    follow = not args.flags & UmountFlag.UMOUNT_NOFOLLOW
    try:
        mount_id = call.agent.mount_id(call.tracee.anchor(args.target), follow=follow)
    except OSError:
        return Continue(because="what cannot be found or is no mount is the kernel's to refuse")
    if mount_id in immutable:
        why = "target: a mount that the container was created with (immutable-mounts)"
        return call.deny(errno.EBUSY, why, allow="immutable-mounts: false")
    return Continue(because="the mount was made inside; the kernel checks the rest")
