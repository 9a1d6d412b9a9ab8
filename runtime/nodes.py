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
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from interceptor.policy import Kmsg

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class Node(NamedTuple):
    """One that is made and not yet anywhere."""

    device: int
    """Its number, as of makedev(3)."""
    tree: Fd
    """A detached mount of it."""


def make(base: str, ids: IdRange, lent: Mapping[str, int]) -> Mapping[str, Node]:
    """A node of each kind, by name, and of those that are `lent`; none where the host itself may not make device nodes.

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
            trees = mounts.clones(mounts.AT_FDCWD, [f"{at}/{name}" for name in wanted])
        finally:
            mounts.unmount(at)
    except PermissionError:
        return {}  # no CAP_MKNOD: the host is a container itself
    finally:
        os.rmdir(at)
    return {name: Node(device, tree) for (name, device), tree in zip(wanted.items(), trees, strict=True)}


def give(pid: int, made: Mapping[str, Node]) -> None:
    """Puts them into the place of those that the runtime bound, in the container whose init is `pid` and has not run
    anything yet. What is missing there, is no device of that number, or is no mount stays as the engine wanted it.
    """
    with (
        Fd(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace,
        in_mount_namespace(namespace.fileno()),
    ):
        for name, node in made.items():
            if _is_bound(name, node.device):
                mounts.unmount(f"/dev/{name}")
                mounts.move_mount(node.tree.fileno(), f"/dev/{name}")


FUSE = os.makedev(10, 229)


def lent(policy: Policy) -> dict[str, int]:
    """What a container has below /dev besides, by its policy: loop devices to which nothing is attached
    (interceptor/handlers/ioctl.py), and a kernel log that is empty.

    That is the null device: reading ends at once, writing succeeds, and who waits for it with epoll(7) hears EPERM, upon
    which journald does without. A pipe would let a reader wait, and hang who writes when nobody reads.
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
