"""Id-mapped clones of host directories: the one way in which files of the host get owners that the container knows.

Nothing is copied or chowned: the clone shows disk id 0 as the container's root, and writes it back as 0.
Source: mount_setattr(2), "ID-mapped mounts"; Linux fs/namespace.c, can_idmap_mount().
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError
from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import user_namespace
from runtime.mountinfo import Mount, below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.container import IdRange

MARKER = 3_000_000_000
MARKERS = 65536
"""Disk ids MARKER … stand for the host's own first ids in a container's files: what `docker cp` writes. They lie far
outside every range, and do not stay on disk (see `dockercp`)."""

PSEUDO = frozenset({
    "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "mqueue", "debugfs", "tracefs", "securityfs",
    "bpf", "configfs", "hugetlbfs", "pstore", "efivarfs", "fusectl", "binfmt_misc", "rpc_pipefs", "nsfs",
    "autofs", "selinuxfs", "smackfs",
})  # fmt: skip
"""Filesystems whose owners are the kernel's business: bound as they are."""


def mapping(ids: IdRange) -> Fd:
    """The user namespace that maps a container's files: its range, and the host's ids to MARKER …."""
    rows = [(0, ids.first, ids.size), (MARKER, 0, MARKERS)]
    return user_namespace(rows, rows)


class Clones:
    """Makes id-mapped clones of what one mount namespace shows; lives for one `create`, inside that namespace."""

    def __init__(self, table: Sequence[Mount], namespace: Fd) -> None:
        self._table = table
        self._by_id = {mount.id: mount for mount in table}
        self._namespace = namespace

    def directory(self, path: str, what: str) -> Fd:
        """A detached id-mapped clone of `path` alone; ConfigError naming `what` when its filesystem cannot."""
        tree = mounts.open_tree(path)
        try:
            self._map(tree, path, what)
        except BaseException:
            tree.close()
            raise
        return tree

    def bind(
        self, source: str, at: str, what: str, *, recursive: bool, attributes: int = 0, keep_peers: bool = False
    ) -> None:
        """Attaches a clone of `source` at `at`, with MOUNT_ATTR_* `attributes`; its submounts too when `recursive`.

        A clone of a shared mount would be its peer; it is made private unless `keep_peers`.
        """
        inner = list(below(self._table, os.path.realpath(source))) if recursive else []
        if inner and self._as_one(source, at, attributes, keep_peers):
            return
        self._attach(source, at, what, attributes, keep_peers)
        for mount in inner:
            self._attach(mount.point, at + mount.point[len(os.path.realpath(source)) :], what, 0, keep_peers)

    def fstype(self, path: str) -> str:
        """The filesystem type of the mount that `path` lies on; "" for one that mountinfo does not show."""
        found = self._by_id.get(mounts.mount_root(path).mount_id)
        return found.fstype if found else ""

    def _as_one(self, source: str, at: str, attributes: int, keep_peers: bool) -> bool:
        """The whole tree at once: what works when every submount can be id-mapped."""
        with mounts.open_tree(source, recursive=True) as tree:
            try:
                mounts.set_attributes("", dirfd=tree.fileno(), user_namespace=self._namespace.fileno(), recursive=True)
            except OSError:
                return False
            if attributes:
                mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes)
            if not keep_peers:
                mounts.set_attributes("", dirfd=tree.fileno(), propagation=mounts.MS_PRIVATE, recursive=True)
            mounts.move_mount(tree.fileno(), at)
        return True

    def _attach(self, source: str, at: str, what: str, attributes: int, keep_peers: bool) -> None:
        propagation = 0 if keep_peers else mounts.MS_PRIVATE
        with mounts.open_tree(source) as tree:
            if self.fstype(source) in PSEUDO:
                mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes, propagation=propagation)
            else:
                self._map(tree, source, what, attributes=attributes, propagation=propagation)
            mounts.move_mount(tree.fileno(), at)

    def _map(
        self, tree: Fd, path: str, what: str, *, attributes: int = 0, propagation: int = mounts.MS_PRIVATE
    ) -> None:
        mapped = self._namespace.fileno()
        try:
            mounts.set_attributes(
                "", dirfd=tree.fileno(), attributes=attributes, propagation=propagation, user_namespace=mapped
            )
        except OSError as error:
            if error.errno != errno.EINVAL or not self._is_open_tmpfs(path):
                raise ConfigError(f"{what}: {path} {self._why(error, path)}") from error
            mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes, propagation=propagation)

    def _is_open_tmpfs(self, path: str) -> bool:
        """A tmpfs that everybody may write to, as engines make for /dev/shm: of use also where it cannot be
        id-mapped.
        """
        status = os.stat(path)
        return self.fstype(path) == "tmpfs" and stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_IWOTH)

    def _why(self, error: OSError, path: str) -> str:
        fstype = self.fstype(path) or "unknown"
        if error.errno == errno.EINVAL:
            return (
                f"lies on a filesystem of type {fstype}, which this kernel cannot id-map, so every file in it "
                f"would belong to nobody inside: put it on one that can (ext4, xfs, btrfs; tmpfs since Linux 6.3)"
            )
        if error.errno == errno.EPERM:
            return (
                f"lies on a {fstype} mount that is id-mapped already or belongs to another user namespace; "
                f"use the directory that it was mounted from"
            )
        return f"cannot be id-mapped: {error.strerror}"


def mount_point(like: str, at: str) -> None:
    """Makes what can be mounted over for `like`: a directory for a directory, else an empty file."""
    if stat.S_ISDIR(os.stat(like).st_mode):
        os.makedirs(at, mode=0o755, exist_ok=True)
    else:
        Fd(os.open(at, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)).close()
