"""What a container may use and has used, read from its cgroups: on v1, hybrid and v2 hosts alike.

Paths in, values out: nothing is kept between two calls but open files, and nothing but the host's own cgroup mounts is
opened. Whoever shows a container its size (/proc/meminfo, /proc/stat, sysinfo(2), sched_getaffinity(2)) takes it from
here, so that all of them agree.

Three rules decide what is true of a container:

* A limit is the tightest from its cgroup up to the hierarchy's root. The container's root owns what lies *below* its
  own cgroup, so limits set there can only narrow what an inner container sees. memory.high is no limit: it slows down,
  and who exceeds it still gets memory.
* What is used is what its own cgroup, with all below, uses: not what siblings or the host use.
* What is available is what every level above leaves too, the host included: there a number that was right for the
  container alone would promise what nobody can give.

What is read may vanish meanwhile (an inner container ends), and its names and depth are the container's choice: a file
that is gone says nothing, a value that cannot be understood is no limit, and of a deep path the two ends are looked at.

Source: cgroups(7); Linux Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,cpuacct,cpusets,blkio-controller}.rst;
mm/memcontrol.c, kernel/sched/{core,cpuacct}.c, kernel/cgroup/cpuset.c, block/blk-cgroup.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read_kept as read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runtime.mountinfo import Mount

_LEVELS: Final = 24
"""Cgroups looked at from either end of a path: a container may nest as deep as a path can be long."""

_V1_UNLIMITED: Final = 1 << 62
"""v1 shows "no limit" as PAGE_COUNTER_MAX pages in bytes: LONG_MAX rounded down to a page."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup in one hierarchy, as directories: the cgroup itself first, then each above, as far up as it is mounted."""

    directories: tuple[str, ...]
    unified: bool
    """In cgroup v2's hierarchy."""

    @property
    def root(self) -> bool:
        """The cgroup is the hierarchy's root: what is counted there is everybody's."""
        return len(self.directories) == 1

    @property
    def owned(self) -> tuple[str, ...]:
        """Those in which not everybody is counted."""
        return self.directories if self.root else self.directories[:-1]


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where a container (or inner container) is, by controller; None where the host has no such hierarchy mounted."""

    memory: Cgroup | None = None
    cpu: Cgroup | None = None
    cpuacct: Cgroup | None = None
    cpuset: Cgroup | None = None
    blkio: Cgroup | None = None
    pids: Cgroup | None = None
    unified: Cgroup | None = None
    """Cgroup v2's hierarchy, which alone counts pressure."""
    own: Cgroup | None = None
    """Of the hierarchies, one in which the container has a cgroup of its own: its tasks are found there."""

    @classmethod
    def of(cls, directories: Mapping[str, tuple[str, ...]]) -> Cgroups:
        """From what `directories` answers. Controllers that no hierarchy of v1 has taken can only be v2's."""
        v2 = _cgroup(directories.get(""), unified=True)
        found = {name: _cgroup(directories.get(name), unified=False) or v2 for name in _CONTROLLERS}
        own = [place for place in (_cgroup(directories[name], unified=not name) for name in directories) if place]
        return cls(**found, unified=v2, own=next((place for place in own if not place.root), None))


_CONTROLLERS: Final = ("memory", "cpu", "cpuacct", "cpuset", "blkio", "pids")


def _cgroup(directories: tuple[str, ...] | None, *, unified: bool) -> Cgroup | None:
    return Cgroup(directories, unified) if directories else None


def directories(membership: str, table: Iterable[Mount]) -> dict[str, tuple[str, ...]]:
    """/proc/PID/cgroup's text `membership` as directories of the mounts in `table`: the cgroup itself first, then each
    above, as far up as its hierarchy is mounted. By controller as that file names them, "" for cgroup v2.

    Pure. Both texts are of the supervisor's own view: the paths are relative to the *reader's* cgroup namespace. What
    lies outside of that ("/../x"), or of every mount, is left out. A removed cgroup's is "/x (deleted)", which leads
    nowhere; those above still do. Names are the container's choice, of any byte but newline: decode them by os.fsdecode().
    """
    mounts, found = list(table), dict[str, tuple[str, ...]]()
    for line in membership.split("\n"):
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or not path.startswith("/") or (path + "/").startswith("/../"):
            continue
        chain = _chain("" if number == "0" else controllers, path, mounts)
        if chain:
            found.update(dict.fromkeys(controllers.split(","), chain))
    return found


def _chain(controllers: str, path: str, mounts: Iterable[Mount]) -> tuple[str, ...]:
    wanted = set(controllers.split(","))
    for mount in mounts:
        v1 = mount.fstype == "cgroup" and wanted <= set(mount.super_options)
        matches = v1 if controllers else mount.fstype == "cgroup2"
        root = mount.root.rstrip("/")
        if matches and (path + "/").startswith(root + "/"):
            point, parts = mount.point.rstrip("/"), path[len(root) :].split("/")[1:]
            levels: Sequence[int] = range(len([part for part in parts if part]), -1, -1)
            if len(levels) > 2 * _LEVELS:
                levels = [*levels[:_LEVELS], *levels[-_LEVELS:]]
            return tuple("/".join((point, *parts[:level])) for level in levels)
    return ()


# -- memory ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory controller's view, in bytes."""

    limit: int | None = None
    """The tightest up the path; None without any."""
    usage: int = 0
    swap_limit: int | None = None
    """Of swap alone (v1 counts memory and swap together)."""
    swap_usage: int = 0
    swap_counted: bool = False
    """Whether the kernel counts swap by cgroup at all (swapaccount=0 says no)."""
    headroom: int | None = None
    """What the limited levels leave: the least of limit − usage + file pages that can be given back."""
    stat: Mapping[str, int] = field(default_factory=dict)
    """memory.stat of the cgroup with all below, by v2's names."""


def memory(cgroups: Cgroups) -> Memory:
    """What the memory controller says; without one, no limit and nothing used."""
    place = cgroups.memory
    if place is None:
        return Memory()
    return _memory_v2(place) if place.unified else _memory_v1(place)


def _memory_v2(place: Cgroup) -> Memory:
    usage, stat, level = 0, dict[str, int](), None
    limit = headroom = swap_limit = swap_usage = None
    for directory in place.directories:
        if level is None and (used := _number(f"{directory}/memory.current")) is not None:
            level, usage, stat = directory, used, _stat(directory)
            swap_usage = _number(f"{directory}/memory.swap.current")
        most = _limit(f"{directory}/memory.max")
        if most is not None:
            own = directory == level
            used = usage if own else _number(f"{directory}/memory.current") or 0
            table = stat if own else _stat(directory)
            limit, headroom = _least(limit, most), _least(headroom, _left(most, used, table))
        swap_limit = _least(swap_limit, _limit(f"{directory}/memory.swap.max"))
    return Memory(limit, usage, swap_limit, swap_usage or 0, swap_usage is not None, headroom, stat)


def _memory_v1(place: Cgroup) -> Memory:
    """v1 names the tightest limits of all levels in each memory.stat, so that most levels need no look."""
    usage, stat, limit = 0, dict[str, int](), None
    for directory in place.owned:
        if (used := _number(f"{directory}/memory.usage_in_bytes")) is not None:
            usage, stat = used, _stat_v1(directory)
            break
    limit, both = (_below_v1_unlimited(stat.get(name)) for name in ("limit", "limit_with_swap"))
    headroom = None if limit is None else _left(limit, usage, stat)
    for directory in place.owned[1:] if limit is not None else ():
        most = _limit(f"{directory}/memory.limit_in_bytes")
        if most is not None:
            used = _number(f"{directory}/memory.usage_in_bytes") or 0
            headroom = _least(headroom, _left(most, used, _stat_v1(directory)))
    swap_limit = None if both is None else max(0, both - (limit or 0))
    return Memory(limit, usage, swap_limit, stat.get("swap", 0), "swap" in stat, headroom, stat)


_V1_STAT: Final = {
    b"hierarchical_memory_limit": "limit", b"hierarchical_memsw_limit": "limit_with_swap",
    b"total_rss": "anon", b"total_cache": "file", b"total_shmem": "shmem", b"total_mapped_file": "file_mapped",
    b"total_dirty": "file_dirty", b"total_writeback": "file_writeback", b"total_swap": "swap",
    b"total_swapcached": "swapcached", b"total_rss_huge": "anon_thp", b"total_inactive_anon": "inactive_anon",
    b"total_active_anon": "active_anon", b"total_inactive_file": "inactive_file",
    b"total_active_file": "active_file", b"total_unevictable": "unevictable",
}  # fmt: skip
"""v1's names for a cgroup with all below (memcg1_stat_format()), as v2 calls them."""
_V2_STAT: Final = {
    name.encode("ascii"): name
    for name in (
        "anon", "file", "shmem", "file_mapped", "file_dirty", "file_writeback", "swapcached", "anon_thp", "file_thp",
        "shmem_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "kernel_stack",
        "pagetables", "sec_pagetables", "percpu", "vmalloc", "zswap", "zswapped", "slab_reclaimable",
        "slab_unreclaimable",
    )
}  # fmt: skip


def _stat(directory: str) -> dict[str, int]:
    return _pick(read(f"{directory}/memory.stat"), _V2_STAT)


def _stat_v1(directory: str) -> dict[str, int]:
    stat = _pick(read(f"{directory}/memory.stat"), _V1_STAT)
    if (kernel := _number(f"{directory}/memory.kmem.usage_in_bytes")) is not None:
        stat["kernel"] = kernel
    return stat


def memory_events(cgroups: Cgroups) -> dict[str, int]:
    """What memory.stat counts and not measures, by v2's names, which are those of /proc/vmstat."""
    place = cgroups.memory
    if place is None:
        return {}
    found = _first_table(place, "memory.stat")
    if not place.unified:
        found = {name.removeprefix("total_"): value for name, value in found.items() if name.startswith("total_")}
        found = {
            name: value for name, value in found.items() if name not in ("pgpgin", "pgpgout")
        }  # pages charged, not kilobytes read
    kills = _first_table(place, "memory.events" if place.unified else "memory.oom_control")
    return {**found, "oom_kill": kills.get("oom_kill", 0)}


def _left(limit: int, usage: int, stat: Mapping[str, int]) -> int:
    """What can still be had below a limit: si_mem_available() of mm/show_mem.c without the host's watermarks."""
    reclaimable = sum(stat.get(name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable"))
    return min(limit, max(0, limit - usage) + min(reclaimable, usage))


# -- CPUs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cpus:
    """Which CPUs a container sees. Real numbers, as sched_setaffinity(2), getcpu(2) and cpusets count."""

    usable: tuple[int, ...]
    """Those its tasks may run on: its cpuset's, as far as online."""
    visible: tuple[int, ...]
    """As many of them, from the lowest, as its quota is worth, rounded up; never none."""


def cpus(cgroups: Cgroups, online: Sequence[int]) -> Cpus:
    """The CPUs by cpuset and quota; `online` are the host's."""
    allowed = _cpuset(cgroups.cpuset, "cpus")
    usable = tuple(cpu for cpu in online if cpu in allowed) if allowed else tuple(online)
    usable = usable or tuple(online)
    most = quota(cgroups)
    return Cpus(usable, usable if most is None else usable[: max(1, most)])


def quota(cgroups: Cgroups) -> int | None:
    """How many CPUs the tightest quota up the path is worth, rounded up; None without a quota."""
    place, least = cgroups.cpu, None
    for directory in place.directories if place else ():
        if place and place.unified:
            words = read(f"{directory}/cpu.max").split()
        else:
            words = read(f"{directory}/cpu.cfs_quota_us").split() + read(f"{directory}/cpu.cfs_period_us").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):  # noqa: PLR2004
            least = _least(least, -(-int(words[0]) // int(words[1])))
    return least


def memory_nodes(cgroups: Cgroups) -> tuple[int, ...]:
    """The NUMA nodes that the cpuset allows; empty when there is no cpuset that says so."""
    return tuple(sorted(_cpuset(cgroups.cpuset, "mems")))


def _cpuset(place: Cgroup | None, what: str) -> frozenset[int]:
    """The nearest effective set: a cpuset of v1 may have none of its own yet, and v2 has the file only where the
    controller is enabled.
    """
    names = (f"cpuset.{what}.effective", f"cpuset.effective_{what}", f"cpuset.{what}")
    for directory in place.directories if place else ():
        for name in names[:1] if place and place.unified else names[1:]:
            if numbers := parse_list(read(f"{directory}/{name}")):
                return frozenset(numbers)
    return frozenset()


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU time used since the cgroup was made, in nanoseconds."""

    user: int = 0
    """With nice."""
    system: int = 0
    nice: int = 0
    throttled: int = 0
    """Waited for the quota to be filled up again."""
    per_cpu: tuple[int, ...] = ()
    """Of v1 only: user and system together, by CPU number."""


_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_usage(cgroups: Cgroups) -> CpuUsage:
    """What cpuacct, or cpu.stat of v2, has counted. Only grows."""
    accounting = cgroups.cpuacct
    if accounting is None:
        return CpuUsage()
    if accounting.unified:
        stat = _first_table(accounting, "cpu.stat")
        user, system = stat.get("user_usec", 0), stat.get("system_usec", 0)
        nice, throttled = stat.get("nice_usec", 0), stat.get("throttled_usec", 0)
        return CpuUsage(user * 1000, system * 1000, min(nice, user) * 1000, throttled * 1000)
    stat = _first_table(accounting, "cpuacct.stat")
    each = tuple(_int(word) or 0 for word in _first(accounting, "cpuacct.usage_percpu").split())
    throttled = _first_table(cgroups.cpu, "cpu.stat").get("throttled_time", 0) if cgroups.cpu else 0
    return CpuUsage(stat.get("user", 0) * _TICK, stat.get("system", 0) * _TICK, 0, throttled, each)


# -- io, tasks, pressure --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Io:
    """One block device: bytes and requests."""

    read_bytes: int = 0
    written_bytes: int = 0
    discarded_bytes: int = 0
    reads: int = 0
    writes: int = 0
    discards: int = 0


_V2_IO: Final = {
    b"rbytes": "read_bytes", b"wbytes": "written_bytes", b"dbytes": "discarded_bytes",
    b"rios": "reads", b"wios": "writes", b"dios": "discards",
}  # fmt: skip
_V1_IO: Final = {
    "io_service_bytes": {b"Read": "read_bytes", b"Write": "written_bytes", b"Discard": "discarded_bytes"},
    "io_serviced": {b"Read": "reads", b"Write": "writes", b"Discard": "discards"},
}


def io(cgroups: Cgroups) -> dict[tuple[int, int], Io]:
    """What was read and written, by device (major, minor); only devices that were used."""
    place, found = cgroups.blkio, dict[tuple[int, int], Io]()
    if place is None or place.root:
        return found
    if place.unified:
        for line in _first(place, "io.stat").splitlines():
            number, *pairs = line.split()
            for pair in pairs:
                name, _, value = pair.partition(b"=")
                _count(found, number, _V2_IO.get(name), value)
        return found
    for policy in ("throttle", "bfq"):  # each counts only while it is in force for a device
        for suffix, names in _V1_IO.items():
            for line in _first(place, f"blkio.{policy}.{suffix}_recursive").splitlines():
                words = line.split()
                if len(words) == 3:  # noqa: PLR2004 - the last line is a total of all
                    _count(found, words[0], names.get(words[1]), words[2])
        if found:
            break
    return found


def _count(found: dict[tuple[int, int], Io], device: bytes, name: str | None, value: bytes) -> None:
    major, _, minor = device.partition(b":")
    number = _int(value)
    if name and number and major.isdigit() and minor.isdigit():
        setattr(found.setdefault((int(major), int(minor)), Io()), name, number)


def tasks(cgroups: Cgroups) -> int | None:
    """How many tasks (threads) there are; None where the host does not count them for this cgroup."""
    place = cgroups.pids
    for directory in place.directories[:1] if place and not place.root else ():
        return _number(f"{directory}/pids.current")
    return None


def pressure_directory(cgroups: Cgroups) -> str | None:
    """The v2 cgroup of the container's own that has cpu.pressure and its like; None where there is none."""
    place = cgroups.unified
    if place is None or place.root or not os.path.exists(f"{place.directories[0]}/cpu.pressure"):
        return None
    return place.directories[0]


# -- what a container is shown of its memory -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Of the host's /proc/meminfo, in bytes."""

    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0


@dataclass(frozen=True, slots=True)
class VisibleMemory:
    """What /proc/meminfo and sysinfo(2) both show, in bytes, so that they agree."""

    total: int
    free: int
    available: int
    cached: int
    """File pages, shared memory included, as the kernel's Cached."""
    shared: int
    swap_total: int
    swap_free: int


def visible_memory(used: Memory, host: HostMemory) -> VisibleMemory:
    """Limits never exceed what the host has; `available` never what the host and every level above leave."""
    total = host.total if used.limit is None else min(used.limit, host.total)
    usage = min(used.usage, total)
    free = total - usage
    headroom = _left(total, usage, used.stat)
    if used.headroom is not None:
        headroom = min(headroom, used.headroom)
    swap_total, swap_free = host.swap_total, host.swap_free
    if used.swap_counted:
        swap_total = min(host.swap_total, host.swap_total if used.swap_limit is None else used.swap_limit)
        swap_free = max(0, swap_total - used.swap_usage)
    return VisibleMemory(
        total,
        free,
        min(headroom, host.available),
        min(used.stat.get("file", 0), usage),
        min(used.stat.get("shmem", 0), usage),
        swap_total,
        swap_free,
    )


# -- files ----------------------------------------------------------------------------------------------------------


def parse_list(text: bytes) -> list[int]:
    """A cpulist ("0-3,8"); empty when it is none. Never more than the kernel's NR_CPUS allows."""
    found: list[int] = []
    for part in text.strip().split(b","):
        first, _, last = part.partition(b"-")
        if not first.isdigit() or not (last or first).isdigit() or int(last or first) > 1 << 14:
            return []
        found.extend(range(int(first), int(last or first) + 1))
    return found


def format_list(numbers: Iterable[int]) -> str:
    """Back into a cpulist; `numbers` ascend."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _first(place: Cgroup, name: str) -> bytes:
    """A file of the nearest cgroup that has it, the hierarchy's root excepted: there everybody is counted."""
    for directory in place.owned:
        if text := read(f"{directory}/{name}"):
            return text
    return b""


def _first_table(place: Cgroup, name: str) -> dict[str, int]:
    return _pairs(_first(place, name))


def _table(path: str) -> dict[str, int]:
    return _pairs(read(path))


def _pairs(text: bytes) -> dict[str, int]:
    """A flat keyed file."""
    words = text.decode("ascii", "replace").split()
    try:
        return dict(zip(words[::2], map(int, words[1::2]), strict=False))
    except ValueError:
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False) if value.isdigit()}


def _pick(text: bytes, wanted: Mapping[bytes, str]) -> dict[str, int]:
    """Some lines of a flat keyed file. Their order is the kernel's and never changes, so it is found out once."""
    words = text.split()
    places = _places.get((len(words), id(wanted)))
    if places is None:
        places = [(at, name, wanted[name]) for at, name in enumerate(words) if name in wanted]
        if words:
            _places[len(words), id(wanted)] = places
    return {ours: int(words[at + 1]) for at, name, ours in places if words[at] == name}


_places: Final[dict[tuple[int, int], list[tuple[int, bytes, str]]]] = {}


def _int(word: bytes) -> int | None:
    return int(word) if word.isdigit() else None


def _number(path: str) -> int | None:
    return _int(read(path).strip())


def _limit(path: str) -> int | None:
    """A number of bytes; None for "max", v1's largest number, and a file that is not there."""
    return _below_v1_unlimited(_number(path))


def _below_v1_unlimited(most: int | None) -> int | None:
    return None if most is None or most >= _V1_UNLIMITED else most


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
