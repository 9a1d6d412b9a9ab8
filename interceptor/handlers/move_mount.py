"""move_mount(2): attaches what fsmount(2) of ours made; everything else is the kernel's.

The kernel could do it, too. But the mount's descriptor, which we keep, would then keep the mount busy.

Source: move_mount(2); Linux fs/namespace.c do_move_mount().
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import DirFd, Flags, MaybeStr
from interceptor.ports import AT_FDCWD, Call, Cap, Namespace
from interceptor.registry import Masked, Needs, Redo, handles
from interceptor.verdict import Continue, Return, Verdict


class MoveMountFlag(enum.IntFlag):
    """MOVE_MOUNT_* (linux/mount.h)."""

    MOVE_MOUNT_F_SYMLINKS = 0x01
    MOVE_MOUNT_F_AUTOMOUNTS = 0x02
    MOVE_MOUNT_F_EMPTY_PATH = 0x04
    MOVE_MOUNT_T_SYMLINKS = 0x10
    MOVE_MOUNT_T_AUTOMOUNTS = 0x20
    MOVE_MOUNT_T_EMPTY_PATH = 0x40
    MOVE_MOUNT_SET_GROUP = 0x100
    MOVE_MOUNT_BENEATH = 0x200


_LEFT = ~int(
    MoveMountFlag.MOVE_MOUNT_F_EMPTY_PATH
    | MoveMountFlag.MOVE_MOUNT_F_SYMLINKS
    | MoveMountFlag.MOVE_MOUNT_F_AUTOMOUNTS
    | MoveMountFlag.MOVE_MOUNT_T_SYMLINKS
    | MoveMountFlag.MOVE_MOUNT_T_AUTOMOUNTS
    | MoveMountFlag.MOVE_MOUNT_T_EMPTY_PATH
)


@dataclass(frozen=True, slots=True)
class MoveMountArgs:
    """The five registers of move_mount(2)."""

    from_dfd: DirFd
    from_path: MaybeStr
    to_dfd: DirFd
    to_path: MaybeStr
    flags: Annotated[int, Flags(MoveMountFlag, bits=32)]


@handles(
    "move_mount",
    when=(Masked("flags", MoveMountFlag.MOVE_MOUNT_F_EMPTY_PATH, MoveMountFlag.MOVE_MOUNT_F_EMPTY_PATH),),
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="Of a mount that fsmount(2) emulated; everything else is the kernel's.",
    redo=Redo.DETECTABLE,
)
def move_mount(call: Call, args: MoveMountArgs) -> Verdict:
    if args.from_path != b"" or args.to_path is None or args.flags & _LEFT:
        return Continue(because="it names no mount of ours, or asks for what only the kernel can do")
    context = call.contexts.find_mount(args.from_dfd)
    if context is None:
        return Continue(because="the mount is one of the kernel's")
    if not args.to_path and not args.flags & MoveMountFlag.MOVE_MOUNT_T_EMPTY_PATH:
        return Continue(because="without a target, which the kernel says")
    call.rule = context.choice.rule
    at = call.tracee.anchor(args.to_path or (b"." if args.to_dfd == AT_FDCWD else b""), args.to_dfd)
    call.agent.move_mount(context, at, follow=bool(args.flags & MoveMountFlag.MOVE_MOUNT_T_SYMLINKS))
    return Return()


