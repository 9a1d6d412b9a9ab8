"""The directories of CPUs (cpuview.py) of one container and of those inside it: made, mounted together, kept up to date.

All lie in one tmpfs, `cpus` below the container's directory of leaves. Each is bound onto itself, with the host's directory
and the leaves mounted in it: one clone brings all of that into a sysfs.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.native import mounts
from runtime.procfs import cpuview
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.native.fd import Fd
    from runtime.procfs.leaf import View

PLACE: Final = "cpus"
_ATTRIBUTES: Final = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
_SIZE: Final = "16m"
"""More than a thousand CPUs need."""


def place(number: int) -> str:
    """Where the directory of view `number` is, below that of the leaves."""
    return f"{PLACE}/{number}"


class Directories:
    """Those of one container."""

    def __init__(self, leaves: Fd) -> None:
        """`leaves`: O_PATH of the directory of leaves, in the engine's mount namespace."""
        self._leaves = leaves
        self._shown: dict[int, frozenset[int]] = {}
        self._lock = threading.Lock()

    def mount(self, source: str) -> None:
        """The tmpfs; in the engine's mount namespace. What an earlier supervisor made stays."""
        at = self._path(PLACE)
        with suppress(FileExistsError):
            at.mkdir(mode=0o755)
        if not mounts.mount_root(str(at)).is_root:
            options = [("source", source), ("mode", "755"), ("size", _SIZE)]
            with mounts.fresh("tmpfs", options, attributes=_ATTRIBUTES) as tree:
                mounts.move_mount(tree.fileno(), str(at))

    def make(self, number: int, view: View, places: Mapping[str, str]) -> None:
        """The directory of a view, in the engine's mount namespace. `places`: leaf's path → its place."""
        at = self._path(place(number))
        at.mkdir(mode=0o755, exist_ok=True)
        if self._is_whole(at):
            self.follow(number, view)
            return
        while mounts.mount_root(str(at)).is_root:  # an earlier supervisor died over it
            mounts.unmount(str(at))
        _bind(at, at)
        (at / cpuview.HOST).mkdir(mode=0o755, exist_ok=True)
        _bind(Path(cpuview.DIRECTORY), at / cpuview.HOST, _ATTRIBUTES | mounts.MOUNT_ATTR_RDONLY)
        self.follow(number, view)
        for path, target in cpuview.mount_points(str(at)):
            _bind(self._path(places[path]), Path(target))

    def _is_whole(self, at: Path) -> bool:
        """The leaves are mounted last."""
        try:
            return all(mounts.mount_root(target).is_root for _, target in cpuview.mount_points(str(at)))
        except FileNotFoundError:
            return False

    def follow(self, number: int, view: View) -> None:
        """Makes the directory show what the view does now, and again whenever another reader finds that it has changed. Any
        mount namespace.
        """
        view.state[share.ON_CPUS] = partial(self.follow, number, view)
        visible = frozenset(share.cpus_now(view).visible)
        with self._lock:
            if self._shown.get(number) != visible:
                cpuview.write(str(self._path(place(number))), cpuview.DIRECTORY, sorted(visible))
                self._shown[number] = visible

    @property
    def filesystems(self) -> tuple[str, str]:
        """Where there is a file of each filesystem in it: the tmpfs, and the host's sysfs."""
        return PLACE, f"{place(0)}/{cpuview.HOST}"

    def _path(self, name: str) -> Path:
        return Path(f"/proc/self/fd/{self._leaves.fileno()}/{name}")


def _bind(source: Path, target: Path, attributes: int = 0) -> None:
    with mounts.open_tree(str(source)) as tree:
        if attributes:
            mounts.set_attributes("", dirfd=tree.fileno(), attributes=attributes)
        mounts.move_mount(tree.fileno(), str(target))


def wanted(leaves: Mapping[str, str]) -> bool:
    """Whether the container has the leaves that belong into the directory, and the host the directory."""
    return os.path.isdir(cpuview.DIRECTORY) and all(path in leaves for path, _ in cpuview.mount_points(""))
