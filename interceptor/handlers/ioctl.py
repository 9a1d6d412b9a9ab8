"""ioctl(2): loop devices, of which a container has none of the kernel's.

A loop device of the kernel's belongs to the host: whoever has its node reads what the host attaches to it next. So a policy may
give a container devices that are none (`limits: loop-devices:`): a node of the null device each, and attaching a file is to
mount that very file over /dev/loopN. That is what `mount --bind` does, and the container's root may do it anyway: nothing is
lent. What reads the device reads the file, a FUSE program that mounts it does (mount(2)), and blkid(8) finds out what it is.

Not the same: it is no block device (stat(2)), has no partitions, and begins where the file begins (no offset, no size limit).
Left to the kernel: every other command, and real loop devices that an engine has given to a container.

Source: ioctl(2), loop(4), losetup(8); Linux drivers/block/loop.c.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from interceptor import loops
from interceptor.args import Fd, Integer, Pointer
from interceptor.loops import LoopConfig, LoopFlag, LoopInfo
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, Redo, Support, handles
from interceptor.verdict import Continue, Fail, Return, Verdict


class Command(enum.IntEnum):
    """LOOP_* (linux/loop.h)."""

    SET_FD = 0x4C00
    CLR_FD = 0x4C01
    SET_STATUS64 = 0x4C04
    GET_STATUS64 = 0x4C05
    SET_CAPACITY = 0x4C07
    CONFIGURE = 0x4C0A
    CTL_GET_FREE = 0x4C82


@dataclass(frozen=True, slots=True)
class IoctlArgs:
    """The three registers of ioctl(2); what `arg` is depends on `op`."""

    fd: Fd
    op: Annotated[int, Integer(32, hexadecimal=True)]
    arg: Pointer


@handles(
    "ioctl",
    when=(Masked("op", 0xFFFFFFF0, 0x4C00), Masked("op", 0xFFFFFFFC, 0x4C80)),
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    support=Support.PARTIAL,
    optional=True,
    note="LOOP_* of the devices that `limits: loop-devices:` gives: a file is attached by a bind mount over /dev/loopN; "
    "no offsets, no partitions.",
    redo=Redo.DETECTABLE,
)
def ioctl(call: Call, args: IoctlArgs) -> Verdict:
    device = loops.number(call.tracee.name_of(args.fd)) if call.policy.limits.loop_devices else None
    if device is None:
        return Continue(because="the kernel knows what that is")
    try:
        attached = call.agent.loop_status(device)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return Continue(because="it is a real device, which the kernel lets the tracee have or not")
        raise
    if device == loops.CONTROL:
        return _get_free(call) if args.op == Command.CTL_GET_FREE else Fail(errno.ENOSYS)
    return _of_device(call, args, device, attached)


def _get_free(call: Call) -> Verdict:
    many = call.policy.limits.loop_devices
    for device in range(many):
        if call.agent.loop_status(device) is None:
            return Return(device)
    return call.deny(errno.ENOSPC, f"all {many} loop devices are attached", allow=f"limits: {{loop-devices: {2 * many}}}")


def _of_device(call: Call, args: IoctlArgs, device: int, attached: LoopFlag | None) -> Verdict:
    if args.op in _SETTING_UP:
        return _SETTING_UP[args.op](call, args.arg, device)
    if attached is None:
        return Fail(errno.ENXIO)
    if args.op == Command.GET_STATUS64:
        call.tracee.write(args.arg, LoopInfo(attached, number=device).pack())
    elif args.op == Command.CLR_FD:
        call.agent.detach_loop(device, only=LoopFlag(0))
    elif args.op != Command.SET_CAPACITY:  # the file's size is the device's anyway
        return _no(call, "a command that means nothing for a file")
    return Return()


def _set_fd(call: Call, arg: int, device: int) -> Verdict:
    return _attach(call, device, arg & 0xFFFFFFFF, LoopInfo(LoopFlag(0)))


def _configure(call: Call, arg: int, device: int) -> Verdict:
    wanted = LoopConfig.unpack(call.tracee.read(arg, loops.CONFIG_SIZE))
    return _attach(call, device, wanted.fd, wanted.info)


def _set_status(call: Call, arg: int, device: int) -> Verdict:
    info = LoopInfo.unpack(call.tracee.read(arg, loops.INFO_SIZE))
    if refused := _refused(info):
        return _no(call, refused)
    call.agent.change_loop(device, info.flags & LoopFlag.AUTOCLEAR)
    return Return()


_SETTING_UP: Mapping[int, Callable[[Call, int, int], Verdict]] = {
    Command.SET_FD: _set_fd,
    Command.CONFIGURE: _configure,
    Command.SET_STATUS64: _set_status,
}


def _attach(call: Call, device: int, fd: int, info: LoopInfo) -> Verdict:
    if refused := _refused(info):
        return _no(call, refused)
    flags = info.flags
    if not call.tracee.may_write(fd):
        flags |= LoopFlag.READ_ONLY
    call.agent.attach_loop(device, call.tracee.take(fd), flags)
    return Return()


def _refused(info: LoopInfo) -> str:
    if not info.whole:
        return "a part of a file (offset, size limit), or an encrypted one: the whole file is mounted over the device"
    return "partitions of a file, which only the kernel's devices have" if info.flags & LoopFlag.PARTSCAN else ""


def _no(call: Call, why: str) -> Verdict:
    call.why = why
    return Fail(errno.EINVAL)
