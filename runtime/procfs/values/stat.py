"""/proc/stat of a container: the time that its CPUs worked for it, were idle, or were withheld.

The CPUs are those that it sees. Time used elsewhere (a quota of 1.5 CPUs shows two, and tasks run on all of the host's)
is theirs too, so that the lines add up to what the cgroup has counted. What the quota withheld is `steal`, as in a
virtual machine of that size: a container that is throttled is not idle. What no cgroup counts (interrupts, context
switches) would be the host's, and is 0.

Source: proc(5), "/proc/stat"; Linux fs/proc/stat.c, show_stat(); kernel/sched/fair.c, unthrottle_cfs_rq().
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import loadavg, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.procfs.leaf import View
    from runtime.resources import CpuUsage

_PATH: Final = "/proc/stat"
_PRESENT: Final = "/sys/devices/system/cpu/present"
_LINE: Final = 72
"""Bytes of a CPU's line after years of work."""
_REST: Final = 256
"""Bytes of the lines that are none's."""
_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_DEBT: Final = 1_000_000_000
"""Usage arrives in lumps of a tick; this much of it may be more than the time that has passed."""


class Cpu:
    """One CPU's counters in nanoseconds; each only grows."""

    __slots__ = ("debt", "idle", "nice", "steal", "system", "user")

    def __init__(self) -> None:
        self.user = self.nice = self.system = self.idle = self.steal = 0
        self.debt = 0
        """Time that was used before it had passed."""

    def line(self) -> str:
        used = f"{self.user // _TICK} {self.nice // _TICK} {self.system // _TICK}"
        return f"{used} {self.idle // _TICK} 0 0 0 {self.steal // _TICK} 0 0\n"


class CpuTimes:
    """What the CPUs of one container have done since its start; moved on by what its cgroup has counted."""

    __slots__ = ("_last", "_now", "_withheld", "cpus")

    def __init__(self) -> None:
        self.cpus: dict[int, Cpu] = {}
        self._last = resources.CpuUsage()
        self._now = 0
        self._withheld = 0
        """Throttled time that has not found a place yet: it is counted when it ends."""

    def advance(self, now: int, usage: CpuUsage, visible: Sequence[int]) -> None:
        """`now` is the container's uptime in nanoseconds. CPUs that are not `visible` any more keep what they have."""
        for number in visible:
            self.cpus.setdefault(number, Cpu())
        passed, last = max(0, now - self._now), self._last
        self._now, self._last = max(now, self._now), usage
        nice = max(0, usage.nice - last.nice)
        user, system = max(0, usage.user - last.user - nice), max(0, usage.system - last.system)
        weights = _weights(last.per_cpu, usage.per_cpu, visible)
        for name, amount in (("user", user), ("nice", nice), ("system", system)):
            for number, part in zip(visible, _parts(amount, weights), strict=True):
                cpu = self.cpus[number]
                setattr(cpu, name, getattr(cpu, name) + part)
                cpu.debt += part
        self._withheld = min(self._withheld + max(0, usage.throttled - last.throttled), _DEBT + passed * len(visible))
        self._rest(passed, [self.cpus[number] for number in visible])

    def total(self) -> Cpu:
        """The line of all CPUs; also of those that were seen once."""
        found = Cpu()
        for cpu in self.cpus.values():
            for name in ("user", "nice", "system", "idle", "steal"):
                setattr(found, name, getattr(found, name) + getattr(cpu, name))
        return found

    def _rest(self, passed: int, cpus: Sequence[Cpu]) -> None:
        """Time that was not used was withheld, as far as the quota says so, or idle."""
        rooms = []
        for cpu in cpus:
            rooms.append(max(0, passed - cpu.debt))
            cpu.debt = min(_DEBT, max(0, cpu.debt - passed))
        withheld = min(self._withheld, sum(rooms))
        self._withheld -= withheld
        for cpu, room, steal in zip(cpus, rooms, _parts(withheld, rooms), strict=True):
            cpu.steal += steal
            cpu.idle += room - steal


def _weights(before: Sequence[int], after: Sequence[int], visible: Sequence[int]) -> list[int]:
    """By what ratio usage is spread: as it was where the kernel counts by CPU (v1), else evenly."""
    if len(before) != len(after):
        before = [0] * len(after)
    each = [max(0, new - old) for old, new in zip(before, after, strict=True)]
    seen = [each[number] if number < len(each) else 0 for number in visible]
    elsewhere = (sum(each) - sum(seen)) // len(visible)
    return [part + elsewhere for part in seen]


def _parts(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` in parts of the ratio `weights` (evenly if they are all 0) that add up to it."""
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    parts, given, reached = [], 0, 0
    for weight in weights:  # up to here by the ratio, less what was given: none gets more than its weight allows
        reached += weight
        part = amount * reached // total - given
        given += part
        parts.append(part)
    return parts


def stat(view: View) -> bytes:
    """The file's content."""
    times = cpu_times(view)
    seen = share.cpus(view).visible
    load = loadavg.load(view)
    lines = "".join(f"cpu{number} {times.cpus[number].line()}" for number in seen)
    return (
        f"cpu  {times.total().line()}{lines}intr 0\nctxt 0\nbtime {boot_time(view)}\nprocesses {load.newest}\n"
        f"procs_running {load.running}\nprocs_blocked {load.blocked}\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n"
    ).encode("ascii")


def cpu_times(view: View) -> CpuTimes:
    """The container's CPU times, as of now."""
    times: CpuTimes = view.state.setdefault(_PATH, CpuTimes())
    times.advance(share.uptime(view), resources.cpu_usage(share.cgroups(view)), share.cpus(view).visible)
    return times


def boot_time(view: View) -> int:
    """btime: the host's, moved by the container's time namespace."""
    found: int = share.host(f"{view.proc}/stat", _boot_time)
    return found - share.boot_offset(view) // 1_000_000_000


def _boot_time(content: bytes) -> int:
    found = re.search(rb"^btime (\d+)$", content, re.MULTILINE)
    return int(found[1]) if found else 0


@cache
def longest() -> int:
    """Of all CPUs that the host has."""
    return _LINE * (1 + len(resources.parse_list(read(_PRESENT)))) + _REST


LEAVES = (Leaf(_PATH, Rung.FUSE, stat, longest=longest),)
"""/proc/uptime is the kernel's own, by the time namespace; only its second number, which nobody reads, is the host's."""
