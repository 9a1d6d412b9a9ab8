"""/proc/loadavg of a container: the kernel's own decay, of the container's own tasks.

The kernel counts every five seconds how many tasks run or wait uninterruptibly, and lets three averages follow that
number in fixed-point arithmetic. No cgroup has such a count, so the container's tasks are looked at, with the same
formula. What must not depend on the container is bounded: cgroups and tasks are looked at up to a number, and beyond it
the part that was seen stands for the whole.

The time between two looks may be longer than five seconds when nobody asks. What ran meanwhile is then known from the
CPU time used: at least as many tasks as CPUs were kept busy.

Source: proc(5), "/proc/loadavg"; Linux kernel/sched/loadavg.c, calc_load_n() and fixed_power_int();
include/linux/sched/loadavg.h; fs/proc/loadavg.c.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.procfs.leaf import View
    from runtime.resources import Cgroup

_PATH: Final = "/proc/loadavg"

FSHIFT: Final = 11
FIXED_1: Final = 1 << FSHIFT
EXP: Final = (1884, 2014, 2037)
"""1/exp(5s/1min), 1/exp(5s/5min), 1/exp(5s/15min) as fixed-point."""
PERIOD: Final = 5_000_000_000
"""LOAD_FREQ, without the tick that the kernel adds to get out of step with other timers; nanoseconds."""

_TASKS: Final = 2048
_CGROUPS: Final = 512


def calc_load(load: int, exp: int, active: int) -> int:
    """One step. `active` is a fixed-point number as `load` is."""
    moved = load * exp + active * (FIXED_1 - exp)
    if active >= load:
        moved += FIXED_1 - 1
    return moved // FIXED_1


def fixed_power_int(x: int, n: int) -> int:
    """x^n of fixed-point x, rounded as the kernel rounds."""
    result, half = FIXED_1, 1 << (FSHIFT - 1)
    while n:
        if n & 1:
            result = (result * x + half) >> FSHIFT
        n >>= 1
        x = (x * x + half) >> FSHIFT
    return result


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a look at the tasks has found."""

    running: int = 0
    blocked: int = 0
    total: int = 0
    newest: int = 0
    """The highest pid, as the container's init counts; 0 when unknown."""


class Load:
    """Three averages and the last look, of one container."""

    __slots__ = ("_busy", "_next", "averages", "newest", "tasks")

    def __init__(self, now: int, busy: int) -> None:
        """`now` is monotonic, `busy` the CPU time used so far; both in nanoseconds."""
        self.averages = [0, 0, 0]
        self.tasks = Tasks()
        self.newest = 0
        self._next = now
        self._busy = busy

    def due(self, now: int) -> bool:
        return now >= self._next

    def advance(self, now: int, busy: int, tasks: Tasks) -> None:
        """A period has passed, or several of which only the last one's `tasks` were looked at."""
        missed = (now - self._next) // PERIOD
        if missed > 0:
            used = max(0, busy - self._busy)
            self._follow(used * FIXED_1 // (now - self._next + PERIOD), missed)
        self._follow((tasks.running + tasks.blocked) * FIXED_1, 1)
        self._next += (missed + 1) * PERIOD
        self._busy, self.tasks = busy, tasks
        self.newest = max(self.newest, tasks.newest)

    def _follow(self, active: int, periods: int) -> None:
        self.averages = [
            calc_load(load, fixed_power_int(exp, periods), active) for load, exp in zip(self.averages, EXP, strict=True)
        ]

    @property
    def running(self) -> int:
        """Who asks is running."""
        return max(1, self.tasks.running)

    @property
    def blocked(self) -> int:
        return self.tasks.blocked


def load(view: View) -> Load:
    """The container's load, followed up to now."""
    now = time.monotonic_ns()
    found: Load | None = view.state.get(_PATH)
    if found is not None and not found.due(now):
        return found
    with view.state.setdefault("lock", threading.Lock()):
        return _advance(view)


def _advance(view: View) -> Load:
    """Readers and the follower may come at once: the first of them looks."""
    now = time.monotonic_ns()
    found: Load | None = view.state.get(_PATH)
    if found is not None and not found.due(now):
        return found
    place = share.cgroups(view)
    usage = resources.cpu_usage(place)
    if found is None:
        found = view.state[_PATH] = Load(now, usage.user + usage.system)
    found.advance(now, usage.user + usage.system, look(place.own, view.proc))
    return found


def loadavg(view: View) -> bytes:
    """The file's content."""
    found = load(view)
    total = resources.tasks(share.cgroups(view)) or found.tasks.total
    return text(found, max(total, found.running)).encode("ascii")


def text(found: Load, total: int) -> str:
    """As loadavg_proc_show() rounds and prints."""
    shown = [average + FIXED_1 // 200 for average in found.averages]
    parts = (f"{value >> FSHIFT}.{((value & (FIXED_1 - 1)) * 100) >> FSHIFT:02}" for value in shown)
    return f"{' '.join(parts)} {found.running}/{total} {found.newest}\n"


# -- the container's tasks ---------------------------------------------------------------------------------------------


def look(place: Cgroup | None, proc: str) -> Tasks:
    """How many tasks run and wait, of the cgroup and all below."""
    if place is None or place.root:
        return Tasks()
    tids, total, newest = list[bytes](), 0, b""
    name = "cgroup.threads" if place.unified else "tasks"
    for directory in _below(place.directories[0]):
        found = read(f"{directory}/{name}").split()
        total += len(found)
        tids.extend(found[: _TASKS - len(tids)])
        newest = max(newest, found[-1], key=_number) if found else newest
    states = [state(proc, tid.decode("ascii", "replace")) for tid in tids]
    running, blocked = states.count("R"), states.count("D")
    if len(tids) < total:
        running, blocked = (count * total // len(tids) for count in (running, blocked))
    return Tasks(running, blocked, total, _pid_inside(proc, newest.decode("ascii", "replace")))


def state(proc: str, tid: str) -> str:
    """The state letter of a task; "D" only where it counts as load (task_contributes_to_load() excludes the frozen)."""
    # The thread's own directory: /proc/TID/stat would add up the times of all threads of the process.
    content = read(f"{proc}/{tid}/task/{tid}/stat")
    end = content.rfind(b") ")  # the name before it is the task's own choice
    letter = content[end + 2 : end + 3].decode("ascii", "replace") if end > 0 else ""
    if letter == "D" and read(f"{proc}/{tid}/task/{tid}/wchan").startswith((b"__refrigerator", b"do_freezer_trap")):
        return "S"
    return letter


def _below(directory: str) -> Iterator[str]:
    """The cgroup and those below it, widest first, up to a number."""
    waiting = [directory]
    for looked_at in range(_CGROUPS):
        if looked_at == len(waiting):
            return
        yield waiting[looked_at]
        try:
            with os.scandir(waiting[looked_at]) as entries:
                for entry in entries:
                    if len(waiting) == _CGROUPS:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue


def _number(text_: bytes) -> int:
    return int(text_) if text_.isdigit() else 0


def _pid_inside(proc: str, tid: str) -> int:
    """The pid one namespace below the host's: what the container calls it."""
    for line in read(f"{proc}/{tid}/status").split(b"\n") if tid else ():
        if line.startswith(b"NSpid:"):
            numbers = line.split()[1:]
            return _number(numbers[1] if len(numbers) > 1 else numbers[0])
    return 0


LEAVES = (Leaf(_PATH, Rung.FUSE, loadavg),)
