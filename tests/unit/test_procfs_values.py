"""The computed leaves, from recorded cgroup trees and a made-up host of eight CPUs."""

from __future__ import annotations

import math
import re
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cgroup_trees import Tree

from runtime.procfs import views
from runtime.procfs.follow import Follower
from runtime.procfs.leaf import View
from runtime.procfs.values import LEAVES, cpuinfo, cpus, dmi, loadavg, meminfo, pressure, share, stat, sysinfo
from runtime.procfs.values.loadavg import FIXED_1, PERIOD, Load, Tasks
from runtime.procfs.values.stat import CpuTimes
from runtime.procfs.values.sysinfo import Sysinfo
from runtime.resources import Cgroup, CpuUsage

if TYPE_CHECKING:
    from pathlib import Path

SCOPE = "/system.slice/docker-1.scope"
SECOND = 1_000_000_000

MEMINFO = """\
MemTotal:        8388608 kB
MemFree:         1000000 kB
MemAvailable:    6144000 kB
Buffers:          500000 kB
Cached:          4000000 kB
SwapCached:         1234 kB
Active(anon):     111111 kB
SwapTotal:       2097152 kB
SwapFree:        1048576 kB
Dirty:               999 kB
AnonPages:        123456 kB
Shmem:             12345 kB
KReclaimable:       9876 kB
Slab:              98765 kB
SReclaimable:       9876 kB
SUnreclaim:        88889 kB
VmallocTotal:   34359738367 kB
VmallocUsed:       22924 kB
SomethingNew:       4711 kB
HugePages_Total:      12
Hugepagesize:       2048 kB
DirectMap4k:       28672 kB
"""
CPU = """\
processor\t: {n}
vendor_id\t: GenuineIntel
physical id\t: {package}
siblings\t: 4
core id\t\t: {core}
cpu cores\t: 2
flags\t\t: fpu vme
power management:

"""
HOST = {
    "proc/meminfo": MEMINFO,
    "proc/cpuinfo": "".join(CPU.format(n=n, package=n // 4, core=n // 2 % 2) for n in range(8)),
    "proc/stat": "cpu  1 2 3\nbtime 1700000000\nprocesses 7\n",
    "proc/diskstats": "   8       0 sda 1 2 3\n 253       1 dm-1 1 2 3\n   8      16 sdb 1 2 3\n",
    "proc/vmstat": "nr_free_pages 99\nnr_inactive_anon 99\npgpgin 99\npgfault 99\npgscan 99\noom_kill 99\nnuma_hit 99\n",
    "proc/pressure/cpu": "some avg10=9.00 avg60=9.00 avg300=9.00 total=9\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/pressure/irq": "full avg10=9.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/77/timens_offsets": "monotonic        -900         0\nboottime        -1000 500000000\n",
    "sys/devices/system/cpu/online": "0-7\n",
    "sys/devices/system/cpu/possible": "0-9\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    "sys/devices/system/node/node0/cpumap": "0f\n",
    "sys/devices/system/node/node1/cpulist": "4-7\n",
    "sys/devices/system/node/node1/cpumap": "00000000,000000f0\n",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:        4194304 kB\nNode 0 MemFree:          100000 kB\n"
    "Node 0 MemUsed:         4094304 kB\nNode 0 FilePages:           100 kB\nNode 0 HugePages_Total:     0\n",
}


@pytest.fixture
def v2(tmp_path: Path) -> Tree:
    for name, text in HOST.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    return Tree("v2", tmp_path / "cgroup")


def view(tree: Tree, path: str = SCOPE, init: int | None = 77) -> View:
    root = tree.directory.parent
    return View(tree.directories(path), proc=str(root / "proc"), sys=str(root / "sys"), init_pid=init)


def leaf(path: str, seen: View) -> str:
    return next(leaf for leaf in LEAVES if leaf.path == path).read(seen).decode("ascii")


# -- meminfo, swaps, vmstat --------------------------------------------------------------------------------------------


def test_meminfo_has_the_hosts_lines_and_the_containers_numbers(v2: Tree) -> None:
    content = leaf("/proc/meminfo", view(v2))
    assert [line.partition(":")[0] for line in content.splitlines()] == [
        line.partition(":")[0] for line in MEMINFO.splitlines()
    ]
    found = {name: int(value) for name, value in re.findall(r"^(.+?): +(\d+)(?: kB)?$", content, re.MULTILINE)}
    assert found == {
        "MemTotal": 512 << 10, "MemFree": 312 << 10, "MemAvailable": 390 << 10, "Buffers": 0, "Cached": 80 << 10,
        "SwapCached": 8, "Active(anon)": 50 << 10, "SwapTotal": 256 << 10, "SwapFree": 252 << 10, "Dirty": 44,
        "AnonPages": 100 << 10, "Shmem": 10 << 10, "KReclaimable": 8 << 10, "Slab": 12 << 10, "SReclaimable": 8 << 10,
        "SUnreclaim": 4 << 10, "VmallocTotal": 34359738367, "VmallocUsed": 4, "SomethingNew": 0,
        "HugePages_Total": 12, "Hugepagesize": 2048, "DirectMap4k": 0,
    }  # fmt: skip


def test_meminfo_is_aligned_as_the_kernel_aligns_it() -> None:
    lines = MEMINFO.encode("ascii").splitlines(keepends=True)
    numbers = {name.decode(): int(value) << 10 for name, value in re.findall(rb"(\S+): +(\d+) kB", MEMINFO.encode())}
    assert meminfo.Template(MEMINFO.encode("ascii")).fill(numbers) == b"".join(lines)


def test_an_inner_container_sees_its_own(v2: Tree) -> None:
    inner = view(v2, f"{SCOPE}/docker/inner")
    assert leaf("/proc/meminfo", inner).startswith("MemTotal:          65536 kB\nMemFree:           49152 kB\n")
    assert leaf("/sys/devices/system/cpu/online", inner) == "2\n"
    assert leaf("/proc/swaps", inner).count("\n") == 1


def test_swaps_is_what_meminfo_says(v2: Tree) -> None:
    header, line = leaf("/proc/swaps", view(v2)).splitlines()
    assert header.split() == ["Filename", "Type", "Size", "Used", "Priority"]
    assert line.split() == ["none", "virtual", str(256 << 10), str(4 << 10), "0"]


def test_vmstat_counts_the_container(v2: Tree) -> None:
    seen = view(v2)
    found = dict(line.split() for line in leaf("/proc/vmstat", seen).splitlines())
    assert found == {
        "nr_free_pages": str(312 << 8), "nr_inactive_anon": "15360", "pgpgin": "1288", "pgfault": "123456",
        "pgscan": "300", "oom_kill": "1", "numa_hit": "0",
    }  # fmt: skip


# -- CPUs --------------------------------------------------------------------------------------------------------------


def test_every_file_shows_the_same_cpus(v2: Tree) -> None:
    seen = view(v2)
    assert leaf("/sys/devices/system/cpu/online", seen) == "2-3\n"
    assert leaf("/sys/devices/system/cpu/present", seen) == "2-3\n"
    assert leaf("/sys/devices/system/cpu/offline", seen) == "0-1,4-9\n"
    assert re.findall(r"^processor\t: (\d+)$", leaf("/proc/cpuinfo", seen), re.MULTILINE) == ["2", "3"]
    assert re.findall(r"^cpu(\d+) ", leaf("/proc/stat", seen), re.MULTILINE) == ["2", "3"]
    assert leaf("/sys/devices/system/node/node0/cpulist", seen) == "2-3\n"
    assert leaf("/sys/devices/system/node/node0/cpumap", seen) == "0c\n"
    assert leaf("/sys/devices/system/node/node1/cpulist", seen) == "\n"
    assert leaf("/sys/devices/system/node/node1/cpumap", seen) == "00000000,00000000\n"


def test_possible_cpus_stay_the_hosts() -> None:
    """Arrays are sized by it and indexed with getcpu(2), which answers any CPU of the cpuset."""
    assert "/sys/devices/system/cpu/possible" not in {leaf.path for leaf in LEAVES}


def test_cpuinfo_counts_siblings_and_cores_that_are_seen() -> None:
    content = HOST["proc/cpuinfo"].encode("ascii")

    def counted(visible: tuple[int, ...]) -> list[tuple[bytes, bytes]]:
        found = cpuinfo.select(content, visible)
        return list(
            zip(re.findall(rb"siblings\t: (\d+)", found), re.findall(rb"cpu cores\t: (\d+)", found), strict=True)
        )

    assert counted((2, 3)) == [(b"2", b"1")] * 2
    assert counted((0, 2, 4)) == [(b"2", b"2"), (b"2", b"2"), (b"1", b"1")]
    assert cpuinfo.select(content, range(8)) == content


def test_limits_that_change_are_followed(v2: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5 * SECOND
    monkeypatch.setattr(share.time, "monotonic_ns", lambda: now)
    seen = view(v2)
    assert leaf("/sys/devices/system/cpu/online", seen) == "2-3\n"
    v2.write("system.slice/docker-1.scope/cpu.max", "50000 100000\n")
    v2.write("system.slice/docker-1.scope/memory.max", str(256 << 20))
    now += SECOND // 5
    assert leaf("/sys/devices/system/cpu/online", seen) == "2\n"
    assert leaf("/proc/cpuinfo", seen).count("processor") == 1
    assert leaf("/proc/meminfo", seen).startswith("MemTotal:         262144 kB\n")


def test_a_nodes_memory_is_its_part_of_the_containers(v2: Tree) -> None:
    assert leaf("/sys/devices/system/node/node0/meminfo", view(v2)) == (
        "Node 0 MemTotal:         262144 kB\nNode 0 MemFree:          159744 kB\n"
        "Node 0 MemUsed:          102400 kB\nNode 0 FilePages:         40960 kB\nNode 0 HugePages_Total:     0\n"
    )


# -- stat --------------------------------------------------------------------------------------------------------------


def times_of(cpu: stat.Cpu) -> tuple[int, ...]:
    return cpu.user, cpu.nice, cpu.system, cpu.idle, cpu.steal


USAGE = st.builds(
    lambda user, system, nice, throttled, each: CpuUsage(user, system, min(nice, user), throttled, tuple(each)),
    *[st.integers(0, 3 * SECOND)] * 4, st.lists(st.integers(0, 2 * SECOND), min_size=4, max_size=4) | st.just([]),
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2 * SECOND), USAGE, st.integers(1, 4)), min_size=1, max_size=30))
def test_cpu_times_only_grow_and_add_up(steps: list[tuple[int, CpuUsage, int]]) -> None:
    times, now, usage, before = CpuTimes(), 0, CpuUsage(), dict[int, tuple[int, ...]]()
    for passed, more, seen in steps:
        now += passed
        each = tuple(map(sum, zip(usage.per_cpu or (0,) * 4, more.per_cpu, strict=False))) or usage.per_cpu
        usage = CpuUsage(
            usage.user + more.user, usage.system + more.system, usage.nice + more.nice,
            usage.throttled + more.throttled, each,
        )  # fmt: skip
        times.advance(now, usage, range(seen))
        for number, cpu in times.cpus.items():
            assert all(new >= old for new, old in zip(times_of(cpu), before.get(number, (0,) * 5), strict=True))
            before[number] = times_of(cpu)
        total = times.total()
        assert (total.user + total.nice, total.nice, total.system) == (usage.user, usage.nice, usage.system)
        assert total.steal <= usage.throttled


def test_what_was_not_used_was_idle() -> None:
    times = CpuTimes()
    times.advance(10 * SECOND, CpuUsage(user=4 * SECOND), (0, 1))
    assert [times_of(times.cpus[n]) for n in (0, 1)] == [(2 * SECOND, 0, 0, 8 * SECOND, 0)] * 2
    times.advance(11 * SECOND, CpuUsage(user=5 * SECOND, system=SECOND), (0, 1))
    assert times.total().idle == 16 * SECOND, "both were busy for that second"


def test_what_the_quota_withheld_was_stolen() -> None:
    """1.5 CPUs show two: with three busy tasks they are busy for three quarters, and never idle."""
    times, now = CpuTimes(), 0
    times.advance(0, CpuUsage(), (0, 1))
    for _ in range(100):
        now += SECOND // 10
        times.advance(now, CpuUsage(user=now * 3 // 2, throttled=now // 2), (0, 1))
    total = times.total()
    assert (total.user, total.steal, total.idle) == (15 * SECOND, 5 * SECOND, 0)


def test_usage_is_where_it_was_as_far_as_the_kernel_says() -> None:
    times = CpuTimes()
    times.advance(SECOND, CpuUsage(), (2, 3))
    times.advance(2 * SECOND, CpuUsage(user=SECOND, per_cpu=(0, 0, SECOND, 0)), (2, 3))
    assert (times.cpus[2].user, times.cpus[3].user) == (SECOND, 0)
    times.advance(3 * SECOND, CpuUsage(user=2 * SECOND, per_cpu=(SECOND, 0, SECOND, 0)), (2, 3))
    assert (times.cpus[2].user, times.cpus[3].user) == (3 * SECOND // 2, SECOND // 2), "elsewhere counts for both"


def test_usage_that_comes_in_lumps_is_not_idle_time_too() -> None:
    times, now = CpuTimes(), 0
    for step in range(1, 1001):  # a tick's worth of usage at every third look of 3⅓ ms
        now += SECOND // 300
        times.advance(now, CpuUsage(user=step // 3 * SECOND // 100), (0,))
    total = times.total()
    assert total.user + total.idle <= now + SECOND // 100


def test_stat_is_the_containers(v2: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share.time, "clock_gettime_ns", lambda _clock: 1100 * SECOND)
    lines = leaf("/proc/stat", view(v2)).splitlines()
    assert [line.split()[0] for line in lines] == [
        "cpu", "cpu2", "cpu3", "intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq",
    ]  # fmt: skip
    up = 100.5  # by the time namespace of its init
    assert lines[0] == f"cpu  4000 100 2000 {int((2 * up - 61 - 3) * 100)} 0 0 0 300 0 0"
    assert lines[1] == f"cpu2 2000 50 1000 {int((up - 30.5 - 1.5) * 100)} 0 0 0 150 0 0"
    assert lines[5] == "btime 1700001000"


# -- loadavg -----------------------------------------------------------------------------------------------------------


def follow(load: Load, running: int, seconds: int, start: int) -> int:
    for now in range(start, start + seconds * SECOND, PERIOD):
        load.advance(now, 0, Tasks(running=running))
    return start + seconds * SECOND


def test_three_spinning_tasks_are_a_load_of_three_by_the_kernels_time_constants() -> None:
    load, now = Load(0, 0), 0
    for minutes in (1, 1, 3, 10):
        now = follow(load, 3, minutes * 60, now)
        for average, constant in zip(load.averages, (60, 300, 900), strict=True):
            exact = 3 * (1 - math.exp(-now / SECOND / constant))
            assert average / FIXED_1 == pytest.approx(exact, abs=0.02)
    assert loadavg.text(load, 5).startswith("3.00 2.87 1.89 3/5 ")
    follow(load, 0, 3600, now)
    assert load.averages[0] == 0, "it falls to nothing, and not to nearly nothing"


def test_an_idle_container_has_no_load() -> None:
    load = Load(0, 0)
    follow(load, 0, 600, 0)
    assert loadavg.text(load, 1) == "0.00 0.00 0.00 1/1 0\n"


def test_time_in_which_nobody_asked_counts_by_what_was_used() -> None:
    load = Load(0, 0)
    load.advance(600 * SECOND, 1200 * SECOND, Tasks(running=2))
    assert load.averages[0] / FIXED_1 == pytest.approx(2, abs=0.05)
    load.advance(1205 * SECOND, 1200 * SECOND, Tasks())
    assert load.averages[0] / FIXED_1 == pytest.approx(0, abs=0.05)
    assert not load.due(1209 * SECOND)
    assert load.due(1210 * SECOND)


@given(st.integers(0, 8 * FIXED_1), st.sampled_from(loadavg.EXP), st.integers(0, 40), st.integers(1, 200))
def test_many_steps_at_once_are_nearly_the_same_as_one_by_one(start: int, exp: int, active: int, periods: int) -> None:
    one_by_one = start
    for _ in range(periods):
        one_by_one = loadavg.calc_load(one_by_one, exp, active * FIXED_1)
    at_once = loadavg.calc_load(start, loadavg.fixed_power_int(exp, periods), active * FIXED_1)
    assert abs(one_by_one - at_once) / FIXED_1 < 0.01 * max(1, active, start / FIXED_1) + 0.15


def test_the_tasks_of_the_cgroup_and_all_below_are_counted(tmp_path: Path) -> None:
    group, proc = tmp_path / "box", tmp_path / "proc"
    (group / "inner/x").mkdir(parents=True)
    for directory, tids in ((group, "1\n"), (group / "inner", ""), (group / "inner/x", "2\n3\n4\n5\n")):
        (directory / "cgroup.threads").write_text(tids, encoding="ascii")
    states = {1: "(a) R (b) S", 2: "(x) R", 3: "(x) D", 4: "(x) D"}
    for tid, text in states.items():
        task = proc / str(tid) / "task" / str(tid)
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{tid} {text} 0 0", encoding="ascii")
        (task / "wchan").write_text("__refrigerator" if tid == 4 else "io_schedule", encoding="ascii")
    (proc / "5").mkdir()
    (proc / "5/status").write_text("Name:\tx\nNSpid:\t5\t17\t3\n", encoding="ascii")
    found = loadavg.look(Cgroup((str(group), str(tmp_path)), unified=True), str(proc))
    assert found == Tasks(running=1, blocked=1, total=5, newest=17), "a frozen task is no load; 5 is gone already"


def test_the_tasks_of_everybody_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "cgroup.threads").write_text("1\n", encoding="ascii")
    assert loadavg.look(Cgroup((str(tmp_path),), unified=True), "/proc") == Tasks()


def test_of_too_many_cgroups_and_tasks_a_part_stands_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadavg, "_TASKS", 10)
    monkeypatch.setattr(loadavg, "_CGROUPS", 5)
    for number in range(20):
        (tmp_path / f"box/{number}").mkdir(parents=True)
        (tmp_path / f"box/{number}/tasks").write_text("".join(f"{tid}\n" for tid in range(100)), encoding="ascii")
    monkeypatch.setattr(loadavg, "state", lambda _proc, tid: "R" if int(tid) % 2 else "S")
    found = loadavg.look(Cgroup((str(tmp_path / "box"), str(tmp_path)), unified=False), str(tmp_path))
    assert (found.running, found.total) == (200, 400)


# -- disks and pressure ------------------------------------------------------------------------------------------------


def test_diskstats_has_the_devices_that_were_used(v2: Tree) -> None:
    seen = view(v2)
    assert leaf("/proc/diskstats", seen) == (
        "   8       0 sda 40 0 2560 0 1 0 8 0 0 0 0 0 0 0 0 0 0\n"
        " 253       1 dm-1 2 0 16 0 0 0 0 0 0 0 0 1 0 32 0 0 0\n"
    )
    v2.write("system.slice/docker-1.scope/io.stat", "8:0 rbytes=512 wbytes=4096 rios=1 wios=1 dbytes=0 dios=0\n")
    assert " sda 40 0 2560 0 1 0 8 " in leaf("/proc/diskstats", seen), "with an inner cgroup its part may go away"
    v2.write("system.slice/docker-1.scope/io.stat", "8:0 rbytes=1024 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0\n")
    assert " sda 41 0 2561 0 1 0 8 " in leaf("/proc/diskstats", seen)


def test_pressure_is_the_cgroups_or_none(v2: Tree) -> None:
    seen = view(v2)
    assert leaf("/proc/pressure/cpu", seen).startswith("some avg10=1.00 avg60=2.00 avg300=0.50 total=1234567\n")
    assert pressure.source(seen, "cpu") == f"{v2.directory}{SCOPE}/cpu.pressure"
    assert leaf("/proc/pressure/irq", seen) == "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert leaf("/proc/pressure/cpu", view(v2, "/")) == (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ), "nobody else's"


def test_a_container_that_is_gone_breaks_no_leaf(v2: Tree) -> None:
    for seen in (view(v2, "/gone/away", init=None), View({}, proc="/nonexistent", sys="/nonexistent", init_pid=1)):
        for each in LEAVES:
            each.read(seen)


def test_each_leaf_stands_once() -> None:
    paths = [leaf.path for leaf in LEAVES]
    assert len(set(paths)) == len(paths)
    assert {path.split("/")[1] for path in paths} == {"proc", "sys"}


def test_cpumap_is_printed_as_the_kernel_prints_it(v2: Tree) -> None:
    v2.write("cpuset.cpus.effective", "")
    unlimited = view(v2, "/")
    assert cpus.cpumap(0, unlimited) == b"0f\n"
    assert cpus.cpumap(1, unlimited) == b"00000000,000000f0\n"


# -- sysinfo(2), sched_getaffinity(2), the follower ----------------------------------------------------------------------


def test_sysinfo_says_what_the_files_say(v2: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share.time, "clock_gettime_ns", lambda _clock: 1100 * SECOND)
    seen = view(v2)
    found = sysinfo.sysinfo(seen)
    assert (found.totalram, found.freeram, found.sharedram) == (512 << 20, 312 << 20, 10 << 20)
    assert (found.totalswap, found.freeswap) == (256 << 20, 252 << 20)
    assert (found.uptime, found.procs) == (101, 17), "do_sysinfo() rounds up"
    loadavg.load(seen).averages = [FIXED_1, FIXED_1 // 2, 0]
    assert sysinfo.sysinfo(seen).loads == (1 << 16, 1 << 15, 0)


def test_the_structure_is_the_kernels() -> None:
    """The layout of include/uapi/linux/sysinfo.h, with `long`s of 64 and of 32 bits."""
    found = Sysinfo(7, (1, 2, 3), 8 << 30, 1 << 30, 0, 0, 4096, 0, 70_000)
    wide, narrow = found.pack(64), found.pack(32)
    assert (len(wide), len(narrow)) == (112, 64)
    assert struct.unpack_from("=q3Q3Q", wide) == (7, 1, 2, 3, 8 << 30, 1 << 30, 0)
    assert struct.unpack_from("=H", wide, 80) == (0xFFFF,)
    assert struct.unpack_from("=I", wide, 104) == (1,)
    assert struct.unpack_from("=i3I2I", narrow) == (7, 1, 2, 3, 8 << 18, 1 << 18)
    assert struct.unpack_from("=I", narrow, 52) == (4096,)
    assert struct.unpack_from("=I", Sysinfo(0, (0, 0, 0), 1 << 31, 0, 0, 0, 0, 0, 1).pack(32), 52) == (1,)


def test_affinity_is_what_the_files_show(v2: Tree) -> None:
    seen = view(v2)
    assert cpus.affinity(seen, {2, 3, 4, 5}) == [2, 3]
    assert cpus.affinity(seen, {3, 4, 5}) == [3]
    assert cpus.affinity(seen, {5}) == [5], "a task's own choice"
    assert cpus.affinity(seen, {4, 5, 6}) == [4, 5], "but not more than the quota is worth"


def test_loads_are_followed_when_nobody_asks(v2: Tree) -> None:
    seen, asked = view(v2), threading.Event()

    def views() -> list[View]:
        if seen.state.get("/proc/loadavg"):
            asked.set()
        return [View({}, proc="/nonexistent"), seen]

    follower = Follower(views, loadavg.load, every=0.001, name="load")
    follower.start()
    assert asked.wait(10)
    follower.stop()
    follower.stop()


def test_product_uuid_is_one_container_s_and_stays() -> None:
    one, other = View({}, name="a" * 64), View({}, name="b" * 64)
    assert dmi.product_uuid(one) == dmi.product_uuid(View({}, name="a" * 64)) == dmi.product_uuid(views.inner({}, one))
    assert dmi.product_uuid(one) != dmi.product_uuid(other)
    assert re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", dmi.product_uuid(one))


def test_whoever_shows_cpus_elsewhere_hears_of_a_change_before_anybody_is_shown_it(
    v2: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, told, now = view(v2), list[int](), 0
    monkeypatch.setattr(share.time, "monotonic_ns", lambda: now)
    seen.state[share.ON_CPUS] = lambda: told.append(len(share.cpus_now(seen).visible))
    first = len(share.cpus(seen).visible)
    now += SECOND
    share.cpus(seen)
    assert told == [first], "once, while nothing changes"
    v2.write(f"{SCOPE[1:]}/cpu.max", "100000 100000\n")
    now += SECOND
    assert len(share.cpus(seen).visible) == 1
    assert told == [first, 1]
