"""A container's share of the machine: what several leaves are computed from, so that they agree.

Host files are the same for all containers and are kept for a second: many leaves of many containers change by far
faster expiry than what the host has.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.resources import Cgroups, HostMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.procfs.leaf import View
    from runtime.resources import Cpus, Memory

_KEEP: Final = 1_000_000_000
_KEEP_LIMITS: Final = 20_000_000
"""Nanoseconds. Less than it takes a runtime from setting the limits of a container to the first look of its program."""

ON_CPUS: Final = "on cpus"
"""Key of a view's state: what is called when it sees other CPUs than before, before anybody is shown them."""

_kept: dict[tuple[str, str], tuple[int, Any]] = {}


def host(path: str, make: Callable[[bytes], Any] | None = None) -> Any:
    """A file of the host, or what `make` (a module's function) makes of it; at most a second old."""
    key = (path, make.__qualname__ if make else "")
    now = time.monotonic_ns()
    found = _kept.get(key)
    if found is None or now - found[0] > _KEEP:
        content = read(path)
        found = _kept[key] = (now, make(content) if make else content)
    return found[1]


def cgroups(view: View) -> Cgroups:
    found: Cgroups | None = view.state.get("cgroups")
    if found is None:
        found = view.state["cgroups"] = Cgroups.of(view.cgroups)
    return found


def cpus(view: View) -> Cpus:
    """Which CPUs the container sees; as of 20 ms ago at most, for all leaves the same."""
    now = time.monotonic_ns()
    found: tuple[int, Cpus] | None = view.state.get("cpus")
    if found is None or now - found[0] > _KEEP_LIMITS:
        before, found = found, (now, cpus_now(view))
        view.state["cpus"] = found
        if before is None or before[1].visible != found[1].visible:
            with suppress(OSError):  # the container goes away; else who follows it will say what is wrong
                view.state.get(ON_CPUS, _nothing)()
    return found[1]


def _nothing() -> None:
    pass


def cpus_now(view: View) -> Cpus:
    """The same, as of this moment; readers go on to show what they showed."""
    there = host(f"{view.sys}/devices/system/cpu/online", resources.parse_list) or [0]
    return resources.cpus(cgroups(view), there)


def memory(view: View) -> Memory:
    return resources.memory(cgroups(view))


def host_memory(view: View) -> HostMemory:
    found: HostMemory = host(f"{view.proc}/meminfo", _host_memory)
    return found


def _host_memory(content: bytes) -> HostMemory:
    fields = dict(line.split(b":", 1) for line in content.splitlines() if b":" in line)

    def size(name: bytes) -> int:
        words = fields.get(name, b"0").split()
        return int(words[0]) << 10 if words else 0

    return HostMemory(size(b"MemTotal"), size(b"MemAvailable"), size(b"SwapTotal"), size(b"SwapFree"))


def boot_offset(view: View) -> int:
    """What the container's time namespace adds to CLOCK_BOOTTIME, in nanoseconds (time_namespaces(7)).

    Zero while nobody knows its init.
    """
    found = view.state.get("boot_offset")
    if found is None:
        found = 0
        for line in read(f"{view.proc}/{view.init_pid}/timens_offsets").splitlines() if view.init_pid else ():
            clock, seconds, nanoseconds = line.split()
            if clock == b"boottime":
                found = int(seconds) * 1_000_000_000 + int(nanoseconds)
                view.state["boot_offset"] = found
    return int(found)


def uptime(view: View) -> int:
    """Nanoseconds since the container was started, suspended time included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + boot_offset(view)


class Growing:
    """Counters that only grow, made of ones that may fall: with a cgroup that is removed, its part is gone."""

    __slots__ = ("_last", "shown")

    def __init__(self) -> None:
        self._last: dict[Any, int] = {}
        self.shown: dict[Any, int] = {}

    def __call__(self, key: Any, value: int) -> int:
        last = self._last.get(key, 0)
        self._last[key] = value
        shown = self.shown[key] = self.shown.get(key, 0) + max(0, value - last)
        return shown


def growing(view: View, leaf: str) -> Growing:
    """That leaf's counters."""
    found: Growing | None = view.state.get(leaf)
    if found is None:
        found = view.state[leaf] = Growing()
    return found
