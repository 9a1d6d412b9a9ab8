"""Cgroup hierarchies as directories of ordinary files: tests/data/cgroups holds what kernels showed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import resources
from runtime.mountinfo import Mount

if TYPE_CHECKING:
    from runtime.resources import Cgroups

_DATA = Path(__file__).parents[1] / "data/cgroups"
CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "blkio", "pids")


class Tree:
    """The hierarchy (v2) or hierarchies (v1) recorded as `name`, below `directory`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory
        self.unified = name.startswith("v2")
        for path, text in json.loads((_DATA / f"{name}.json").read_text(encoding="ascii")).items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / path).write_text(text, encoding="ascii")

    def mounts(self) -> list[Mount]:
        """As /proc/self/mountinfo of a host with just these hierarchies."""
        if self.unified:
            return [Mount(1, 0, "/", str(self.directory), "cgroup2", "cgroup2", ("rw",))]
        return [
            Mount(number, 0, "/", str(self.directory / name), "cgroup", "cgroup", ("rw", name))
            for number, name in enumerate(CONTROLLERS, 1)
        ]

    def directories(self, path: str) -> dict[str, tuple[str, ...]]:
        """Of a process in the cgroup `path`."""
        lines = [f"0::{path}"] if self.unified else [f"{n}:{name}:{path}" for n, name in enumerate(CONTROLLERS, 1)]
        return resources.directories("".join(f"{line}\n" for line in lines), self.mounts())

    def cgroups(self, path: str) -> Cgroups:
        return resources.Cgroups.of(self.directories(path))
