"""mknod(2), mknodat(2): device nodes that are harmless, or the container's own, where the kernel makes none.

A user namespace gets no device node but the whiteout, because whoever could make any could open any. What is lent here is
the nodes that a policy lists (`limits: devices:`): by default those that every container has in /dev already, and those
that the container's own device cgroup lets it open. FIFOs, sockets and files never leave the kernel, and whiteouts are told
apart in C. Permission to write to the directory, umask and owner are the kernel's business as for everybody.

Source: mknod(2), user_namespaces(7); Linux fs/namei.c do_mknodat(), vfs_mknod(); include/linux/kdev_t.h.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import DirFd, Integer, Path
from interceptor.ports import AT_FDCWD, Call, Cap, Namespace
from interceptor.registry import Masked, Needs, Redo, handles
from interceptor.verdict import Continue, Return, Verdict

_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


@dataclass(frozen=True)
class Mode(Integer):
    """umode_t: file type and permissions."""

    bits: int = 16

    def render(self, value: int) -> str:
        """``S_IFCHR|0666``, as strace does."""
        kind = {stat.S_IFCHR: "S_IFCHR", stat.S_IFBLK: "S_IFBLK"}.get(stat.S_IFMT(value))
        return f"{kind}|{stat.S_IMODE(value):#05o}".replace("0o", "0") if kind else f"{value:#o}".replace("0o", "0")


@dataclass(frozen=True)
class Device(Integer):
    """The 32 bits of new_encode_dev(): 12 of the major number between 8 and 12 of the minor."""

    bits: int = 32

    def render(self, value: int) -> str:
        """``makedev(1, 3)``."""
        return f"makedev({major(value)}, {minor(value)})"


def major(device: int) -> int:
    """MAJOR(new_decode_dev())."""
    return device >> 8 & 0xFFF


def minor(device: int) -> int:
    """MINOR(new_decode_dev())."""
    return device & 0xFF | device >> 12 & 0xFFF00


@dataclass(frozen=True, slots=True)
class MknodArgs:
    """The three registers of mknod(2)."""

    pathname: Path
    mode: Annotated[int, Mode()]
    dev: Annotated[int, Device()]


@dataclass(frozen=True, slots=True)
class MknodatArgs:
    """The four registers of mknodat(2)."""

    dirfd: DirFd
    pathname: Path
    mode: Annotated[int, Mode()]
    dev: Annotated[int, Device()]


DEVICES = (Masked("mode", 0o170000, stat.S_IFCHR), Masked("mode", 0o170000, stat.S_IFBLK))
NEEDS = Needs(Cap.MKNOD, owner_of=Namespace.MOUNT)
NOTE = "Character and block devices that policy lists (`limits: devices:`), also on a tmpfs; others EPERM."


@handles("mknod", when=DEVICES, needs=NEEDS, note=NOTE, redo=Redo.DETECTABLE)
def mknod(call: Call, args: MknodArgs) -> Verdict:
    return _make(call, AT_FDCWD, args.pathname, args.mode, args.dev)


@handles("mknodat", when=DEVICES, needs=NEEDS, note="As mknod.", redo=Redo.DETECTABLE)
def mknodat(call: Call, args: MknodatArgs) -> Verdict:
    return _make(call, args.dirfd, args.pathname, args.mode, args.dev)


def _make(call: Call, at: int, path: bytes, mode: int, device: int) -> Verdict:
    kind = _KINDS[stat.S_IFMT(mode)]
    if not device and kind == "c":
        return Continue(because="a whiteout is the kernel's own to make, for everybody")
    if call.tracee.in_nested_user_namespace:
        return Continue(because="nodes are lent to the container's own user namespace only; the kernel refuses others")
    name = f"{kind} {major(device)}:{minor(device)}"
    call.rule = _listed(call, kind, major(device), minor(device)) or call.rule
    if not call.rule:
        call.rule = call.decision.rule
        allow = call.policy.limits.devices.entry_with(kind, major(device), minor(device))
        call.deny(errno.EPERM, f"dev: {name} is not among `limits: devices:` of the container's policy", allow=allow)
        return Continue(because="a device node in a user namespace is the kernel's to refuse, once it has found the place")
    call.agent.make_node(call.tracee.anchor(path, at), mode=mode, device=device)
    return Return()


def _listed(call: Call, kind: str, major: int, minor: int) -> str:
    """The rule that lends the device; empty when none does.

    What is only the container's by its device cgroup is not an inner container's, whose own engine thinks that it has
    shut it out: there is one device cgroup for both.
    """
    devices = call.policy.limits.devices
    if rule := devices.rule(kind, major, minor):
        return rule
    own = call.tracee.namespace_id(Namespace.MOUNT) == call.container.mount_namespace
    return devices.cgroup if own and call.container.may_open(kind, major, minor) else ""
