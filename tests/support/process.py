"""Processes of the host, identified so that a reused pid is never mistaken for the process that had it.

Source: proc_pid_stat(5), proc_pid_environ(5), pidfd_open(2), pidfd_send_signal(2).
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A pid with its start time (clock ticks since boot, field 22 of /proc/PID/stat), which together are unique."""

    pid: int
    started: int
    comm: str
    state: str = field(compare=False)
    parent: int = field(compare=False)

    @property
    def proc(self) -> Path:
        return Path("/proc") / str(self.pid)

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        now = process(self.pid)
        return now is not None and now.identity == self.identity and now.state != "Z"

    def text(self, name: str) -> str:
        """A file of its /proc directory, NULs as newlines; empty when the process is gone or hides it."""
        try:
            return (self.proc / name).read_bytes().replace(b"\0", b"\n").decode(errors="replace")
        except OSError:
            return ""

    def link(self, name: str) -> str:
        """A symbolic link of its /proc directory; empty when the process is gone or has none."""
        try:
            return str((self.proc / name).readlink())
        except OSError:
            return ""

    def kill(self, number: signal.Signals) -> None:
        """Signal this very process; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)

    def __str__(self) -> str:
        arguments = " ".join(self.text("cmdline").split("\n")).strip()
        return f"{self.comm}[{self.pid}] {'(zombie)' if self.state == 'Z' else arguments[:120]}".rstrip()


def process(pid: int) -> Process | None:
    """The process that has `pid` now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    comm, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(pid=pid, started=int(fields[19]), comm=comm, state=fields[0], parent=int(fields[1]))


def processes() -> Iterator[Process]:
    """All of the host's, kernel threads left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := process(int(entry.name))) and 2 not in (found.pid, found.parent):
            yield found


def descendants(among: Iterable[Process], roots: set[int]) -> set[int]:
    """The pids in `roots`, and those of `among` that they are ancestors of."""
    found, grown = set(roots), set(roots)
    children = [(candidate.pid, candidate.parent) for candidate in among]
    while grown:
        grown = {pid for pid, parent in children if parent in found} - found
        found |= grown
    return found
