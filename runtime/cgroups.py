"""Delegation: the container's own cgroup, in every hierarchy, belongs to the container's root.

Then systemd and inner engines make cgroups below it, while its limits stay the host's. Only a cgroup whose one
process is the container's init is given away: an engine that makes none leaves init in a cgroup of somebody else.
Source: cgroups(7), "Delegation"; Linux Documentation/admin-guide/cgroup-v2.rst, "Model of Delegation"; systemd
src/shared/cgroup-setup.c.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interceptor.container import IdRange
    from runtime.mountinfo import Mount

_V1_FILES = ("cgroup.procs", "tasks", "cgroup.clone_children")
_ONE_PID = 32  # bytes: a pid, its newline, and the beginning of a second
_V2_FILES = (
    "cgroup.procs", "cgroup.threads", "cgroup.subtree_control",
    "cpu.pressure", "io.pressure", "irq.pressure", "memory.pressure",
)  # fmt: skip
"""The last ones are written to wait for pressure: psi.rst, "Monitoring for pressure thresholds"."""


def directories(membership: str, table: Sequence[Mount]) -> Iterator[tuple[str, Sequence[str]]]:
    """The cgroups of /proc/PID/cgroup's text `membership` as directories of `table`, with the files to give away.

    Pure. A hierarchy that is not mounted, or not from where the cgroup can be seen, is left out.
    """
    for line in filter(None, membership.split("\n")):
        _, controllers, path = line.split(":", 2)
        wanted = set(controllers.split(",")) if controllers else set[str]()
        files = _V1_FILES if controllers else _V2_FILES
        for mount in table:
            matches = (
                mount.fstype == "cgroup" and wanted <= set(mount.super_options)
                if controllers
                else mount.fstype == "cgroup2"
            )
            if matches and (relative := _below(mount.root, path)):
                yield mount.point + relative, files
                break


def delegate(pid: int, membership: str, table: Sequence[Mount], ids: IdRange) -> list[str]:
    """Gives them to the container's root; answers the directories. Runs in the mount namespace that `table` is of."""
    given = []
    for directory, files in directories(membership, table):
        if _only(pid, directory):
            os.chown(directory, ids.first, ids.first)
            _chown(directory, files, ids)
            given.append(directory)
    return given


def unified(given: Iterable[str]) -> int:
    """Inode number of the one that is v2's, of the directories that `delegate` gave away; 0 for none."""
    return next((os.stat(directory).st_ino for directory in given if os.path.exists(f"{directory}/cgroup.controllers")), 0)


def _below(root: str, path: str) -> str:
    """`path` relative to a mount of `root`, with a leading slash; "" for the root itself and for what lies
    elsewhere.
    """
    prefix = root.rstrip("/")
    return path[len(prefix) :] if path.startswith(prefix + "/") and path != prefix + "/" else ""


def _only(pid: int, directory: str) -> bool:
    """Whether `pid` is the one process there; also False where the cgroup is gone."""
    try:
        with open(f"{directory}/cgroup.procs", "rb", buffering=0) as file:
            return file.read(_ONE_PID) == b"%d\n" % pid
    except OSError:
        return False


def _chown(directory: str, files: Iterable[str], ids: IdRange) -> None:
    for name in files:
        try:
            os.chown(f"{directory}/{name}", ids.first, ids.first)
        except FileNotFoundError:
            continue  # v1 hierarchies differ by kernel; cgroup.threads is absent where the cgroup is no thread root
