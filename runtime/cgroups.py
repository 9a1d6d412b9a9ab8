"""Delegation: the container's own cgroup, in every hierarchy, belongs to the container's root.

Then systemd and inner engines make cgroups below it, while its limits stay the host's. Only a cgroup without any process but
the container's init, and what that started, is given away: an engine that makes none leaves init in one of somebody else.
Source: cgroups(7), "Delegation"; Linux Documentation/admin-guide/cgroup-v2.rst, "Model of Delegation"; systemd
src/shared/cgroup-setup.c.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.native.files import text
from runtime import mountinfo, process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interceptor.container import IdRange
    from runtime.mountinfo import Mount

_V1_FILES = ("cgroup.procs", "tasks", "cgroup.clone_children")
_A_FEW_PIDS = 256  # bytes: whose list is longer, that is no container which is being created
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


class Moves:
    """Spares a runtime the wait before it moves a process into a container's cgroup: the kernel waits while we prepare.

    A move takes a lock for which the first who comes waits for a grace period of RCU, 10 ms where clocks tick at 250 Hz; who
    comes during the next does not (cgroup_attach_lock(), percpu_down_write(), rcu_sync_enter()). So a thread of ours moves
    itself to where it is: nothing is migrated then (cgroup_migrate_prepare_dst()). In a hierarchy of version 1 only: in the
    other a runtime may start its process in the cgroup (CLONE_INTO_CGROUP), and would wait for us.
    """

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def expect(self) -> None:
        """One will come soon. Without threads (RLIMIT_NPROC, pids.max) it waits."""
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="moves", daemon=True)
            with suppress(RuntimeError):
                self._thread.start()

    def _run(self) -> None:
        table = mountinfo.of_cgroups(text("/proc/thread-self/mountinfo"))
        while self._wanted.wait():
            self._wanted.clear()
            path = tasks(text("/proc/thread-self/cgroup"), table)
            if path is not None:
                with suppress(OSError), open(path, "wb", buffering=0) as file:
                    file.write(b"%d\n" % threading.get_native_id())


def tasks(membership: str, table: Sequence[Mount]) -> str | None:
    """The file by which a thread joins the cgroup that /proc/PID/cgroup's text `membership` says it is in, in the first
    hierarchy of version 1 that `table` has. Pure.
    """
    for line in filter(None, membership.split("\n")):
        _, controllers, path = line.split(":", 2)
        for mount in table if controllers else ():
            root = mount.root.rstrip("/")
            if set(controllers.split(",")) <= set(mount.super_options) and f"{path}/".startswith(f"{root}/"):
                return f"{mount.point}{path[len(root) :].rstrip('/')}/tasks"
    return None


def delegate(pid: int, membership: str, table: Sequence[Mount], ids: IdRange) -> list[str]:
    """Gives them to the container's root; answers the directories. Runs in the mount namespace that `table` is of."""
    given = []
    for directory, files in directories(membership, table):
        if _is_of(pid, directory):
            os.chown(directory, ids.first, ids.first)
            _chown(directory, files, ids)
            given.append(directory)
    return given


def unified(given: Iterable[str]) -> int:
    """Inode number of the one that is v2's, of the directories that `delegate` gave away; 0 for none."""
    return next((os.stat(directory).st_ino for directory in given if os.path.exists(f"{directory}/cgroup.controllers")), 0)


def named(path: str, table: Iterable[Mount]) -> list[str]:
    """The directories that a configuration's `linux.cgroupsPath` means, in every hierarchy of `table`. Pure.

    An absolute path, or "SLICE:PREFIX:NAME" for a scope of systemd's; none for one that begins at the runtime's own cgroup.
    Source: OCI runtime-spec, config-linux.md, "Cgroups Path"; runc libcontainer/cgroups/systemd, ExpandSlice().
    """
    match path.split(":"):
        case [slice_, prefix, name]:
            path = f"{_expanded(slice_ or 'system.slice')}/{prefix}-{name}.scope"
        case [absolute] if absolute.startswith("/") and absolute.strip("/"):
            path = os.path.normpath("/" + absolute.strip("/"))
        case _:
            return []
    return [mount.point.rstrip("/") + path for mount in table if mount.fstype in {"cgroup", "cgroup2"}]


def _expanded(slice_: str) -> str:
    """The path of a slice, whose name says those above: a-b.slice is below a.slice; -.slice is the root."""
    parts = [part for part in slice_.removesuffix(".slice").split("-") if part]
    return "".join(f"/{'-'.join(parts[:number])}.slice" for number in range(1, len(parts) + 1))


def _below(root: str, path: str) -> str:
    """`path` relative to a mount of `root`, with a leading slash; "" for the root itself and for what lies
    elsewhere.
    """
    prefix = root.rstrip("/")
    return path[len(prefix) :] if path.startswith(prefix + "/") and path != prefix + "/" else ""


def _is_of(pid: int, directory: str) -> bool:
    """Whether `pid` is there and no process that it has not started: crun's init has a child for a moment. Also False where
    the cgroup is gone.
    """
    try:
        with open(f"{directory}/cgroup.procs", "rb", buffering=0) as file:
            found = file.read(_A_FEW_PIDS)
    except OSError:
        return False
    pids = set(map(int, found.split())) if len(found) < _A_FEW_PIDS else set[int]()
    return pid in pids and all(process.descends(other, pid) for other in pids)


def _chown(directory: str, files: Iterable[str], ids: IdRange) -> None:
    for name in files:
        try:
            os.chown(f"{directory}/{name}", ids.first, ids.first)
        except FileNotFoundError:
            continue  # v1 hierarchies differ by kernel; cgroup.threads is absent where the cgroup is no thread root
