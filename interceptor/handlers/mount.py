"""mount(2): what the tracee's user namespace may own, and what policy lends it.

A new mount only: remount, bind, move and propagation never leave the kernel, which locks what the container must not
change (mounts that it got read-only or nosuid are locked when its mount namespace is made, mount_namespaces(7)).

Source: mount(2), mount_namespaces(7), user_namespaces(7); Linux fs/namespace.c path_mount(), do_new_mount().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated, ClassVar

from interceptor import loops, netmounts
from interceptor.args import Flags, OptionalCStr, OptionalData, Path
from interceptor.limits import NETWORK_FILESYSTEMS, LentDevice
from interceptor.loops import LoopFlag
from interceptor.policy import Mount
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Look, Masked, Needs, Redo, Shortcut, handles
from interceptor.verdict import Continue, Fail, Return, Verdict


class MountFlag(enum.IntFlag):
    """MS_* (linux/mount.h)."""

    MS_RDONLY = 1
    MS_NOSUID = 2
    MS_NODEV = 4
    MS_NOEXEC = 8
    MS_SYNCHRONOUS = 16
    MS_REMOUNT = 32
    MS_MANDLOCK = 64
    MS_DIRSYNC = 128
    MS_NOSYMFOLLOW = 256
    MS_NOATIME = 1024
    MS_NODIRATIME = 2048
    MS_BIND = 4096
    MS_MOVE = 8192
    MS_REC = 16384
    MS_SILENT = 32768
    MS_POSIXACL = 1 << 16
    MS_UNBINDABLE = 1 << 17
    MS_PRIVATE = 1 << 18
    MS_SLAVE = 1 << 19
    MS_SHARED = 1 << 20
    MS_RELATIME = 1 << 21
    MS_KERNMOUNT = 1 << 22
    MS_I_VERSION = 1 << 23
    MS_STRICTATIME = 1 << 24
    MS_LAZYTIME = 1 << 25


MS_MGC_VAL = 0xC0ED0000
MS_MGC_MSK = 0xFFFF0000
ANOTHER_MOUNT = MountFlag.MS_REMOUNT | MountFlag.MS_BIND | MountFlag.MS_MOVE
PROPAGATION = MountFlag.MS_UNBINDABLE | MountFlag.MS_PRIVATE | MountFlag.MS_SLAVE | MountFlag.MS_SHARED

NOUSER = 0xFFFFFFFF_80000000
"""MS_NOUSER (linux/fs.h): an int with its sign bit set, so on a 64-bit kernel every bit above is one of it."""

MountFlags = Annotated[int, Flags(MountFlag)]


@dataclass(frozen=True, slots=True)
class MountArgs:
    """The five registers of mount(2), in register order."""

    source: OptionalCStr
    target: Path
    fstype: OptionalCStr
    flags: MountFlags
    data: OptionalData

    COPIED: ClassVar = ("fstype", "source", "data", "target")
    """mount(2) and do_mount() read the target last."""


@handles(
    "mount",
    when=(
        Masked("flags", ANOTHER_MOUNT | PROPAGATION, 0),
        # Programs of the last century put a magic number where propagation flags are now; path_mount() drops it.
        Masked("flags", MS_MGC_MSK | ANOTHER_MOUNT, MS_MGC_VAL),
    ),
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    shortcut=Shortcut(
        Look.MOUNT,
        because="the kernel mounts it with what the tracee has itself",
        when=Masked("flags", ANOTHER_MOUNT | PROPAGATION | NOUSER, 0),
    ),
    note="New mounts only. proc, sysfs and overlay are emulated; debugfs, tracefs and securityfs get an empty stand-in; "
    "others are the kernel's, a FUSE program's of the container's own, or of a device or server that is lent, by policy.",
    redo=Redo.DETECTABLE,
)
def mount(call: Call, args: MountArgs) -> Verdict:
    if not args.fstype or _flags(args) & NOUSER:
        return Continue(because="a new mount without a type, or with flags of the kernel's own, is the kernel's to refuse")
    device = call.policy.device(args.source, args.fstype)
    return _by_type(call, args, args.fstype) if device is None else _device(call, args, device)


def _by_type(call: Call, args: MountArgs, name: bytes) -> Verdict:
    choice = call.policy.filesystem(name)
    call.rule = choice.rule
    match choice.mount:
        case Mount.DENY:
            fstype = name.decode(errors="replace")
            return call.deny(choice.errno, f"filesystem type {fstype!r}", allow=f"filesystems: {{{fstype}: emulate}}")
        case Mount.STAND_IN:
            return _stand_in(call, args)
        case Mount.FUSE:
            return _program(call, args, choice.program)
        case Mount.EMULATE if name in _EMULATED:
            return _EMULATED[name](call, args)
        case _:
            return Continue(because="the kernel mounts it with what the tracee has itself")


def _stand_in(call: Call, args: MountArgs) -> Verdict:
    call.agent.stand_in(call.tracee.anchor(args.target), name=_text(args.fstype), flags=_flags(args))
    return Return()


def _program(call: Call, args: MountArgs, program: str) -> Verdict:
    """`PROGRAM SOURCE TARGET -o OPTIONS`, as mount.fuse(8) does it, in the place of the kernel's filesystem."""
    tracee = call.tracee
    if tracee.namespace_id(Namespace.MOUNT) != call.container.mount_namespace or tracee.uid_inside != 0:
        call.why = f"{program} can mount for the container's root in its first mount namespace only"
        return Fail(errno.ENODEV)
    if not args.source:
        return Fail(errno.EINVAL)
    paths = [_as_seen_inside(tracee.number_inside, path) for path in (args.source, args.target)]
    status, said = call.programs.run([program.encode(), *paths, b"-o", _fuse_options(args)])
    if status == 0:
        _used(call, args.source)
        return Return()
    call.why = f"{program} ended with status {status}: {said.splitlines()[-1] if said else 'it said nothing'}"
    if status in _NOT_FOUND or "executable file" in said:
        return Fail(errno.ENODEV)
    return Fail(errno.EINVAL)


def _used(call: Call, source: bytes) -> None:
    """The program has the file open by now: a loop device that is to be detached with its last use is free again."""
    device = loops.number(source) if call.policy.limits.loop_devices else None
    if device is None or device == loops.CONTROL:
        return
    try:
        call.agent.detach_loop(device, only=LoopFlag.AUTOCLEAR)
    except OSError as error:
        if error.errno != errno.ENXIO:  # it is to stay, or is none
            call.why = f"the loop device stays attached: {error.strerror}"


_NOT_FOUND = frozenset({126, 127})
"""As sh(1) has it, and crun; runc's 255 may be the program's own."""


def _as_seen_inside(process: int, path: bytes) -> bytes:
    """A path of the tracee's for another process of its container: from the tracee's own root or working directory."""
    start, rest = (b"root", path.lstrip(b"/")) if path.startswith(b"/") else (b"cwd", path)
    return b"/proc/%d/%s/%s" % (process, start, rest)


def _fuse_options(args: MountArgs) -> bytes:
    """fuse(8): what a mount of the kernel's has by itself is asked for; `loop` and its like were for mount(8)."""
    flags = _flags(args)
    words = [b"ro" if flags & MountFlag.MS_RDONLY else b"rw", b"allow_other", b"default_permissions"]
    words += [word for flag, word in _WORDS.items() if flags & flag]
    words += [word for word in (args.data or b"").split(b",") if word and not word.startswith(b"loop")]
    return b",".join(words)


_WORDS = {MountFlag.MS_NOSUID: b"nosuid", MountFlag.MS_NODEV: b"nodev", MountFlag.MS_NOEXEC: b"noexec"}


def _fresh(call: Call, args: MountArgs, owner: Namespace) -> Verdict:
    """Proc or sysfs: the kernel wants the capability also over the pid or network namespace that it shows."""
    if not call.tracee.capable(Cap.SYS_ADMIN, owner):
        return Continue(because="the kernel refuses it, once it has found the target")
    fstype = _text(args.fstype)
    nested = call.tracee.in_nested_user_namespace
    like = call.tracee.covered(fstype) if nested else ()
    if nested and not like:
        return Continue(because="without a visible one nobody knows what it may reveal; the kernel checks that itself")
    call.agent.mount(
        fstype, call.tracee.anchor(args.target), source=args.source, flags=_flags(args), options=args.data, like=like,
        leaves=call.leaves(fstype),
    )  # fmt: skip
    return Return()


def _proc(call: Call, args: MountArgs) -> Verdict:
    return _fresh(call, args, Namespace.PID)


def _sysfs(call: Call, args: MountArgs) -> Verdict:
    return _fresh(call, args, Namespace.NET)


def _overlay(call: Call, args: MountArgs) -> Verdict:
    """With userxattr, or from a nested user namespace, it is what the kernel gives; else what real root would get.

    In an overlay that the container's root mounts, overlayfs makes files with that root's credentials (ovl_override_creds()),
    and so no device nodes, whoever asks. Where policy wants them to be made, it is mounted by us whatever its options.
    """
    if b"userxattr" in (args.data or b"").split(b",") and not call.policy.overlay_nodes:
        return Continue(because="userxattr asks for what a user namespace may do itself")
    if call.tracee.in_nested_user_namespace:
        return Continue(because="trusted attributes are lent to the container's own user namespace only")
    call.agent.overlay(call.tracee.anchor(args.target), source=args.source, flags=_flags(args), options=args.data)
    return Return()


def _device(call: Call, args: MountArgs, device: LentDevice) -> Verdict:
    """A block device or an image of the host's; what of it is not policy's is the kernel's to say."""
    call.rule = device.rule
    if call.tracee.in_nested_user_namespace:
        return Continue(because="devices are lent to the container's own user namespace only")
    if _text(args.fstype) != device.fstype:
        call.why = f"policy lends it as {device.fstype}"
        return Fail(errno.EINVAL)
    own = set(device.options) | {"ro" if _flags(args) & MountFlag.MS_RDONLY else "rw"}
    if unknown := [word for word in _text(args.data).split(",") if word and word not in own]:
        call.why = f"option {unknown[0].partition('=')[0]!r}: the options of a device are policy's"
        return Fail(errno.EINVAL)
    if device.read_only and not _flags(args) & MountFlag.MS_RDONLY:
        call.why = "policy lends it for reading: mount -o ro"
        return Fail(errno.EACCES)
    call.agent.mount_device(device, call.tracee.anchor(args.target), name=args.source or b"", flags=_flags(args))
    return Return()


def _network(call: Call, args: MountArgs) -> Verdict:
    """An export of a server that policy lists, at an address that is that server's: the kernel would go wherever it is told."""
    if call.tracee.in_nested_user_namespace:
        return Continue(because="servers are lent to the container's own user namespace only")
    fstype, source = _text(args.fstype), args.source or b""
    kind = NETWORK_FILESYSTEMS[fstype]
    where = netmounts.place(kind, source)
    if where is None:
        call.why = "source: neither HOST:/EXPORT nor //HOST/SHARE"
        return Fail(errno.EINVAL)
    server = call.policy.limits.server(fstype, where.host, where.export)
    if server is None:
        listed = source.decode()
        allow = "" if {'"', "\\"} & set(listed) else f'limits: {{servers: {{{kind}: ["{listed}"]}}}}'
        return call.deny(errno.EPERM, "source: no server that the policy lists", allow=allow)
    call.rule = server.rule
    addresses = [where.address] if where.address else call.names.addresses(where.host)
    ids = call.container.ids
    try:
        options = netmounts.vet(where, source, args.data or b"", addresses, ids.first, ids.size)
    except netmounts.Refused as refused:
        call.why = f"data: {refused}"
        return Fail(errno.EINVAL)
    at = call.tracee.anchor(args.target)
    call.agent.mount_network(args.fstype or b"", at, source=source, flags=_flags(args), options=options)
    return Return()


_EMULATED = {b"proc": _proc, b"sysfs": _sysfs, b"overlay": _overlay}
_EMULATED |= {fstype.encode(): _network for fstype in NETWORK_FILESYSTEMS}


def _flags(args: MountArgs) -> int:
    """The flags without the old magic number."""
    return args.flags & ~MS_MGC_MSK if args.flags & MS_MGC_MSK == MS_MGC_VAL else args.flags


def _text(fstype: bytes | None) -> str:
    return (fstype or b"").decode(errors="surrogateescape")
