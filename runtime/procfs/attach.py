"""Between `create` and `start`: the leaves go over the files of the container's own proc and sysfs, one by one.

Stock runc refuses most mounts below /proc, so they are attached afterwards. Nothing runs in the container yet that could
change what its paths mean; symbolic links and other filesystems in the place of proc or sysfs are left alone nevertheless.
Source: open_tree(2), move_mount(2); runc libcontainer/rootfs_linux.go, checkProcMount().
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from runtime import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SOURCE = "interceptor"
"""What mountinfo calls the source of leaves."""
FILESYSTEMS = {"/proc": "proc", "/sys": "sysfs"}
"""Where leaves' paths begin → the type of filesystem that must be there."""


def attach(pid: int, directory: str, names: Mapping[str, str]) -> list[str]:
    """Attaches `names` (path → name below `directory`) in the mount namespace of `pid`; answers the paths that have one.

    Runs in the mount namespace where `directory` is. A path that the container's proc or sysfs does not have stays as it
    is, and so does one over which the engine mounted something: a mask, or values of its own.
    """
    with ExitStack() as stack, Fd(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
        trees = {path: stack.enter_context(mounts.open_tree(f"{directory}/{name}")) for path, name in names.items()}
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            table = mountinfo.parse(file.read())
        with in_mount_namespace(namespace.fileno()):
            return [path for top in _whole(table) for path in _attach_below(top, trees)]


def masked(pid: int, paths: Iterable[str]) -> frozenset[str]:
    """Those of `paths` over which the engine mounted something, and which have no leaf therefore."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        table = mountinfo.parse(file.read())
    ours = {mount.point for mount in table if mount.source == SOURCE}
    return frozenset({mount.point for mount in table}.intersection(paths) - ours)


def _whole(table: Iterable[mountinfo.Mount]) -> list[str]:
    """Those of FILESYSTEMS that are what they should be, whole, and seen."""
    found = {top: mountinfo.topmost(table, top) for top in FILESYSTEMS}
    return [top for top, mount in found.items() if mount and mount.fstype == FILESYSTEMS[top] and mount.root == "/"]


def _attach_below(top: str, trees: Mapping[str, Fd]) -> Iterable[str]:
    with Fd(os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        for path, tree in trees.items():
            if not path.startswith(top + "/"):
                continue
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                mounts.open_beneath(root.fileno(), path[len(top) + 1 :], os.O_PATH) as target,
            ):
                if not mounts.mount_root("", dirfd=target.fileno()).is_root:
                    mounts.move_mount(tree.fileno(), "", dirfd=target.fileno())
                    yield path
