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
        with Fd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as origin:
            tree = mounts.open_tree("", dirfd=origin.fileno())
            try:
                self._map(tree, origin, what)
            except BaseException:
                tree.close()
                raise
        return tree

    def bind(
        self, source: str, at: Fd, what: str, *, recursive: bool, attributes: int = 0, keep_peers: bool = False
    ) -> None:
        """Attaches a clone of `source` at `at`, with MOUNT_ATTR_* `attributes`; its submounts too when `recursive`.

        A clone of a shared mount would be its peer; it is made private unless `keep_peers`. Source and target may lie in
        what other containers can change: each path is walked once.
        """
        with Fd(os.open(source, os.O_PATH | os.O_CLOEXEC)) as origin:
            top = os.readlink(f"/proc/thread-self/fd/{origin.fileno()}")
            inner = list(below(self._table, top)) if recursive else []
            if inner and self._as_one(origin, at, attributes, keep_peers):
                return
            with self._attach(origin, at, what, attributes, keep_peers) as whole:
                for mount in inner:
                    name = mount.point[len(top) :].lstrip("/")
                    with (
                        mounts.open_beneath(origin.fileno(), name, os.O_PATH) as part,
                        mounts.open_beneath(whole.fileno(), name, os.O_PATH) as point,
                    ):
                        self._attach(part, point, what, 0, keep_peers).close()

    def fstype(self, origin: Fd) -> str:
        """The filesystem type of the mount that `origin` lies on; "" for one that mountinfo does not show."""
        found = self._by_id.get(mounts.mount_root("", dirfd=origin.fileno()).mount_id)
        return found.fstype if found else ""

    def _as_one(self, origin: Fd, at: Fd, attributes: int, keep_peers: bool) -> bool:
        """The whole tree at once: what works when every submount can be id-mapped."""
        with mounts.open_tree("", dirfd=origin.fileno(), recursive=True) as tree:
            try:
                mounts.set_attributes("", dirfd=tree.fileno(), user_namespace=self._namespace.fileno(), recursive=True)
            except OSError:
                return False
            if attributes:
                mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes)
            if not keep_peers:
                mounts.set_attributes("", dirfd=tree.fileno(), propagation=mounts.MS_PRIVATE, recursive=True)
            mounts.move_mount(tree.fileno(), "", dirfd=at.fileno())
        return True

    def _attach(self, origin: Fd, at: Fd, what: str, attributes: int, keep_peers: bool) -> Fd:
        """The mount that is attached at `at` then."""
        propagation = 0 if keep_peers else mounts.MS_PRIVATE
        tree = mounts.open_tree("", dirfd=origin.fileno())
        try:
            if self.fstype(origin) in PSEUDO:
                mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes, propagation=propagation)
            else:
                self._map(tree, origin, what, attributes=attributes, propagation=propagation)
            mounts.move_mount(tree.fileno(), "", dirfd=at.fileno())
        except BaseException:
            tree.close()
            raise
        return tree

    def _map(
        self, tree: Fd, origin: Fd, what: str, *, attributes: int = 0, propagation: int = mounts.MS_PRIVATE
    ) -> None:
        mapped = self._namespace.fileno()
        try:
            mounts.set_attributes(
                "", dirfd=tree.fileno(), attributes=attributes, propagation=propagation, user_namespace=mapped
            )
        except OSError as error:
            if error.errno != errno.EINVAL or not self._is_open_tmpfs(origin):
                path = os.readlink(f"/proc/thread-self/fd/{origin.fileno()}")
                raise ConfigError(f"{what}: {path} {self._why(error, self.fstype(origin) or 'unknown')}") from error
            mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes, propagation=propagation)

    def _is_open_tmpfs(self, origin: Fd) -> bool:
        """A tmpfs that everybody may write to, as engines make for /dev/shm: of use also where it cannot be
        id-mapped.
        """
        status = os.fstat(origin.fileno())
        return self.fstype(origin) == "tmpfs" and stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_IWOTH)

    @staticmethod
    def _why(error: OSError, fstype: str) -> str:
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


def mount_point(like: str, at: str) -> Fd:
    """Makes what can be mounted over for `like`: a directory for a directory, else an empty file. Where only we may write."""
    if stat.S_ISDIR(os.stat(like).st_mode):
        os.makedirs(at, mode=0o755, exist_ok=True)
    else:
        Fd(os.open(at, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)).close()
    return Fd(os.open(at, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
