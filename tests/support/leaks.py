"""What a test left behind on the host: a snapshot before, a snapshot after, and the difference by name.

Processes are looked at selectively, since a host does other things as well: what carries one of the given marks (an
engine's name or directory) in its environment, cgroup, command line or mount table, and all that descends from it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from support import cgroups
from support.mounts import mounts
from support.process import Process, descendants, processes
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EVIDENCE = ("environ", "cgroup", "cmdline", "mountinfo")


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to look."""

    marks: tuple[str, ...] = ()
    """Strings that make a process, and all its descendants, one of ours."""
    cgroups: tuple[str, ...] = ()
    """Our cgroups' names."""
    namespaces_of: tuple[int, ...] = (os.getpid(),)
    """Processes whose mount and network namespaces are looked into."""
    directories: tuple[Path, ...] = (Path("/run/interceptor"), Path("/var/lib/interceptor"), Path("/run/netns"))
    id_directory: Path | None = None
    """Where the id ranges are persisted."""
    fds_of: int | None = None
    """A process whose open files are counted by what they refer to."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything found, as text fit for a message; counted, as the same mount may be there twice."""

    processes: Counter[str] = field(default_factory=Counter)
    mounts: Counter[str] = field(default_factory=Counter)
    cgroups: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    fds: Counter[str] = field(default_factory=Counter)


def snapshot(scope: Scope) -> Snapshot:
    """Look now."""
    return Snapshot(
        processes=Counter(map(str, owned(scope.marks))),
        mounts=Counter(f"{mount} (namespace of {pid})" for pid in scope.namespaces_of for mount in mounts(pid)),
        cgroups=Counter(str(path) for name in scope.cgroups for path in cgroups.directories(name)),
        devices=Counter(f"{name} (namespace of {pid})" for pid in scope.namespaces_of for name in devices(pid)),
        paths=Counter(str(path) for directory in scope.directories for path in below(directory)),
        ids=Counter(id_ranges(scope.id_directory) if scope.id_directory else ()),
        fds=Counter(open_files(scope.fds_of) if scope.fds_of else ()),
    )


def leftovers(before: Snapshot, after: Snapshot) -> list[str]:
    """What is there now and was not before, kind by kind."""
    return [
        f"{kind.name}: {thing}"
        for kind in fields(Snapshot)
        for thing in (getattr(after, kind.name) - getattr(before, kind.name)).elements()
    ]


def expect_none(before: Snapshot, scope: Scope, *, within: float = 10.0) -> None:
    """Fail with the list of leftovers, unless they are gone `within` seconds (the end of a process is no instant)."""
    last: list[str] = []

    def gone() -> bool:
        last[:] = leftovers(before, snapshot(scope))
        return not last

    with contextlib.suppress(AssertionError):
        wait_for(gone, "nothing left behind", within=within)
    assert not last, "left behind:\n  " + "\n  ".join(last)


def owned(marks: Iterable[str]) -> list[Process]:
    """The processes that carry one of `marks`, and their descendants."""
    everything = list(processes())
    texts = {found.pid: "".join(map(found.text, EVIDENCE)) for found in everything}
    ours = descendants(everything, {pid for pid, text in texts.items() if any(mark in text for mark in marks)})
    return [found for found in everything if found.pid in ours]


def devices(pid: int) -> Iterator[str]:
    """The network devices in the namespace of process `pid`: proc_pid_net(5)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]:
            yield line.split(":")[0].strip()


def below(directory: Path) -> Iterator[Path]:
    """Everything in `directory`."""
    if directory.is_dir():
        yield from directory.rglob("*")


def id_ranges(directory: Path) -> Iterator[str]:
    """The ranges that the persisted links say are taken, with whose they are."""
    with contextlib.suppress(FileNotFoundError):
        for link in directory.iterdir():
            yield f"{link.name} -> {link.readlink()}"


def open_files(pid: int) -> Iterator[str]:
    """What the open files of process `pid` refer to, without the numbers of sockets and pipes, which always differ."""
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(fd.readlink()).split(":[")[0]
