"""A cgroup of a test's own in every v1 hierarchy, with limits, as an engine makes one for a container."""

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
        self.hierarchies = [TOP / controller for controller in CONTROLLERS if (TOP / controller).is_dir()]
        for hierarchy in self.hierarchies:
            (hierarchy / name).mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            parent = (TOP / "cpuset" / name).parent / file
            self.set("cpuset", file, parent.read_text(encoding="ascii"))

    def set(self, controller: str, file: str, value: str | int) -> None:
        (TOP / controller / self.name / file).write_text(str(value), encoding="ascii")

    def memory(self, limit: int) -> None:
        self.set("memory", "memory.limit_in_bytes", limit)

    def cpus(self, number: float) -> None:
        self.set("cpu", "cpu.cfs_quota_us", round(number * 100_000))

    @contextlib.contextmanager
    def run(self, *argv: str) -> Iterator[int]:
        """A process in it; answers its pid."""
        processes = " ".join(f"{hierarchy}/{self.name}/cgroup.procs" for hierarchy in self.hierarchies)
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
    absent = [name for name in ("memory", "cpu", "cpuacct", "cpuset") if not (TOP / name / "cgroup.procs").exists()]
    return f"no v1 hierarchy of {', '.join(absent)}" if absent else None
