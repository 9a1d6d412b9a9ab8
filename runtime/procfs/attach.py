"""Between `create` and `start`: the leaves go over the files of the container's own proc and sysfs, one by one.

Stock runc refuses most mounts below /proc, so they are attached afterwards. Nothing runs in the container yet that could
change what its paths mean; symbolic links and other filesystems in the place of proc or sysfs are left alone nevertheless.
Source: open_tree(2), move_mount(2); runc libcontainer/rootfs_linux.go, checkProcMount().
"""

from __future__ import annotations

import errno
import os
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

_MAGIC = {"proc": mounts.PROC_MAGIC, "sysfs": mounts.SYSFS_MAGIC}
_ROOT_INODE = 1
"""Of both: PROC_ROOT_INO (include/linux/proc_fs.h), kernfs_create_root()."""
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def attach(pid: int, trees: Mapping[str, Fd]) -> frozenset[str]:
    """Attaches `trees` (path → detached mount) in the mount namespace of `pid`; answers the paths over which something is
    mounted already, and which have no leaf therefore: a mask of the engine's, or values of its own.

    A path that the container's proc or sysfs does not have stays as it is, too.
    """
    with (
        Fd(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace,
        in_mount_namespace(namespace.fileno()),
    ):
        return frozenset(path for top in FILESYSTEMS for path in _attach_below(top, trees))


def masked(pid: int, paths: Iterable[str]) -> frozenset[str]:
    """As `attach` answered it, of what is attached already."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        table = mountinfo.parse(file.read())
    ours = {mount.point for mount in table if mount.source == SOURCE}
    return frozenset({mount.point for mount in table}.intersection(paths) - ours)


def _attach_below(top: str, trees: Mapping[str, Fd]) -> Iterable[str]:
    try:
        found = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    with Fd(found) as root:
        if not _is_whole(root, FILESYSTEMS[top]):
            return
        prefix = top + "/"
        below = {path.removeprefix(prefix): tree for path, tree in trees.items() if path.startswith(prefix)}
        for path, error in mounts.cover(root.fileno(), below).items():
            if error == errno.EBUSY:
                yield prefix + path
            elif error not in _ABSENT:
                raise OSError(error, os.strerror(error), prefix + path)


def _is_whole(root: Fd, fstype: str) -> bool:
    """Whether it is the root directory of such a filesystem, and not a part of one or a stand-in."""
    return mounts.filesystem_type(root.fileno()) == _MAGIC[fstype] and os.fstat(root.fileno()).st_ino == _ROOT_INODE
