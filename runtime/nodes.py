"""/dev/null and its like, made anew so that they belong to the container's root.

In a user namespace runtimes bind the host's nodes, which are nobody's inside. Between `create` and `start` each is
replaced by a node on a tmpfs of the container's own. Of its own, because its root may then chmod what it owns; made by
the host, because a node on a filesystem that a user namespace owns cannot be opened (SB_I_NODEV). It goes with the
container's mount namespace.
Source: OCI runtime-spec, config-linux.md, "Default Devices"; Linux fs/namei.c, may_open_dev().
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from interceptor.policy import Kmsg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.container import IdRange
    from interceptor.policy import Policy

NODES = {
    "null": os.makedev(1, 3),
    "zero": os.makedev(1, 5),
    "full": os.makedev(1, 7),
    "random": os.makedev(1, 8),
    "urandom": os.makedev(1, 9),
    "tty": os.makedev(5, 0),
}
"""Linux Documentation/admin-guide/devices.txt."""
KMSG = "kmsg"
FUSE = os.makedev(10, 229)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Those of one container, made and not yet anywhere."""

    devices: Mapping[str, int]
    """Name → number, as of makedev(3); none where the host itself may not make device nodes."""
    trees: Sequence[Fd]
    """A detached mount of each, in that order."""
    directory: Fd | None = None
    """A detached mount of the directory that has them all."""


def make(base: str, ids: IdRange, lent: Mapping[str, int], undo: ExitStack) -> Nodes:
    """Of each kind, and of those that are `lent`. `undo` closes them.

    Runs in the mount namespace where `base`, the container's run directory, is a private mount. Cloned from a tmpfs that is
    attached meanwhile: before Linux 6.15 a detached one cannot be cloned.
    """
    wanted = {**NODES, **lent}
    at = f"{base}/dev"
    with suppress(FileExistsError):  # an earlier supervisor's, which died here
        os.mkdir(at, 0o700)
    try:
        with mounts.fresh("tmpfs", [("size", "4k"), ("nr_inodes", str(len(wanted) + 2)), ("mode", "0755")]) as tmpfs:
            mounts.move_mount(tmpfs.fileno(), at)
        try:
            for name, device in wanted.items():
                _make_node(f"{at}/{name}", name, device, ids)
            directory = undo.enter_context(mounts.open_tree(at))
            trees = mounts.clones(mounts.AT_FDCWD, [f"{at}/{name}" for name in wanted])
        finally:
            mounts.unmount(at)
    except PermissionError:
        return Nodes({}, ())  # no CAP_MKNOD: the host is a container itself
    finally:
        os.rmdir(at)
    return Nodes(wanted, [undo.enter_context(tree) for tree in trees], directory)


def give(pid: int, made: Nodes) -> None:
    """Puts them into the place of those that the runtime bound, in the container whose init is `pid` and has not run
    anything yet. What is missing there, is no device of that number, or is no mount stays as the engine wanted it.
    """
    with (
        Fd(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace,
        in_mount_namespace(namespace.fileno()),
    ):
        trees = zip(made.devices, made.trees, strict=True)
        bound = {name: tree for name, tree in trees if _is_bound(name, made.devices[name])}
        if made.directory is not None and bound:
            _take_away(bound, made.directory)
        for name, tree in bound.items():
            mounts.move_mount(tree.fileno(), f"/dev/{name}")


def _take_away(names: Iterable[str], directory: Fd) -> None:
    """All of them with one unmount, because each waits for a grace period (namespace_unlock()): below a directory that lies
    over /dev for as long as that takes. What cannot be moved (from a shared mount) stays, and is covered.
    """
    with ExitStack() as held:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        old = {name: held.enter_context(Fd(os.open(f"/dev/{name}", flags))) for name in names}
        mounts.move_mount(directory.fileno(), "/dev")
        try:
            for name, mount in old.items():
                with suppress(OSError):
                    mounts.move_mount(mount.fileno(), f"/dev/{name}")
        finally:
            mounts.unmount("/dev")


def lent(policy: Policy) -> dict[str, int]:
    """What a container has below /dev besides, by its policy: loop devices to which nothing is attached
    (interceptor/handlers/ioctl.py), and a kernel log that is empty.

    That is the null device: reading ends at once, writing succeeds, and who waits for it with epoll(7) hears EPERM. Older
    journalds then do without; that of systemd 262 fails. A pipe would let a reader wait, and hang who writes when nobody reads.
    """
    kmsg = {KMSG: NODES["null"]} if policy.kmsg is Kmsg.EMPTY else {}
    return {**kmsg, **for_loops(policy.limits.loop_devices)}


def for_loops(loops: int) -> dict[str, int]:
    """What a container with loop devices needs below /dev: they are the null device's, and what mounts them is FUSE's."""
    if not loops:
        return {}
    names = ["loop-control", *(f"loop{number}" for number in range(loops))]
    return {"fuse": FUSE, **dict.fromkeys(names, NODES["null"])}


def _is_bound(name: str, device: int) -> bool:
    """Paths are the container's here, and nothing runs in it that could change them."""
    path = f"/dev/{name}"
    try:
        status = os.lstat(path)
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == device and mounts.mount_root(path).is_root
    except OSError:
        return False


def _make_node(path: str, name: str, device: int, ids: IdRange) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, device)
    os.chown(path, ids.first, ids.first)
    if name in NODES or device == FUSE:
        os.chmod(path, 0o666)  # noqa: S103 - as on every Unix
    elif name == KMSG:
        os.chmod(path, 0o644)
