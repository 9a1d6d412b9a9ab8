"""The host's cgroup hierarchies, whichever layout it has: v1, hybrid or v2.

Source: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from support.mounts import mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"interceptor-test-[\w-]+")
"""What the cgroups are called that tests make, and may therefore empty and remove."""


def hierarchies(pid: int | str = "self") -> list[Path]:
    """Where each hierarchy is mounted, as the process `pid` sees it, to be reached from here."""
    seen = [mount for mount in mounts(pid) if mount.fstype in {"cgroup", "cgroup2"}]
    return [Path(f"/proc/{pid}/root{mount.point}") if pid != "self" else Path(mount.point) for mount in seen]


def is_unified(pid: int | str = "self") -> bool:
    """Whether /sys/fs/cgroup is cgroup v2 itself, as the process `pid` sees it."""
    return any(mount.point == "/sys/fs/cgroup" and mount.fstype == "cgroup2" for mount in mounts(pid))


def controllers(pid: int | str = "self") -> frozenset[str]:
    """The controllers that containers can be given, as the process `pid` sees them."""
    if is_unified(pid):
        return frozenset(Path(f"/proc/{pid}/root/sys/fs/cgroup/cgroup.controllers").read_text(encoding="ascii").split())
    options = [option for mount in mounts(pid) if mount.fstype == "cgroup" for option in mount.super_options.split(",")]
    return frozenset(options)


def names() -> set[str]:
    """The cgroups there are that tests made."""
    found = (entry.name for hierarchy in hierarchies() for entry in hierarchy.iterdir() if entry.is_dir())
    return {name for name in found if NAME.fullmatch(name)}


def directories(name: str) -> Iterator[Path]:
    """The cgroup `name` and all below it in every hierarchy, deepest first; never a hierarchy itself."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"cgroup {name!r}: expected the name of a cgroup of the tests' own, below the root: {NAME.pattern}"
        )
    for hierarchy in hierarchies():
        # walk, other than Path.rglob, does not mind what vanishes meanwhile.
        for directory, _, _ in os.walk(hierarchy / name, topdown=False):
            yield Path(directory)


def members(name: str) -> set[int]:
    """The pids in the cgroup `name` and below."""
    found: set[int] = set()
    for directory in directories(name):
        with contextlib.suppress(OSError):
            found.update(map(int, (directory / "cgroup.procs").read_text(encoding="ascii").split()))
    return found - {0}


def thaw(name: str) -> None:
    """Let the processes in the cgroup `name` and below run: a frozen one does not even die (v1's freezer, v2's)."""
    for directory in directories(name):
        for file, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(FileNotFoundError), (directory / file).open("r+", encoding="ascii") as switch:
                switch.write(text)


def remove(name: str) -> None:
    """Remove the cgroup `name` and all below it, which must be empty of processes."""
    for directory in directories(name):
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
