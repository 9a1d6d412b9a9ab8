"""ioctl(2) of loop devices: which command does what, and what is refused."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from support.fakes import Asked, FakeAgent, FakePrograms, FakeTracee, ask, policy

from interceptor import loops
from interceptor.handlers.ioctl import Command, IoctlArgs
from interceptor.handlers.mount import MountArgs
from interceptor.limits import Limits
from interceptor.loops import LoopFlag, LoopInfo
from interceptor.policy import FilesystemDecision, Mount
from interceptor.verdict import Continue, Fail, Return

CONTROL, DEVICE, FILE, ELSE = 3, 4, 5, 6
BY = policy(limits=Limits(loop_devices=2))
ADDRESS = 0x1000


def asked(
    fd: int, op: int, arg: int = 0, *, memory: bytes = b"", attached: dict[int, LoopFlag] | None = None, **agent: Any
) -> Asked:
    tracee = FakeTracee(
        names={CONTROL: b"/dev/loop-control", DEVICE: b"/dev/loop1", FILE: b"/image", ELSE: b"/dev/pts/0"},
        taken={FILE: 50}, writable=frozenset({FILE}), memory={ADDRESS: memory},
    )  # fmt: skip
    return ask("ioctl", IoctlArgs(fd, op, arg), tracee=tracee, agent=FakeAgent(loops=attached or {}, **agent), by=BY)


def config(flags: LoopFlag, fd: int = FILE, offset: int = 0) -> bytes:
    return struct.pack("=iI", fd, 0) + LoopInfo(flags, offset=offset).pack() + bytes(64)


@pytest.mark.parametrize(("attached", "free"), [({}, 0), ({0: LoopFlag(0)}, 1)])
def test_the_first_free_device(attached: dict[int, LoopFlag], free: int) -> None:
    assert asked(CONTROL, Command.CTL_GET_FREE, attached=attached).verdict == Return(free)


def test_none_is_free() -> None:
    found = asked(CONTROL, Command.CTL_GET_FREE, attached=dict.fromkeys(range(2), LoopFlag(0)))
    assert (found.verdict, found.call.allow) == (Fail(errno.ENOSPC), "limits: {loop-devices: 4}")


def test_a_file_is_attached() -> None:
    assert asked(DEVICE, Command.SET_FD, 0xBAD_0000_0000 + FILE).done == [("attach_loop", 1, 50, LoopFlag(0))]
    found = asked(DEVICE, Command.CONFIGURE, ADDRESS, memory=config(LoopFlag.AUTOCLEAR))
    assert found.done == [("attach_loop", 1, 50, LoopFlag.AUTOCLEAR)]


def test_one_that_is_open_for_reading_is_attached_for_reading() -> None:
    found = asked(DEVICE, Command.SET_FD, FILE)
    found.reach.tracee.writable = frozenset()
    again = ask("ioctl", IoctlArgs(DEVICE, Command.SET_FD, FILE), tracee=found.reach.tracee, by=BY)
    assert again.done == [("attach_loop", 1, 50, LoopFlag.READ_ONLY)]


@pytest.mark.parametrize("memory", [config(LoopFlag.PARTSCAN), config(LoopFlag(0), offset=512)])
def test_what_a_mounted_file_cannot_be_is_said(memory: bytes) -> None:
    found = asked(DEVICE, Command.CONFIGURE, ADDRESS, memory=memory)
    assert found.verdict == Fail(errno.EINVAL)
    assert found.call.why
    assert found.done == []


def test_what_is_remembered_is_told_and_changed() -> None:
    attached = {1: LoopFlag.READ_ONLY}
    found = asked(DEVICE, Command.GET_STATUS64, ADDRESS, attached=attached)
    assert found.verdict == Return()
    told = LoopInfo.unpack(found.reach.tracee.memory[ADDRESS])
    assert (told.flags, told.number) == (LoopFlag.READ_ONLY, 1)
    wanted = LoopInfo(LoopFlag.AUTOCLEAR | LoopFlag.READ_ONLY, name=b"/image").pack()
    assert asked(DEVICE, Command.SET_STATUS64, ADDRESS, memory=wanted).done == [("change_loop", 1, LoopFlag.AUTOCLEAR)]


@pytest.mark.parametrize("op", [Command.GET_STATUS64, Command.CLR_FD, Command.SET_CAPACITY, 0x4C06])
def test_without_a_file_there_is_no_device(op: int) -> None:
    assert asked(DEVICE, op, ADDRESS).verdict == Fail(errno.ENXIO)


def test_it_is_detached() -> None:
    assert asked(DEVICE, Command.CLR_FD, attached={1: LoopFlag(0)}).done == [("detach_loop", 1, LoopFlag(0))]


@pytest.mark.parametrize("fd", [ELSE, FILE])
def test_what_is_no_loop_device_is_the_kernels(fd: int) -> None:
    assert isinstance(asked(fd, Command.CLR_FD).verdict, Continue)


def test_a_real_one_is_the_kernels() -> None:
    assert isinstance(asked(DEVICE, Command.CLR_FD, fails=OSError(errno.ENOTTY, "")).verdict, Continue)
    with pytest.raises(OSError, match="hung"):
        asked(DEVICE, Command.CLR_FD, fails=OSError(errno.EIO, "hung"))


def test_without_any_everything_is_the_kernels() -> None:
    tracee = FakeTracee(names={CONTROL: b"/dev/loop-control"})
    assert isinstance(ask("ioctl", IoctlArgs(CONTROL, Command.CTL_GET_FREE, 0), tracee=tracee, by=policy()).verdict, Continue)


@pytest.mark.parametrize(("path", "device"), [
    (b"/dev/loop0", 0), (b"/jail/dev/loop12", 12), (b"/dev/loop-control", loops.CONTROL), (b"/dev/loop", None),
    (b"/dev/loop0p1", None), (b"/loop0", None), (b"/dev/loop0\n", None), (b"/dev/loop12345", None),
])  # fmt: skip
def test_names(path: bytes, device: int | None) -> None:
    assert loops.number(path) == device


def test_the_kernels_sizes() -> None:
    assert (loops.INFO_SIZE, loops.CONFIG_SIZE) == (232, 304)


@pytest.mark.parametrize(("source", "detached"), [(b"/dev/loop1", True), (b"/image", False), (b"/dev/loop-control", False)])
def test_a_mount_is_a_devices_last_use(source: bytes, detached: bool) -> None:
    by = policy(filesystems={"squashfs": FilesystemDecision(Mount.FUSE, "x:1", program="squashfuse")}, limits=BY.limits)
    found = ask("mount", MountArgs(source, b"/mnt", b"squashfs", 0, None), by=by, programs=FakePrograms())
    assert found.verdict == Return()
    assert found.done == ([("detach_loop", 1, LoopFlag.AUTOCLEAR)] if detached else [])
