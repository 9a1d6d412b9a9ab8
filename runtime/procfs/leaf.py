"""What a leaf is: one file of /proc or /sys that shows a container instead of the host. Values only, nothing is opened.

A leaf's content comes from a pure reader, `read(view)`. The mechanism around it (server, mounts) promises:

* one call at a time for each view, and at most one in ten milliseconds for each leaf of it: what a call answers is shown
  to everybody until it expires, so that no reader sees half of one answer and half of the next;
* `view.state` is kept between calls, and for each view apart: monotonic counters remember there what they said last;
* an OSError or ValueError of a reader leaves the last content in place, and is logged once.

Source: docs/design.md, section 2 (the rungs).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interceptor.native.fd import Fd


class Rung(enum.IntEnum):
    """The ladder of docs/design.md: the cheapest mechanism that is faithful."""

    NATIVE = 1
    FILTER = 2
    FILE = 3
    TABLE = 4
    FUSE = 5
    HANDLER = 6


@dataclass(frozen=True, slots=True)
class View:
    """Whose view of the machine: a container's, or that of an inner container."""

    cgroups: Mapping[str, tuple[str, ...]]
    """Controller → directories of its cgroup and of those above, nearest first, as far up as the host's mount of that
    hierarchy reaches. Keys are the controllers of version 1 as /proc/PID/cgroup names them ("memory", "cpu", "cpuacct",
    "cpuset", "blkio", "pids", "name=systemd", …) and "" for the unified hierarchy. On a hybrid host a controller is where
    its key is; where there is none, it can only be in "" (cgroups(7)). A directory may vanish at any time.
    """
    proc: str = "/proc"
    """The host's procfs, readable at any time."""
    sys: str = "/sys"
    """The host's sysfs."""
    init_pid: int | None = None
    """Host pid of the container's init, for its namespaces; None while nobody knows it. It may have died."""
    outer: View | None = None
    """The view of the container around an inner one; None for a container of ours."""
    name: str = ""
    """The container's id; an inner one's is that of the container around it."""
    state: dict[str, Any] = field(default_factory=dict, compare=False)
    """What readers remember from one call to the next; keys begin with the leaf's path."""


Read = Callable[[View], bytes]

Write = Callable[[View, bytes, bytes], bytes]
"""(view, content now, what was written) → content from now on. OSError(EINVAL, …) refuses as the kernel would."""


Watch = Callable[[View, bytes], Fd]
"""(view, what was written) → what has POLLPRI when it has happened. OSError's errno goes to the writer."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One file that is mounted over its namesake. `path` is absolute, as the host spells it: "/proc/meminfo"."""

    path: str
    rung: Rung
    read: Read
    """The content, whole, as the kernel would format it. Of a remembered value: what it is before anybody wrote it."""
    write: Write | None = None
    """None: read-only (EACCES for those who may not override modes, EROFS for the others)."""
    mode: int = 0o444
    """Permission bits, as the kernel's own file has them."""
    host: Read | None = None
    """The host's value, for people who compare; None: the host's file of that path."""
    watch: Watch | None = None
    """What is written says what poll(2) of that open file waits for; None: it waits for nothing."""
    longest: Callable[[], int] | None = None
    """How many bytes its text may have on this host, the same as long as it runs; None: a page holds it everywhere."""
