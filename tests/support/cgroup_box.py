"""A cgroup of a test's own in every hierarchy (v1), or in the one there is (v2), with limits, as an engine makes one for a
container.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support import cgroups
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio")


class Box:
    """The cgroup `name`, or one below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unified = cgroups.is_unified()
        tops = [TOP] if self.unified else [TOP / controller for controller in CONTROLLERS]
        self.hierarchies = [top for top in tops if top.is_dir()]
        if self.unified:
            delegate((TOP / name).parent)
        for hierarchy in self.hierarchies:
            (hierarchy / name).mkdir()
        for file in () if self.unified else ("cpuset.cpus", "cpuset.mems"):
            parent = (TOP / "cpuset" / name).parent / file
            self.set("cpuset", file, parent.read_text(encoding="ascii"))

    def set(self, controller: str, file: str, value: str | int) -> None:
        directory = TOP if self.unified else TOP / controller
        (directory / self.name / file).write_text(str(value), encoding="ascii")

    def memory(self, limit: int) -> None:
        self.set("memory", "memory.max" if self.unified else "memory.limit_in_bytes", limit)

    def cpus(self, number: float) -> None:
        quota = round(number * 100_000)
        self.set("cpu", *(("cpu.max", f"{quota} 100000") if self.unified else ("cpu.cfs_quota_us", quota)))

    @contextlib.contextmanager
    def run(self, *argv: str) -> Iterator[int]:
        """A process in it; answers its pid. (v2 wants processes in leaves of the tree: cgroups(7).)"""
        name = f"{self.name}/init.scope" if self.unified else self.name
        if self.unified:
            delegate(TOP / self.name)
        for hierarchy in self.hierarchies:
            (hierarchy / name).mkdir(exist_ok=True)
        processes = " ".join(f"{hierarchy}/{name}/cgroup.procs" for hierarchy in self.hierarchies)
        script = f'for f in {processes}; do echo $$ > "$f" || exit 1; done; echo; exec "$@"'
        child = subprocess.Popen(["sh", "-c", script, "sh", *argv], stdout=subprocess.PIPE)
        try:
            assert child.stdout
            assert child.stdout.readline() == b"\n", "it has joined"
            yield child.pid
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()


def delegate(directory: Path) -> None:
    """What controllers a cgroup has, those below it have as well."""
    for controller in (directory / "cgroup.controllers").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


@contextlib.contextmanager
def box(label: str) -> Iterator[Box]:
    """Removed again with all below it."""
    name = f"interceptor-test-{label}-{secrets.token_hex(4)}"
    try:
        yield Box(name)
    finally:
        kill(name)
        cgroups.remove(name)


def kill(name: str) -> None:
    """Kill what is in the cgroup `name` and below, and wait until it has left."""

    def left() -> bool:
        pids = cgroups.members(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for(left, f"processes leave cgroup {name}", within=10)


def missing() -> str | None:
    """Why this host cannot have one; None when it can."""
    unified = cgroups.is_unified()
    wanted = {"memory", "cpu", "cpuset"} | (set() if unified else {"cpuacct"})
    absent = sorted(wanted - cgroups.controllers())
    return f"cgroups here have no controller {', '.join(absent)}" if absent else None
