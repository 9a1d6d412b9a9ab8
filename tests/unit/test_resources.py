"""What a container may use, from recorded cgroup trees; tests/kernel/test_resources_cgroups.py asks the kernel's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cgroup_trees import Tree

from runtime import mountinfo, resources
from runtime.resources import Cgroups, CpuUsage, HostMemory, Io

if TYPE_CHECKING:
    from pathlib import Path

MiB = 1 << 20
HOST = HostMemory(total=8192 * MiB, available=6000 * MiB, swap_total=2048 * MiB, swap_free=1024 * MiB)
SCOPE = "/system.slice/docker-1.scope"


@pytest.fixture
def v1(tmp_path: Path) -> Tree:
    return Tree("v1", tmp_path)


@pytest.fixture
def v2(tmp_path: Path) -> Tree:
    return Tree("v2", tmp_path)


# -- where the cgroups are -------------------------------------------------------------------------------------------

HYBRID = """\
30 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw
31 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:31 /pods /mnt/pods rw - cgroup cgroup rw,pids
34 30 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 30 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def found(membership: str) -> dict[str, tuple[str, ...]]:
    return resources.directories(membership, mountinfo.parse(HYBRID))


def test_a_cgroup_is_its_directory_and_those_above() -> None:
    at = "/sys/fs/cgroup/cpu,cpuacct"
    assert found("4:cpu,cpuacct:/docker/a\n") == dict.fromkeys(
        ("cpu", "cpuacct"), (f"{at}/docker/a", f"{at}/docker", at)
    )
    assert found("0::/x\n") == {"": ("/sys/fs/cgroup/unified/x", "/sys/fs/cgroup/unified")}
    assert found("1:name=systemd:/\n") == {"name=systemd": ("/sys/fs/cgroup/systemd",)}


def test_a_mount_of_a_part_reaches_as_far_up_as_it_does() -> None:
    assert found("3:pids:/pods/a\n") == {"pids": ("/mnt/pods/a", "/mnt/pods")}
    assert found("3:pids:/podsother/a\n") == {}


@pytest.mark.parametrize(
    "line", ["", "nonsense", "4:memory", "5:memory:relative", "0::/../outside", "9:hugetlb:/a", "::", "x:y:z:/"]
)
def test_what_cannot_be_found_is_left_out(line: str) -> None:
    assert found(line + "\n") == {}


def test_hostile_names_are_only_names() -> None:
    at = "/sys/fs/cgroup/memory"
    assert found("4:memory:/a:b/… (deleted)\n")["memory"] == (f"{at}/a:b/… (deleted)", f"{at}/a:b", at)
    assert found("4:memory:/..a/b\n")["memory"] == (f"{at}/..a/b", f"{at}/..a", at)
    forged = "/a\x1c4:memory:/b\u20284:memory:/c\udcff"
    assert found(f"4:memory:{forged}\n")["memory"][0] == f"{at}{forged}", "only newlines end lines"
    deep = found(f"4:memory:{'/d' * 2000}\n")["memory"]
    assert len(deep) < 64, "of a deep path the two ends are looked at"
    assert deep[0].endswith("/d" * 2000)
    assert deep[-3:] == (f"{at}/d/d", f"{at}/d", at)


def test_a_controller_that_no_v1_hierarchy_has_taken_is_v2s() -> None:
    place = Cgroups.of(found("4:memory:/a\n0::/b\n"))
    assert place.memory
    assert not place.memory.unified
    assert place.cpu == place.unified
    assert place.cpu
    assert place.cpu.unified


# -- memory ----------------------------------------------------------------------------------------------------------


def test_memory_of_v1(v1: Tree) -> None:
    used = resources.memory(v1.cgroups("/docker/box"))
    assert (used.limit, used.swap_limit, used.usage) == (512 * MiB, 512 * MiB, 20844544)
    assert used.stat["file"] == 20000768
    shown = resources.visible_memory(used, HOST)
    assert shown.total == 512 * MiB
    assert shown.free == 512 * MiB - 20844544
    assert shown.available == shown.free + 20000768
    assert (shown.swap_total, shown.swap_free) == (512 * MiB, 512 * MiB)


def test_memory_of_v2(v2: Tree) -> None:
    used = resources.memory(v2.cgroups(SCOPE))
    assert (used.limit, used.usage) == (512 * MiB, 200 * MiB), "memory.high is no limit"
    shown = resources.visible_memory(used, HOST)
    assert (shown.total, shown.free) == (512 * MiB, 312 * MiB)
    assert shown.available == (312 + 40 + 30 + 8) * MiB
    assert (shown.cached, shown.shared) == (80 * MiB, 10 * MiB)
    assert (shown.swap_total, shown.swap_free) == (256 * MiB, 252 * MiB)


def test_an_inner_container_sees_its_own_limit_and_use(v2: Tree) -> None:
    shown = resources.visible_memory(resources.memory(v2.cgroups(f"{SCOPE}/docker/inner")), HOST)
    assert (shown.total, shown.free, shown.swap_total) == (64 * MiB, 48 * MiB, 0)


def test_what_is_available_is_what_every_level_leaves(v2: Tree) -> None:
    v2.write("system.slice/docker-1.scope/memory.current", str(510 * MiB))
    v2.write("system.slice/docker-1.scope/memory.stat", "anon 0\n")
    shown = resources.visible_memory(resources.memory(v2.cgroups(f"{SCOPE}/docker/inner")), HOST)
    assert (shown.free, shown.available) == (48 * MiB, 2 * MiB), "the outer container is nearly full"
    poor = HostMemory(HOST.total, available=1 * MiB)
    assert resources.visible_memory(resources.memory(v2.cgroups(SCOPE)), poor).available == 1 * MiB, "so is the host"


def test_a_limit_below_narrows_and_never_widens(v2: Tree) -> None:
    v2.write("system.slice/docker-1.scope/docker/inner/memory.max", str(1 << 50))
    assert resources.memory(v2.cgroups(f"{SCOPE}/docker/inner")).limit == 512 * MiB
    v2.write("system.slice/memory.max", str(100 * MiB))
    assert resources.memory(v2.cgroups(SCOPE)).limit == 100 * MiB


def test_without_a_limit_the_host_is_one(v2: Tree) -> None:
    v2.write("system.slice/docker-1.scope/memory.max", "max\n")
    v2.write("system.slice/docker-1.scope/memory.swap.max", "max\n")
    shown = resources.visible_memory(resources.memory(v2.cgroups(SCOPE)), HOST)
    assert (shown.total, shown.free, shown.swap_total) == (8192 * MiB, 7992 * MiB, 2048 * MiB)
    assert shown.available == HOST.available
    v2.write("system.slice/docker-1.scope/memory.max", str(1 << 60))
    assert resources.visible_memory(resources.memory(v2.cgroups(SCOPE)), HOST).total == 8192 * MiB


def test_the_limit_of_v1_that_means_none(v1: Tree) -> None:
    used = resources.memory(v1.cgroups("/docker"))
    assert (used.limit, used.swap_limit, used.headroom) == (None, None, None)


def test_without_swap_accounting_the_hosts_swap_is_shown(v1: Tree) -> None:
    stat = (v1.directory / "memory/docker/box/memory.stat").read_text(encoding="ascii")
    kept = [line for line in stat.splitlines() if "swap" not in line and "memsw" not in line]
    v1.write("memory/docker/box/memory.stat", "\n".join(kept))
    shown = resources.visible_memory(resources.memory(v1.cgroups("/docker/box")), HOST)
    assert (shown.swap_total, shown.swap_free) == (HOST.swap_total, HOST.swap_free)


def test_more_used_than_allowed_leaves_nothing(v2: Tree) -> None:
    v2.write("system.slice/docker-1.scope/memory.max", str(100 * MiB))
    shown = resources.visible_memory(resources.memory(v2.cgroups(SCOPE)), HOST)
    assert (shown.total, shown.free) == (100 * MiB, 0)
    assert 0 <= shown.available <= shown.total


# -- CPUs ------------------------------------------------------------------------------------------------------------


def test_the_quota_of_v1_is_rounded_up(v1: Tree) -> None:
    assert resources.cpus(v1.cgroups("/docker/box"), range(2)).visible == (0, 1)
    v1.write("cpu/docker/box/cpu.cfs_quota_us", "50000\n")
    assert resources.cpus(v1.cgroups("/docker/box"), range(2)).visible == (0,)
    v1.write("cpu/docker/box/cpu.cfs_quota_us", "-1\n")
    assert resources.quota(v1.cgroups("/docker/box")) is None


def test_cpus_of_v2_are_the_cpusets_as_far_as_the_quota_goes(v2: Tree) -> None:
    seen = resources.cpus(v2.cgroups(SCOPE), range(8))
    assert (seen.usable, seen.visible) == ((2, 3, 4, 5), (2, 3))
    assert resources.cpus(v2.cgroups(f"{SCOPE}/docker/inner"), range(8)).visible == (2,)
    assert resources.cpus(v2.cgroups(SCOPE), (0, 1, 5)).visible == (5,), "the others are offline"


def test_the_tightest_quota_up_the_path_counts(v2: Tree) -> None:
    v2.write("system.slice/docker-1.scope/docker/inner/cpu.max", "900000 100000\n")
    assert resources.quota(v2.cgroups(f"{SCOPE}/docker/inner")) == 2
    v2.write("system.slice/cpu.max", "1000 1000000\n")
    assert resources.quota(v2.cgroups(f"{SCOPE}/docker/inner")) == 1, "a hundredth of a CPU is still one to see"


@pytest.mark.parametrize("text", ["", "max", "\0\0", "50000", "50000 0", "x y", "1 2 3", "-5 -5", "٣ ٣"])
def test_a_quota_that_cannot_be_understood_is_none(v2: Tree, text: str) -> None:
    (v2.directory / "system.slice/docker-1.scope/cpu.max").write_bytes(text.encode())
    assert resources.quota(v2.cgroups(SCOPE)) is None


def test_cpu_time(v1: Tree, v2: Tree) -> None:
    assert resources.cpu_usage(v1.cgroups("/docker/box")) == CpuUsage(
        user=350_000_000, system=50_000_000, per_cpu=(58355070, 348858970)
    )
    assert resources.cpu_usage(v2.cgroups(SCOPE)) == CpuUsage(
        user=41_000_000_000, system=20_000_000_000, nice=1_000_000_000, throttled=3_000_000_000
    )


def test_a_cgroup_that_is_gone_does_not_show_everybodys(v1: Tree, v2: Tree) -> None:
    assert resources.cpu_usage(v1.cgroups("/gone")) == CpuUsage()
    assert resources.cpu_usage(v2.cgroups("/gone")) == CpuUsage()
    assert resources.memory(v1.cgroups("/gone")).usage == 0
    assert resources.io(v2.cgroups("/gone")) == {}


@given(st.sets(st.integers(0, 4000), max_size=200))
def test_a_list_of_cpus_and_back(numbers: set[int]) -> None:
    assert resources.parse_list(resources.format_list(sorted(numbers)).encode()) == sorted(numbers)


@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"-1", b"0-99999999999", b"1,,2", b"\xff"])
def test_no_list_of_cpus(text: bytes) -> None:
    assert resources.parse_list(text) == []


# -- io, tasks, pressure -----------------------------------------------------------------------------------------------


def test_io_of_v2(v2: Tree) -> None:
    assert resources.io(v2.cgroups(SCOPE)) == {
        (8, 0): Io(read_bytes=1310720, written_bytes=4096, reads=40, writes=1),
        (253, 1): Io(read_bytes=8192, reads=2, discarded_bytes=16384, discards=1),
    }
    assert resources.io(v2.cgroups("/")) == {}, "the root's are everybody's"


def test_io_of_v1(v1: Tree) -> None:
    v1.write("blkio/docker/box/blkio.throttle.io_service_bytes_recursive", "8:0 Read 512\n8:0 Write 1024\nTotal 1536\n")
    v1.write("blkio/docker/box/blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n")
    assert resources.io(v1.cgroups("/docker/box")) == {
        (8, 0): Io(read_bytes=512, written_bytes=1024, reads=1, writes=2)
    }
    v1.write("blkio/docker/box/blkio.throttle.io_service_bytes_recursive", "Total 0\n")
    v1.write("blkio/docker/box/blkio.throttle.io_serviced_recursive", "Total 0\n")
    v1.write("blkio/docker/box/blkio.bfq.io_service_bytes_recursive", "8:16 Read 7\nTotal 7\n")
    assert resources.io(v1.cgroups("/docker/box")) == {(8, 16): Io(read_bytes=7)}


def test_tasks_kills_and_pressure(v1: Tree, v2: Tree) -> None:
    assert resources.tasks(v2.cgroups(SCOPE)) == 17
    assert resources.tasks(v1.cgroups("/docker/box")) is None, "that host does not count them"
    assert resources.memory_events(v2.cgroups(SCOPE))["oom_kill"] == 1
    assert resources.memory_events(v1.cgroups("/docker/box"))["pgfault"] == 81
    assert resources.pressure_directory(v2.cgroups(SCOPE)) == f"{v2.directory}{SCOPE}"
    assert resources.pressure_directory(v2.cgroups(f"{SCOPE}/docker/inner")) is None
    assert resources.pressure_directory(v1.cgroups("/docker/box")) is None
